//! What clients met with: whether all was right, and how long they waited.

use std::{
    collections::BTreeMap,
    fmt,
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use inkstone_proto::v1::RoutingReceipt;
use tonic::metadata::MetadataMap;

/// Clients of a busy machine hear of two events in another order than they were sent in; not by more than this.
const HEARD_LATE: Duration = Duration::from_secs(1);

/// Who ran a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The group.
    pub group: String,
    /// Its life.
    pub epoch: u64,
    /// How often the request was moved.
    pub moves: u32,
}

impl From<RoutingReceipt> for Receipt {
    fn from(receipt: RoutingReceipt) -> Self {
        Self {
            group: receipt.group,
            epoch: receipt.epoch,
            moves: receipt.moves,
        }
    }
}

impl Receipt {
    /// What the end of a call says.
    pub fn from_trailers(trailers: &MetadataMap) -> Option<Self> {
        let text = |name: &str| trailers.get(name)?.to_str().ok();
        Some(Self {
            group: text("inkstone-group")?.to_owned(),
            epoch: text("inkstone-epoch")?.parse().ok()?,
            moves: text("inkstone-moves")?.parse().ok()?,
        })
    }
}

/// What came of one request.
#[derive(Debug)]
pub struct Outcome {
    /// Its kind.
    pub kind: &'static str,
    /// Whom the client asked.
    pub coordinator: String,
    /// When it first asked.
    pub started: Instant,
    /// When the last event, or the error, came.
    pub ended: Instant,
    /// When events came.
    pub events: Vec<Instant>,
    /// Who ran it, as was said at the start and at the end.
    pub receipts: Vec<(Instant, Receipt)>,
    /// How often it was asked to come back, or went to another coordinator, before it was taken.
    pub turned_away: u32,
    /// What was wrong.
    pub failure: Option<String>,
}

impl Outcome {
    /// How often it was moved.
    pub fn moves(&self) -> u32 {
        let moves = self.receipts.iter().map(|(_, receipt)| receipt.moves);
        moves.max().unwrap_or(0)
    }

    fn is_open_at(&self, moment: Instant) -> bool {
        let first = self.events.first();
        first.is_some_and(|first| *first <= moment) && self.ended >= moment
    }

    /// The longest time without an event that ended after this moment.
    fn longest_pause(&self, since: Instant) -> Duration {
        let pauses = self.events.windows(2).filter(|pair| pair[1] >= since);
        let pauses = pauses.map(|pair| pair[1] - pair[0]);
        pauses.max().unwrap_or_default()
    }
}

/// What came of all requests.
pub struct Report {
    outcomes: Vec<Outcome>,
    excused: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(outcomes: Vec<Outcome>) -> Self {
        Self {
            outcomes,
            excused: Vec::new(),
        }
    }

    /// Puts failures aside for which there is an excuse: their coordinator was killed.
    pub fn excuse(&mut self, has_excuse: impl Fn(&Outcome) -> bool) {
        let outcomes = std::mem::take(&mut self.outcomes);
        let (excused, others) = outcomes
            .into_iter()
            .partition(|one| one.failure.is_some() && has_excuse(one));
        self.outcomes = others;
        self.excused.extend::<Vec<Outcome>>(excused);
    }

    /// Requests, without those that were excused.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// What came of each.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Failures that were excused.
    pub fn num_excused(&self) -> usize {
        self.excused.len()
    }

    /// Requests that were moved.
    pub fn num_moved(&self) -> usize {
        self.outcomes.iter().filter(|one| one.moves() > 0).count()
    }

    /// The longest time without an event that any running stream of these had after this moment.
    pub fn longest_pause(&self, since: Instant, of: impl Fn(&Outcome) -> bool) -> Duration {
        let running = self.outcomes.iter().filter(|one| of(one));
        let pauses = running.map(|one| one.longest_pause(since));
        pauses.max().unwrap_or_default()
    }

    /// Every answer was, token for token, the one that nothing disturbed; and no epoch went back.
    #[track_caller]
    pub fn assert_right(&self) {
        let failed = self.outcomes.iter().filter(|one| one.failure.is_some());
        let lines: Vec<String> = failed.map(ToString::to_string).collect();
        assert!(
            lines.is_empty(),
            "{} of {} requests failed:\n{}",
            lines.len(),
            self.outcomes.len(),
            lines.join("\n")
        );
        self.assert_epochs_never_go_back();
    }

    /// Once a coordinator gave a request to a life of a group, it gives none to an earlier one.
    #[track_caller]
    fn assert_epochs_never_go_back(&self) {
        let mut heard: BTreeMap<(&str, &str), Vec<(Instant, u64)>> = BTreeMap::new();
        for outcome in &self.outcomes {
            let mut last: Option<&Receipt> = None;
            for (when, receipt) in &outcome.receipts {
                let of = (outcome.coordinator.as_str(), receipt.group.as_str());
                heard.entry(of).or_default().push((*when, receipt.epoch));
                let goes_back = last
                    .is_some_and(|last| last.group == receipt.group && last.epoch > receipt.epoch);
                assert!(!goes_back, "{last:?}, then {receipt:?}");
                last = Some(receipt);
            }
        }
        for ((coordinator, group), mut epochs) in heard {
            epochs.sort_unstable();
            let mut highest = (epochs[0].0, 0);
            for (when, epoch) in epochs {
                assert!(
                    epoch >= highest.1 || when - highest.0 < HEARD_LATE,
                    "{coordinator} gave a request to epoch {epoch} of {group} after epoch {}",
                    highest.1
                );
                if epoch > highest.1 {
                    highest = (when, epoch);
                }
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} from {} after {:.1} s, {} events, {} moves, {:?}: {}",
            self.kind,
            self.coordinator,
            (self.ended - self.started).as_secs_f64(),
            self.events.len(),
            self.moves(),
            self.receipts
                .iter()
                .map(|(_, it)| (&it.group, it.epoch))
                .collect::<Vec<_>>(),
            self.failure.as_deref().unwrap_or("right"),
        )
    }
}

/// A line of the table of recoveries.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// What was done.
    pub fault: &'a str,
    /// When.
    pub at: Instant,
    /// How long until all that is wanted served again, where that was waited for.
    pub serving_again: Option<Duration>,
}

impl Report {
    /// Adds a line to the table in `folder`, and says it.
    pub fn tabulate(&self, folder: &Path, row: Row<'_>) {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let running = self.outcomes.iter().filter(|one| one.is_open_at(row.at));
        let moved = |one: &Outcome| one.moves() > 0;
        let stayed = |one: &Outcome| one.moves() == 0;
        let failed = self.outcomes.iter().filter(|one| one.failure.is_some());
        let line = format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.fault,
            self.outcomes.len(),
            running.count(),
            self.num_moved(),
            failed.count(),
            seconds(self.longest_pause(row.at, moved)),
            seconds(self.longest_pause(row.at, stayed)),
            row.serving_again.map_or_else(|| "-".into(), seconds),
        );
        eprintln!("{line}");
        let path = folder.join("recovery.md");
        let append = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            if file.metadata()?.len() == 0 {
                writeln!(file, "{TABLE_HEAD}")?;
            }
            writeln!(file, "{line}")
        };
        append().unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

/// The head of the table.
const TABLE_HEAD: &str = "| fault | requests | running then | moved | failed | longest pause of those | longest pause of the others | all serve again after |\n|---|---|---|---|---|---|---|---|";
