//! Any order of results gives the same article, and every run ends.

use proptest::{collection::vec, prelude::*};

use super::world::{World, drive, drive_in_order};
use crate::{
    ComposeRequest, Picture, PictureCount, StepOrder,
    procedure::{Event, Work},
    tests::{CharMeter, found, upload},
};

#[test]
fn captions_searches_and_choices_run_side_by_side() {
    let request = ComposeRequest {
        picture_count: PictureCount::Fixed(4),
        ..ComposeRequest::of("Write.")
    };
    let world = World::of(5, "<Seg1>，<Seg2>，<Seg3>，<Seg4>");
    // What was begun first comes back last.
    let run = drive(request, &world, &mut |open| open - 1, None);
    assert!(run.most_at_once >= 2);
    assert_eq!(run.pictures().len(), 4);
}

fn any_order() -> impl Strategy<Value = StepOrder> {
    prop_oneof![Just(StepOrder::InTurn), Just(StepOrder::AtOnce)]
}

fn any_request() -> impl Strategy<Value = ComposeRequest> {
    let count = prop_oneof![
        Just(PictureCount::None),
        Just(PictureCount::Automatic),
        (1_usize..6).prop_map(PictureCount::Fixed),
    ];
    (count, 0_usize..4, 1_usize..9, any_order(), any_order()).prop_map(
        |(picture_count, uploads, max_segments, captions, choices)| ComposeRequest {
            picture_count,
            pictures: (0..uploads).map(|at| upload(&at.to_string())).collect(),
            max_segments,
            captions,
            choices,
            ..ComposeRequest::of("Write.")
        },
    )
}

fn any_work() -> impl Strategy<Value = Work> {
    prop_oneof![
        1 => Just(Work::Article),
        1 => Just(Work::Places),
        4 => (0_usize..8).prop_map(|place| Work::Caption { place }),
        4 => (0_usize..8).prop_map(|place| Work::Search { place }),
        4 => (0_usize..8).prop_map(|place| Work::Choice { place }),
    ]
}

fn any_finds() -> impl Strategy<Value = Vec<Picture>> {
    vec("[a-f]".prop_map(|name| found(&name)), 0..6)
}

fn any_world() -> impl Strategy<Value = World> {
    let places = vec(prop_oneof![3 => "<Seg[0-8]>，", 1 => "\\PC{0,3}"], 0..6);
    let texts = prop::collection::btree_map(any_work(), "[A-E\" a]{0,4}", 0..4);
    let finds = prop::collection::btree_map(0_usize..8, any_finds(), 0..4);
    let failing = prop::collection::btree_set(any_work(), 0..3);
    let context = prop_oneof![Just(1_000_000_usize), 40_usize..2500];
    (0_usize..8, places, texts, finds, failing, context).prop_map(
        |(paragraphs, places, answers, finds, failing, context)| World {
            answers,
            finds,
            failing,
            meter: CharMeter {
                context,
                picture: 50,
            },
            ..World::of(paragraphs, &places.concat())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_of_results_gives_the_same_article(
        request in any_request(),
        world in any_world(),
        order in vec(any::<u8>(), 64),
    ) {
        let straight = drive_in_order(request.clone(), &world);
        let mut at = 0;
        let mut choose = |open: usize| {
            at += 1;
            usize::from(order[at % order.len()]) % open
        };
        let mixed = drive(request, &world, &mut choose, None);
        prop_assert_eq!(straight.events.last(), mixed.events.last());
        prop_assert_eq!(&straight.generations, &mixed.generations);
        prop_assert_eq!(&straight.searches, &mixed.searches);
        prop_assert_eq!(straight.events.len(), mixed.events.len());
        // Nothing is shown that nothing offered, and no picture of a source twice.
        if let Some(Event::Done { article }) = mixed.events.last() {
            let mut excluded = article.excluded().to_vec();
            excluded.sort_unstable();
            excluded.dedup();
            prop_assert_eq!(excluded.len(), article.excluded().len());
        }
    }

    #[test]
    fn every_run_ends_when_it_is_cancelled(
        request in any_request(),
        world in any_world(),
        order in vec(any::<u8>(), 16),
        after in 0_usize..40,
    ) {
        let mut at = 0;
        let mut choose = |open: usize| {
            at += 1;
            usize::from(order[at % order.len()]) % open
        };
        // The driver checks that each event and each cancelled run has its place, and that nothing follows.
        let run = drive(request, &world, &mut choose, Some(after));
        prop_assert!(run.events.last().is_some_and(Event::is_last));
    }
}
