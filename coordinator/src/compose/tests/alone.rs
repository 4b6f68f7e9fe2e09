//! The steps by themselves.

use inkstone_composition::SystemText;

use super::*;

fn params() -> StepParams {
    StepParams {
        model: String::new(),
        sampling: None,
        seed: 5,
        system: SystemText::None,
    }
}

fn segments() -> Vec<String> {
    ["Title", "One.", "Two."].map(str::to_owned).into()
}

#[tokio::test]
async fn places_are_suggested() {
    let world = World::without_source();
    world.says("call", "<Seg2>，<Seg1>");
    let ask = SuggestLocations {
        params: params(),
        segments: segments(),
        count: None,
        pictures: vec![Bytes::from_static(b"one")],
    };
    let suggested = world
        .composer
        .suggest_locations(caller("t"), ask)
        .await
        .unwrap();
    assert_eq!(suggested.places.places, [1, 2]);
    assert_eq!(suggested.raw, "<Seg2>，<Seg1>");
    assert!(!suggested.is_shortened && !suggested.places.by_default);
    let asked = &world.asked("call")[0];
    assert_eq!(asked.sampling.seed, 5);
    assert_eq!(asked.cache_salt, Bytes::from_static(b"t"));
    assert_eq!(world.cluster.vision_workers[0].uploads().len(), 1);
    assert_eq!(
        world.composer.with_store(|store, _| store.num_articles()),
        0
    );
}

#[tokio::test]
async fn a_caption_is_suggested() {
    let world = World::without_source();
    world.says("call", "a red house\" or so");
    let ask = SuggestCaption {
        params: params(),
        segments: segments(),
        location: 2,
        earlier: vec![(1, "a boat".into())],
    };
    let suggested = world
        .composer
        .suggest_caption(caller(""), ask)
        .await
        .unwrap();
    assert_eq!(suggested.caption, "a red house");
    let asked = &world.asked("call")[0];
    let ids: Vec<u32> = asked
        .prompt
        .iter()
        .flat_map(|piece| match piece {
            crate::worker_client::PromptPiece::Tokens(ids) => ids.clone(),
            crate::worker_client::PromptPiece::Picture(_) => vec![],
        })
        .collect();
    let prompt = fake::tokenizer().decode(&ids);
    assert!(
        prompt.contains("<Seg1>后插入图像对应的标题是\"a boat\"。"),
        "{prompt}"
    );
}

#[tokio::test]
async fn a_picture_is_selected() {
    let world = World::without_source();
    let ask = |candidates: &[&'static str]| SelectImage {
        params: params(),
        segments: segments(),
        location: 2,
        earlier: vec![(0, Bytes::from_static(b"zero"))],
        candidates: candidates
            .iter()
            .map(|data| Bytes::from_static(data.as_bytes()))
            .collect(),
    };
    world.says("call", ": B");
    let selected = world
        .composer
        .select_image(caller(""), ask(&["one", "two"]))
        .await
        .unwrap();
    assert_eq!(
        (selected.choice.candidate, selected.raw.as_str()),
        (1, ": B")
    );
    let only = world
        .composer
        .select_image(caller(""), ask(&["one"]))
        .await
        .unwrap();
    assert_eq!((only.choice.candidate, only.raw.as_str()), (0, ""));
    assert_eq!(world.asked("call").len(), 1, "one is not asked about");
    let refused = world
        .composer
        .select_image(caller(""), ask(&["one", "corrupt"]))
        .await;
    let Err(RequestError::PictureRefused(violations)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(violations[0].path, "candidates[1]");
}

#[tokio::test]
async fn pictures_are_searched_for_no_article() {
    let world = World::new();
    let search = |caption: &str| SearchImages {
        caption: caption.into(),
        article: None,
        max_pictures: 3,
        exclude: vec!["shelf-0".into()],
    };
    let found = world
        .composer
        .search_images(caller(""), search(" a house\n"))
        .await
        .unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].data, Some(Bytes::from_static(b"picture 1")));
    assert_eq!(world.shelf.searches()[0].caption, "a house");
    let refused = world
        .composer
        .search_images(caller(""), search(" \n"))
        .await;
    assert!(matches!(refused, Err(RequestError::Invalid(_))));
    world.shelf.fails.store(true, Ordering::SeqCst);
    let failed = world
        .composer
        .search_images(caller(""), search("x"))
        .await
        .unwrap_err();
    assert_eq!(failed.reason(), "PICTURE_SOURCE_FAILED");
    let nowhere = World::without_source();
    let refused = nowhere
        .composer
        .search_images(caller(""), search("x"))
        .await;
    assert_eq!(refused.err(), Some(ArticleError::NoPictureSource.into()));
}
