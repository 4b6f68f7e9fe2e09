use super::*;

#[test]
fn things_are_found_in_both_languages() {
    assert_eq!(
        things("We saw a large red circle and an orange star, not a red-hot ring."),
        ["a large red circle", "an orange star"]
    );
    assert_eq!(
        things("门口有一个小的蓝色圆环，旁边有一个白色十字形。"),
        ["一个小的蓝色圆环", "一个白色十字形"]
    );
    assert_eq!(
        things("a red sphere"),
        ["a red sphere"],
        "a wrong thing is a thing"
    );
    assert!(things("一个红色的球, a circle").is_empty());
}

#[test]
fn a_followed_request_may_say_it_otherwise() {
    let wanted = "Title\nWe saw a red ring.\nIt was late.";
    assert!(follows(
        wanted,
        "Another\nThere is a red ring here.\nThe end.\n"
    ));
    assert!(
        !follows(wanted, "Another\nThere is a red ring here."),
        "a paragraph short"
    );
    assert!(!follows(
        wanted,
        "Another\nThere is a red star here.\nThe end."
    ));
    assert!(
        !follows(wanted, "Another\nThe end.\nThere is a red ring here."),
        "out of order"
    );
    let chinese = "标题\n门口有一个红色圆环。";
    assert!(
        !follows("Title\nA calm day, a red ring.", chinese),
        "another language"
    );
    assert!(!follows(wanted, "\nThere is a red ring here.\n"), "empty");
    assert!(!follows("It was calm.", "It was late."), "without things");
}
