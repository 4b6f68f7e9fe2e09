//! A cluster as a page of text.

use inkstone_proto::v1::{
    Cluster, Deployment, GroupLoad, LanguageGroup, Node, NodeRole, Part, Phase, RegistryStatus,
};

use crate::commands::table::{Cell, Style, Tone, bar, bytes, count, table};

const KV_BAR: usize = 12;
const LOADING_BAR: usize = 10;

/// The whole page.
pub(super) fn of(cluster: &Cluster, style: Style) -> String {
    let mut page = head(cluster, style);
    let sections = [
        groups(cluster, style),
        vision(cluster, style),
        nodes(cluster, style),
        coordinators(cluster, style),
    ];
    for section in sections.into_iter().flatten() {
        page += "\n";
        page += &section;
    }
    page
}

/// What is wanted, in words.
pub(super) fn wanted(deployment: &Deployment) -> String {
    let groups = plural(deployment.language_replicas, "language group");
    let ranks = plural(deployment.tensor_parallel, "rank");
    let vision = plural(deployment.vision_replicas, "vision worker");
    let model = match deployment.model.as_str() {
        "" => String::new(),
        model => format!(" of {model}"),
    };
    format!("{groups} of {ranks}, {vision}{model}")
}

fn head(cluster: &Cluster, style: Style) -> String {
    let title = |text: &str| style.paint(&format!("{text:<9}"), Tone::Bold);
    let registry = match cluster.registry() {
        RegistryStatus::Connected => style.paint("answers", Tone::Good),
        RegistryStatus::Away => style.paint(
            "does not answer: this is the last that is known, and all serve on",
            Tone::Bad,
        ),
        RegistryStatus::None | RegistryStatus::Unspecified => {
            return format!("{} a fixed list of members\n", title("cluster"));
        }
    };
    let placer = match cluster.placer.as_str() {
        "" => style.paint("nobody", Tone::Bad),
        placer => clean(placer),
    };
    let wanted = match &cluster.deployment {
        Some(deployment) => clean(&wanted(deployment)),
        None => style.paint("nothing yet: `inkstone scale` says what", Tone::Busy),
    };
    let mut head = format!("{} {registry}\n", title("registry"));
    head += &format!("{} {placer}\n", title("placing"));
    head += &format!("{} {wanted}\n", title("wanted"));
    for shortfall in &cluster.shortfalls {
        let text = format!("! {}", clean(shortfall));
        head += &format!("{} {}\n", title(""), style.paint(&text, Tone::Bad));
    }
    head
}

fn groups(cluster: &Cluster, style: Style) -> Option<String> {
    let titles = [
        "GROUP", "EPOCH", "PHASE", "NODES", "RUN", "WAIT", "KV CACHE", "HITS", "ROWS/S", "STEPS",
    ];
    let rows: Vec<_> = cluster.groups.iter().map(group).collect();
    (!rows.is_empty()).then(|| table(style, &titles, &rows))
}

fn group(group: &LanguageGroup) -> Vec<Cell> {
    let mut row = vec![
        Cell::new(&group.name),
        epoch(group.epoch),
        phase(
            group.phase(),
            group.loaded_bytes,
            group.total_bytes,
            &group.reason,
        ),
        Cell::new(ranks(&group.ranks)),
    ];
    match &group.load {
        Some(load) => row.extend(load_cells(load)),
        None => row.extend([
            Cell::none(),
            Cell::none(),
            Cell::none(),
            Cell::none(),
            Cell::none(),
            Cell::none(),
        ]),
    }
    row
}

fn load_cells(load: &GroupLoad) -> [Cell; 6] {
    let share = |part: u32| f64::from(part) / f64::from(load.blocks_total.max(1));
    let (used, cached) = (share(load.blocks_used), share(load.blocks_cached));
    let percent = (used * 100.0).round();
    let hits = match load.prompt_tokens {
        0 => Cell::none(),
        tokens => {
            let rate = load.cached_prompt_tokens as f64 / tokens as f64 * 100.0;
            Cell::number(format!("{rate:.0}%"))
        }
    };
    let rows = match load.rows_per_second {
        rows if rows > 0.0 => Cell::number(count(rows.into())),
        _ => Cell::none(),
    };
    [
        Cell::number(load.running.to_string()),
        Cell::number(load.waiting.to_string()),
        Cell::new(format!("{} {percent:>3}%", bar(used, cached, KV_BAR))),
        hits,
        rows,
        Cell::number(count(load.steps as f64)),
    ]
}

fn vision(cluster: &Cluster, style: Style) -> Option<String> {
    let rows: Vec<_> = cluster
        .vision_workers
        .iter()
        .map(|worker| {
            vec![
                Cell::new(&worker.node),
                epoch(worker.epoch),
                phase(
                    worker.phase(),
                    worker.loaded_bytes,
                    worker.total_bytes,
                    &worker.reason,
                ),
            ]
        })
        .collect();
    (!rows.is_empty()).then(|| table(style, &["VISION", "EPOCH", "PHASE"], &rows))
}

fn nodes(cluster: &Cluster, style: Style) -> Option<String> {
    let titles = [
        "NODE", "HOST", "ROLES", "DEVICES", "MODEL", "DOES", "VERSION",
    ];
    let rows: Vec<_> = cluster.nodes.iter().map(node).collect();
    (!rows.is_empty()).then(|| table(style, &titles, &rows))
}

fn node(node: &Node) -> Vec<Cell> {
    let roles: Vec<_> = node
        .roles()
        .map(|role| match role {
            NodeRole::Language => "language",
            NodeRole::Vision => "vision",
            NodeRole::Unspecified => "?",
        })
        .collect();
    let memory = match node.memory_bytes {
        0 => String::new(),
        memory => format!(" of {}", bytes(memory)),
    };
    vec![
        Cell::new(&node.name),
        Cell::new(&node.host),
        Cell::new(roles.join(" ")),
        Cell::new(format!("{} {}{memory}", node.devices, node.device_kind)),
        Cell::new(&node.model),
        does(node),
        Cell::toned(&node.version, Tone::Faint),
    ]
}

/// What a node says that it does.
fn does(node: &Node) -> Cell {
    let part = |name: &str, part: &Part| {
        let (word, tone) = word(part.phase());
        let loading = progress(part.phase(), part.loaded_bytes, part.total_bytes);
        (format!("{name} {word}{loading}"), tone)
    };
    let language = node.language.as_ref().map(|p| part(&p.group, p));
    let vision = node.vision.as_ref().map(|p| part("vision", p));
    let mut parts: Vec<(String, Tone)> = language.into_iter().chain(vision).collect();
    if node.draining {
        let text = match parts.is_empty() {
            true => "relieved",
            false => "being relieved",
        };
        parts.push((text.into(), Tone::Busy));
    }
    let tone = [Tone::Bad, Tone::Busy, Tone::Good]
        .into_iter()
        .find(|tone| parts.iter().any(|(_, found)| found == tone));
    let texts: Vec<_> = parts.into_iter().map(|(text, _)| text).collect();
    match texts.is_empty() {
        true => Cell::toned("spare", Tone::Faint),
        false => Cell::toned(texts.join(", "), tone.unwrap_or(Tone::Normal)),
    }
}

fn coordinators(cluster: &Cluster, style: Style) -> Option<String> {
    let rows: Vec<_> = cluster
        .coordinators
        .iter()
        .map(|coordinator| {
            let mut does = vec![];
            if coordinator.name == cluster.placer {
                does.push("places");
            }
            if coordinator.name == cluster.coordinator {
                does.push("answers this");
            }
            vec![
                Cell::new(&coordinator.name),
                Cell::new(&coordinator.address),
                Cell::new(does.join(", ")),
                Cell::toned(&coordinator.version, Tone::Faint),
            ]
        })
        .collect();
    let titles = ["COORDINATOR", "ADDRESS", "", "VERSION"];
    (!rows.is_empty()).then(|| table(style, &titles, &rows))
}

fn epoch(epoch: u64) -> Cell {
    match epoch {
        0 => Cell::none(),
        epoch => Cell::number(epoch.to_string()),
    }
}

fn phase(phase: Phase, loaded: u64, total: u64, reason: &str) -> Cell {
    let (word, tone) = word(phase);
    let loading = progress(phase, loaded, total);
    let reason = match reason {
        "" => String::new(),
        reason => format!(": {}", shorten(reason)),
    };
    Cell::toned(format!("{word}{loading}{reason}"), tone)
}

fn word(phase: Phase) -> (&'static str, Tone) {
    match phase {
        Phase::Unspecified => ("listed", Tone::Faint),
        Phase::Assigned => ("told to start", Tone::Busy),
        Phase::Loading => ("loading", Tone::Busy),
        Phase::Joining => ("joining", Tone::Busy),
        Phase::Ready => ("serving", Tone::Good),
        Phase::Draining => ("finishing", Tone::Busy),
        Phase::Failed => ("failed", Tone::Bad),
        Phase::Lost => ("lost", Tone::Bad),
    }
}

fn progress(phase: Phase, loaded: u64, total: u64) -> String {
    if phase != Phase::Loading || total == 0 {
        return String::new();
    }
    let share = loaded as f64 / total as f64;
    let percent = (share * 100.0).min(100.0);
    let bar = bar(share, 0.0, LOADING_BAR);
    format!(" {bar} {percent:.0}% of {}", bytes(total))
}

/// `a×2` for two ranks on one node, `a b` for one each.
fn ranks(ranks: &[String]) -> String {
    match ranks {
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|rank| rank == first) => {
            format!("{first}×{}", ranks.len())
        }
        ranks => ranks.join(" "),
    }
}

fn shorten(reason: &str) -> String {
    const MOST: usize = 60;
    match reason.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

fn plural(number: u32, word: &str) -> String {
    match number {
        1 => format!("1 {word}"),
        number => format!("{number} {word}s"),
    }
}

/// What comes from the cluster does not steer the terminal.
fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests;
