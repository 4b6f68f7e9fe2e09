use super::*;

const ARTICLE: [&str; 4] = ["T", "one", "two", "three"];

#[test]
fn places_are_asked_for_in_the_official_words() {
    assert_eq!(
        places(&ARTICLE[..2], Some(3)),
        "给定文章\"<Seg0> T\n<Seg1> one\n\" 根据上述文章，选择适合插入图像的3行"
    );
    assert!(places(&ARTICLE, None).ends_with("选择适合插入图像的行"));
    assert_eq!(places_answer(&[1, 3]), "<Seg1>，<Seg3>。");
}

#[test]
fn a_caption_is_asked_for_with_the_text_up_to_the_next_paragraph_and_the_captions_so_far() {
    assert_eq!(
        caption(&ARTICLE, &[], 1),
        "给定文章\"<Seg0> T\n<Seg1> one\n<Seg2> two\n\" 给出适合在<Seg1>后插入的图像对应的标题。"
    );
    let past = [(1, "a".to_owned()), (2, "b".to_owned())];
    assert_eq!(
        caption(&ARTICLE, &past, 3),
        "给定文章\"<Seg0> T\n<Seg1> one\n<Seg2> two\n<Seg3> three\n\" 现在<Seg1>后插入图像对应的标题是\"a\"， \
         <Seg2>后插入图像对应的标题是\"b\"。给出适合在<Seg3>后插入的图像对应的标题。"
    );
}

#[test]
fn edits_are_asked_for_in_the_official_words() {
    assert_eq!(rewrite("t", "m"), "改写以下段落：t\n基于以下素材：m");
    assert_eq!(expand("t", ""), "扩写以下段落：t\n基于以下素材：");
    assert_eq!(abbreviate("t"), "缩写以下段落：t");
    assert_eq!(
        insert("", "t", "m"),
        "在以下两段中插入一段。\n第一段：\n第二段：t\n插入段的大纲：m"
    );
}
