use inkstone_proto::v1::{Coordinator, VisionWorker};

use super::*;

fn cluster() -> Cluster {
    let load = GroupLoad {
        running: 12,
        waiting: 3,
        blocks_used: 50,
        blocks_cached: 25,
        blocks_total: 100,
        steps: 10_231,
        rows_per_second: 5230.0,
        prompt_tokens: 1000,
        cached_prompt_tokens: 810,
        ..GroupLoad::default()
    };
    Cluster {
        revision: 42,
        registry: RegistryStatus::Connected.into(),
        coordinator: "c1".into(),
        placer: "c2".into(),
        deployment: Some(Deployment {
            model: String::new(),
            language_replicas: 3,
            tensor_parallel: 2,
            vision_replicas: 1,
        }),
        nodes: vec![
            Node {
                name: "a".into(),
                host: "h1".into(),
                roles: vec![NodeRole::Language.into()],
                devices: 2,
                device_kind: "cpu".into(),
                memory_bytes: 16 << 30,
                model: "small".into(),
                version: "0.1.0".into(),
                language: Some(Part {
                    group: "group-0".into(),
                    epoch: 17,
                    phase: Phase::Ready.into(),
                    ..Part::default()
                }),
                ..Node::default()
            },
            Node {
                name: "spare".into(),
                host: "h2".into(),
                roles: vec![NodeRole::Language.into(), NodeRole::Vision.into()],
                devices: 1,
                device_kind: "cpu".into(),
                model: "small".into(),
                version: "0.1.0".into(),
                ..Node::default()
            },
        ],
        groups: vec![
            LanguageGroup {
                name: "group-0".into(),
                epoch: 17,
                ranks: vec!["a".into(), "a".into()],
                phase: Phase::Ready.into(),
                load: Some(load),
                ..LanguageGroup::default()
            },
            LanguageGroup {
                name: "group-1".into(),
                epoch: 119,
                ranks: vec!["b".into(), "c".into()],
                phase: Phase::Loading.into(),
                loaded_bytes: 6 << 30,
                total_bytes: 15 << 30,
                ..LanguageGroup::default()
            },
        ],
        vision_workers: vec![VisionWorker {
            node: "v".into(),
            epoch: 5,
            phase: Phase::Failed.into(),
            reason: "no such file".into(),
            ..VisionWorker::default()
        }],
        coordinators: vec![Coordinator {
            name: "c1".into(),
            address: "http://c1:50051".into(),
            version: "0.1.0".into(),
        }],
        shortfalls: vec!["2 of 3 language groups have a place".into()],
        ..Cluster::default()
    }
}

#[test]
fn the_page_shows_all_that_matters_in_aligned_columns() {
    let wanted = "\
registry  answers
placing   c2
wanted    3 language groups of 2 ranks, 1 vision worker
          ! 2 of 3 language groups have a place

GROUP    EPOCH  PHASE                               NODES  RUN  WAIT  KV CACHE           HITS  ROWS/S  STEPS
group-0     17  serving                             a×2     12     3  ██████▒▒▒░░░  50%   81%    5.2k  10.2k
group-1    119  loading ████░░░░░░ 40% of 15.0 GiB  b c    –    –     –                  –     –       –

VISION  EPOCH  PHASE
v           5  failed: no such file

NODE   HOST  ROLES            DEVICES            MODEL  DOES             VERSION
a      h1    language         2 cpu of 16.0 GiB  small  group-0 serving  0.1.0
spare  h2    language vision  1 cpu              small  spare            0.1.0

COORDINATOR  ADDRESS                        VERSION
c1           http://c1:50051  answers this  0.1.0
";
    assert_eq!(of(&cluster(), Style::Plain), wanted);
}

#[test]
fn a_fixed_list_says_that_it_is_one() {
    let cluster = Cluster {
        registry: RegistryStatus::None.into(),
        groups: vec![LanguageGroup {
            name: "group-0".into(),
            ranks: vec!["http://a:1".into()],
            ..LanguageGroup::default()
        }],
        ..Cluster::default()
    };
    let page = of(&cluster, Style::Plain);
    assert!(
        page.starts_with("cluster   a fixed list of members\n"),
        "{page}"
    );
    assert!(
        page.contains("group-0  –      listed  http://a:1"),
        "{page}"
    );
}

#[test]
fn a_registry_that_is_away_and_an_empty_cluster_are_said_in_words() {
    let cluster = Cluster {
        registry: RegistryStatus::Away.into(),
        ..Cluster::default()
    };
    let page = of(&cluster, Style::Plain);
    assert!(page.contains("does not answer"), "{page}");
    assert!(page.contains("placing   nobody"), "{page}");
    assert!(page.contains("nothing yet"), "{page}");
}

#[test]
fn colours_come_only_where_they_are_wanted() {
    assert!(!of(&cluster(), Style::Plain).contains('\x1b'));
    let coloured = of(&cluster(), Style::Coloured);
    assert!(coloured.contains("\x1b[32mserving\x1b[0m"), "{coloured}");
    assert!(
        coloured.contains("\x1b[31mfailed: no such file\x1b[0m"),
        "{coloured}"
    );
}
