//! Each scenario is one promise of placing.

use std::time::Duration;

use super::scenario::{Scenario, check, check_plan};

const MOMENT: Duration = Duration::from_millis(100);
const A_WHILE: Duration = Duration::from_secs(2);

#[test]
fn nothing_wanted_changes_nothing() {
    check("node a\n group group-0 3 on a failed", "");
}

#[test]
fn groups_are_made_until_there_are_enough() {
    check(
        "want groups 2 vision 1
         node a
         node b
         node c
         node d vision",
        "+ group-0 on a: 0 of 2 are there
         + group-1 on b: 1 of 2 are there
         + vision on d: 0 of 1 are there",
    );
}

#[test]
fn all_as_wanted_changes_nothing() {
    check(
        "want groups 2 tp 2 vision 1
         node a devices 2
         node b
         node c
         node v vision
         group group-0 3 on a a ready
         group group-1 4 on b c loading
         vision v 5 ready",
        "",
    );
}

#[test]
fn what_has_no_place_is_told() {
    check(
        "want groups 2 tp 2 vision 2
         node a devices 2
         node b
         node v vision",
        "+ group-0 on a×2: 0 of 2 are there
         + vision on v: 0 of 2 are there
         ! 1 of 2 language groups have a place: another needs a free node with 2 devices, or 2 free nodes, 1 is free
         ! 1 of 2 vision workers have a place: no other node may encode pictures",
    );
}

#[test]
fn one_machine_is_preferred_and_the_smallest_that_does() {
    check(
        "want groups 1 tp 2
         node a
         node b
         node c devices 4
         node d devices 2",
        "+ group-0 on d×2: 0 of 1 are there",
    );
}

#[test]
fn several_nodes_are_on_one_host_where_possible() {
    check(
        "want groups 1 tp 2
         node a host x
         node b host y
         node c host y
         node d host z",
        "+ group-0 on b c: 0 of 1 are there",
    );
}

#[test]
fn nodes_that_keep_the_weights_come_first_and_get_their_rank() {
    check(
        "want groups 1 tp 2
         node a host x
         node b host x kept 1/2
         node c host x kept 0/2
         node d host x",
        "+ group-0 on c b: 0 of 1 are there",
    );
    check(
        "want groups 1 tp 1
         node a kept 0/2
         node b kept 0/1",
        "+ group-0 on b: 0 of 1 are there",
    );
}

#[test]
fn a_spare_takes_over_from_a_node_that_is_gone() {
    let mut scenario = Scenario::new(
        "want groups 1 tp 2
         node a
         node c
         group group-0 3 on a b ready",
    );
    // It may be back in a moment.
    check_plan(&scenario.plan_after(MOMENT), "");
    check_plan(
        &scenario.plan_after(A_WHILE),
        "~ group-0 from a b to a c: node b is gone",
    );
}

#[test]
fn nodes_that_go_missing_together_are_waited_for() {
    let mut scenario = Scenario::new(
        "want groups 3
         node d
         group group-0 3 on a ready
         group group-1 4 on b ready
         group group-2 5 on c ready",
    );
    check_plan(&scenario.plan_after(A_WHILE), "");
    let plan = scenario.plan_after(Duration::from_secs(4)).to_string();
    assert!(
        plan.starts_with("~ group-0 from a to d: node a is gone\n! 1 of 3"),
        "{plan}"
    );
}

#[test]
fn without_a_spare_a_lost_group_waits_for_its_nodes() {
    let mut scenario = Scenario::new(
        "want groups 1 tp 2
         node a
         group group-0 3 on a b ready",
    );
    check_plan(
        &scenario.plan_after(A_WHILE),
        "! 0 of 1 language groups have a place: another needs a free node with 2 devices, or 2 free nodes, 1 is free; group-0: node b is gone",
    );
    scenario.becomes(
        "want groups 1 tp 2
         node a
         node b
         group group-0 3 on a b ready",
    );
    check_plan(&scenario.plan_after(MOMENT), "");
}

#[test]
fn a_process_that_was_started_anew_begins_a_new_life() {
    let mut scenario = Scenario::new(
        "want groups 1
         node a
         group group-0 3 on a ready",
    );
    check_plan(&scenario.plan_after(MOMENT), "");
    scenario.becomes(
        "want groups 1
         node a as 2
         group group-0 3 on a loading",
    );
    check_plan(
        &scenario.plan_after(MOMENT),
        "~ group-0 from a to a: node a was started anew",
    );
    // One that serves already, because the placer was late, is left alone.
    scenario.becomes(
        "want groups 1
         node a as 3
         group group-0 4 on a ready",
    );
    check_plan(&scenario.plan_after(MOMENT), "");
}

#[test]
fn whom_a_failure_is_blamed_on_is_avoided_where_others_are() {
    let mut scenario = Scenario::new(
        "want groups 1 tp 2
         node a
         node b
         node c
         group group-0 3 on a b failed(1)",
    );
    check_plan(
        &scenario.plan_after(MOMENT),
        "~ group-0 from a b to a c: node a says: broken",
    );
}

#[test]
fn whom_failures_are_blamed_on_is_used_again_later_and_later() {
    let cluster = |epoch: u32| {
        format!(
            "want groups 1
             node a
             group group-0 {epoch} on a failed"
        )
    };
    let again = "~ group-0 from a to a: node a says: broken";
    let mut scenario = Scenario::new(&cluster(3));
    let plan = scenario.plan_after(MOMENT);
    assert!(plan.steps.is_empty() && plan.waits, "{plan}");
    assert!(plan.shortfalls[0].contains("after a failure"), "{plan}");
    check_plan(&scenario.plan_after(MOMENT * 5), again);

    scenario.becomes(&cluster(4));
    let plan = scenario.plan_after(MOMENT * 9);
    assert!(plan.steps.is_empty(), "{plan}");
    check_plan(&scenario.plan_after(MOMENT * 2), again);
}

#[test]
fn a_group_that_says_nothing_is_given_up_after_a_while() {
    let mut scenario = Scenario::new(
        "want groups 1
         node a
         node b
         group group-0 3 on a silent",
    );
    check_plan(&scenario.plan_after(Duration::from_secs(200)), "");
    check_plan(
        &scenario.plan_after(Duration::from_secs(101)),
        "~ group-0 from a to b: it does not get ready for 300s",
    );
}

#[test]
fn of_two_broken_groups_one_is_made_whole() {
    check(
        "want groups 2 tp 2
         node a
         node d
         group group-0 3 on a b ready
         group group-1 4 on c d ready",
        "- group-1 from c d: node d is of more use elsewhere
         ~ group-0 from a b to a d: node b is gone
         ! 1 of 2 language groups have a place: another needs a free node with 2 devices, or 2 free nodes, 0 are free",
    );
}

#[test]
fn of_too_many_groups_those_go_that_do_not_serve_then_the_idle_then_the_last() {
    let cluster = |wanted: u32| {
        format!(
            "want groups {wanted}
             node a
             node b
             node c
             node d
             group group-0 3 on a ready
             group group-1 4 on b loading
             group group-2 5 on c ready
             group group-10 6 on d ready
             load group-0 1
             load group-2 7
             load group-10 7"
        )
    };
    check(&cluster(3), "- group-1 from b: 3 are wanted");
    check(
        &cluster(1),
        "- group-1 from b: 1 are wanted
         - group-0 from a: 1 are wanted
         - group-10 from d: 1 are wanted",
    );
}

#[test]
fn a_node_that_finishes_what_was_taken_from_it_gets_nothing_new_yet() {
    let mut scenario = Scenario::new(
        "want groups 1
         node a
         held a group-7 3",
    );
    let plan = scenario.plan_after(A_WHILE);
    assert!(plan.steps.is_empty() && plan.waits, "{plan}");
    check_plan(
        &scenario.plan_after(Duration::from_secs(60)),
        "+ group-0 on a: 0 of 1 are there",
    );
}

#[test]
fn a_node_is_relieved_once_another_serves() {
    check(
        "want groups 1
         node a draining
         node b
         group group-0 3 on a ready",
        "+ group-1 on b: 0 of 1 are there: node a is to be relieved",
    );
    check(
        "want groups 1
         node a draining
         node b
         group group-0 3 on a ready
         group group-1 4 on b loading",
        "",
    );
    check(
        "want groups 1
         node a draining
         node b
         group group-0 3 on a ready
         group group-1 4 on b ready",
        "- group-0 from a: node a is to be relieved",
    );
}

#[test]
fn a_node_of_several_is_replaced_where_there_is_one_spare_only() {
    check(
        "want groups 1 tp 2
         node a
         node b draining
         node c
         group group-0 3 on a b ready",
        "~ group-0 from a b to a c: node b is to be relieved",
    );
}

#[test]
fn without_a_spare_a_node_is_relieved_all_the_same() {
    let mut scenario = Scenario::new(
        "want groups 1
         node a draining
         group group-0 3 on a ready",
    );
    let plan = scenario.plan_after(A_WHILE).to_string();
    assert!(
        plan.starts_with("- group-0 from a: node a is to be relieved\n! 0 of 1"),
        "{plan}"
    );
}

#[test]
fn a_process_that_ends_is_replaced_and_left_to_finish() {
    check(
        "want groups 1
         node a
         node b
         group group-0 3 on a leaving",
        "+ group-1 on b: 0 of 1 are there: a node is about to leave",
    );
    let mut scenario = Scenario::new(
        "want groups 1
         node b
         group group-0 3 on a leaving
         group group-1 4 on b loading",
    );
    // The one whose node went is the one too many.
    check_plan(
        &scenario.plan_after(MOMENT),
        "- group-0 from a: 1 are wanted",
    );
}

#[test]
fn a_new_width_comes_beside_the_old_one_where_there_is_room() {
    check(
        "want groups 1 tp 2
         node a
         node b devices 2
         group group-0 3 on a ready",
        "+ group-1 on b×2: 0 of 1 are there: 2 ranks are wanted, it has 1",
    );
    check(
        "want groups 1 tp 2
         node a
         node b devices 2
         group group-0 3 on a ready
         group group-1 4 on b b ready",
        "- group-0 from a: others serve: 2 ranks are wanted, it has 1",
    );
}

#[test]
fn a_new_width_rolls_one_group_at_a_time_where_there_is_no_room() {
    check(
        "want groups 2 tp 2
         node a devices 2
         node b devices 2
         group group-0 3 on a ready
         group group-1 4 on b ready",
        "~ group-1 from b to b×2: 2 ranks are wanted, it has 1
         ! 1 of 2 language groups have a place: another needs a free node with 2 devices, or 2 free nodes, 0 are free",
    );
    let mut scenario = Scenario::new(
        "want groups 2 tp 2
         node a devices 2
         node b devices 2
         group group-0 3 on a ready
         group group-1 5 on b b loading",
    );
    let plan = scenario.plan_after(A_WHILE);
    assert!(plan.steps.is_empty(), "{plan}");
}

#[test]
fn what_serves_is_not_taken_away_to_make_wider_groups() {
    let mut scenario = Scenario::new(
        "want groups 2 tp 2
         node a
         node b
         group group-0 3 on a ready
         group group-1 4 on b ready",
    );
    let plan = scenario.plan_after(A_WHILE);
    assert!(plan.steps.is_empty(), "{plan}");
    assert_eq!(plan.shortfalls.len(), 1);
}

#[test]
fn models_are_kept_apart() {
    check(
        "want groups 3
         node a model m
         node b model n
         node c model m",
        "+ group-0 on a: 0 of 3 are there
         + group-1 on c: 1 of 3 are there
         ! 2 of 3 language groups have a place: another needs a free node, 0 are free",
    );
    check(
        "want groups 1 tp 2 model n
         node a model m devices 2
         node b model n
         node c model n
         group group-0 3 on a a ready",
        "+ group-1 on b c: 0 of 1 are there: model n is wanted, it has m",
    );
}

#[test]
fn pictures_are_encoded_where_nothing_else_runs() {
    check(
        "want groups 1 vision 1
         node a language vision
         node b language vision
         group group-0 3 on a ready",
        "+ vision on b: 0 of 1 are there",
    );
    check(
        "want groups 1 vision 1
         node a language vision
         group group-0 3 on a ready",
        "+ vision on a: 0 of 1 are there",
    );
}

#[test]
fn vision_workers_are_replaced_relieved_and_too_many() {
    check(
        "want vision 2
         node a vision
         node b vision
         node c vision
         vision a 3 ready
         vision gone 4 ready
         vision b 5 failed",
        "- vision from b: it failed, and others are there
         - vision from gone: it is gone, and others are there
         + vision on c: 1 of 2 are there",
    );
    check(
        "want vision 1
         node a vision draining
         node b vision
         vision a 3 ready
         vision b 4 ready",
        "- vision from a: the node is to be relieved",
    );
    check(
        "want vision 1
         node a vision
         node b vision
         node c vision
         vision a 3 ready
         vision b 4 loading
         vision c 5 ready",
        "- vision from b: 1 are wanted
         - vision from c: 1 are wanted",
    );
}
