//! Language groups: what is broken begins a new life, what is missing is made, what is too much goes, what is outdated is replaced.

use std::collections::BTreeSet;

use inkstone_cluster::{Change, Deployment, GroupAssignment, GroupId, NodeId, NodeRecord, Role};

use super::{
    health::{Group, Health, Standing, groups, natural},
    nodes::View,
    plan::{Loads, Plan},
    select::{Candidate, select},
};

/// Adds what is to change of the language groups.
pub(super) fn plan_language(
    plan: &mut Plan,
    view: &View<'_>,
    deployment: &Deployment,
    loads: &Loads,
) {
    let groups = groups(view, deployment);
    let mut planner = Planner {
        plan,
        view,
        wanted: deployment.language_replicas as usize,
        num_ranks: deployment.tensor_parallel,
        loads,
        busy: BTreeSet::new(),
        num_good: groups
            .iter()
            .filter(|group| matches!(group.health, Health::Good(_)))
            .count(),
        num_made: 0,
        is_settling: false,
    };
    planner.run(groups);
}

struct Planner<'a, 'b> {
    plan: &'b mut Plan,
    view: &'b View<'a>,
    wanted: usize,
    num_ranks: u32,
    loads: &'b Loads,
    /// Nodes of groups that are not broken.
    busy: BTreeSet<NodeId>,
    /// Groups that are as wanted, those of this plan included.
    num_good: usize,
    /// Lives that this plan begins.
    num_made: usize,
    /// Nodes will be free soon.
    is_settling: bool,
}

impl<'a> Planner<'a, '_> {
    fn run(&mut self, groups: Vec<Group<'a>>) {
        let (broken, whole): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|group| matches!(group.health, Health::Broken { .. }));
        let nodes = whole.iter().flat_map(|group| &group.assignment.ranks);
        self.busy = nodes.cloned().collect();
        let is_settling = self.free_nodes().any(|node| self.is_held(node));
        self.is_settling = is_settling;
        let unrepaired = self.repair(broken);
        self.create(&whole);
        self.remove_surplus(&whole);
        self.remove_outdated(&whole);
        self.relieve(&whole);
        self.roll(&whole);
        self.tell_shortfall(&unrepaired);
    }

    /// Begins a new life of what is broken, as far as that many groups are wanted; gives those for which there are not enough nodes.
    fn repair(&mut self, mut broken: Vec<Group<'a>>) -> Vec<Group<'a>> {
        // Those that lack least come first: with few nodes left, more groups come to life.
        broken.sort_by_key(|group| (self.num_lacking(group), natural(group.id)));
        let mut unrepaired: Vec<Group<'a>> = vec![];
        while !broken.is_empty() {
            let group = broken.remove(0);
            let Health::Broken { why } = &group.health else {
                continue;
            };
            if self.num_good >= self.wanted {
                self.remove(&group, &format!("more than wanted, and {why}"));
                continue;
            }
            let others = broken.iter().chain(&unrepaired);
            let others: Vec<NodeId> = others
                .flat_map(|group| group.assignment.ranks.clone())
                .collect();
            match self.find(Some(group.assignment), &others) {
                Some(ranks) => {
                    self.put(group.id.clone(), ranks, Some(&group), why);
                    self.num_good += 1;
                }
                None => unrepaired.push(group),
            }
        }
        self.drop_hollow(unrepaired)
    }

    /// Removes groups that can never serve, that lost a node to another group or are relieved of one, and more than could be of use.
    /// Others stay: their nodes may come back and serve on at once.
    fn drop_hollow(&mut self, unrepaired: Vec<Group<'a>>) -> Vec<Group<'a>> {
        let mut rest: Vec<Group<'a>> = vec![];
        for group in unrepaired {
            let ranks = &group.assignment.ranks;
            let draining = &self.view.state.draining;
            let is_claimed = |node: &&NodeId| {
                let mut others = rest.iter();
                self.busy.contains(*node)
                    || others.any(|other| other.assignment.ranks.contains(node))
            };
            if let Some(why) = self.view.misfit(group.assignment) {
                self.remove(&group, &why);
            } else if let Some(node) = ranks.iter().find(is_claimed) {
                self.remove(&group, &format!("node {node} is of more use elsewhere"));
            } else if let Some(node) = ranks.iter().find(|node| draining.contains(*node)) {
                self.remove(&group, &format!("node {node} is to be relieved"));
            } else if self.num_good + rest.len() >= self.wanted {
                self.remove(&group, &format!("{} are wanted", self.wanted));
            } else {
                rest.push(group);
            }
        }
        rest
    }

    /// Makes the groups that are missing.
    fn create(&mut self, whole: &[Group<'a>]) {
        while self.num_good < self.wanted {
            let Some(ranks) = self.find(None, &[]) else {
                return;
            };
            let id = self.unused_id();
            let of = format!("{} of {} are there", self.num_good, self.wanted);
            let why = match whole
                .iter()
                .find_map(|group| replaced_because(&group.health))
            {
                Some(why) => format!("{of}: {why}"),
                None => of,
            };
            self.put(id, ranks, None, &why);
            self.num_good += 1;
        }
    }

    /// Ends what is more than wanted: first what does not serve, then what failures are blamed on, then the least busy, then the last.
    fn remove_surplus(&mut self, whole: &[Group<'a>]) {
        let mut good: Vec<_> = whole
            .iter()
            .filter_map(|group| match group.health {
                Health::Good(standing) => Some((standing, group)),
                _ => None,
            })
            .collect();
        if self.num_good <= self.wanted {
            return;
        }
        let view = self.view;
        good.sort_by_key(|(standing, group)| {
            let ranks = &group.assignment.ranks;
            let is_suspect = ranks.iter().any(|node| view.memory.is_suspect(node));
            let load = self.loads.get(group.id).copied().unwrap_or(0);
            (
                *standing,
                !is_suspect,
                load,
                std::cmp::Reverse(natural(group.id)),
            )
        });
        let num_surplus = self.num_good - self.wanted;
        for (_, group) in good.into_iter().take(num_surplus) {
            self.remove(group, &format!("{} are wanted", self.wanted));
            self.num_good -= 1;
        }
    }

    /// Ends outdated groups for which others serve.
    fn remove_outdated(&mut self, whole: &[Group<'a>]) {
        let outdated = outdated(whole, self.loads);
        let num_serving = self.num_ready(whole) + outdated.len();
        let num_surplus = num_serving.saturating_sub(self.wanted);
        for (group, why) in outdated.into_iter().take(num_surplus) {
            self.remove(group, &format!("others serve: {why}"));
        }
    }

    /// Takes groups off nodes that are to be relieved: once others serve, or when there is nothing to put in their place.
    fn relieve(&mut self, whole: &[Group<'a>]) {
        let num_others = self.num_ready(whole) + outdated(whole, self.loads).len();
        for group in whole {
            let Health::Relieved { node, is_ready } = &group.health else {
                continue;
            };
            let why = format!("node {node} is to be relieved");
            if *is_ready && num_others < self.wanted {
                if self.is_coming_up(whole) {
                    self.plan.waits = true;
                    continue;
                }
                // There is no room for another group beside it: its other nodes with a spare may do.
                if self.put_in_place(group, &why) {
                    continue;
                }
            }
            self.remove(group, &why);
        }
    }

    /// Gives one outdated group the wanted form in its own place, when all others serve and there is no room beside it.
    fn roll(&mut self, whole: &[Group<'a>]) {
        if self.num_good >= self.wanted || self.is_coming_up(whole) || self.is_settling {
            return;
        }
        for (group, why) in outdated(whole, self.loads) {
            if self.put_in_place(group, why) {
                return;
            }
        }
    }

    /// Begins a new life of a group that is whole, with its own nodes and free ones, if they are enough.
    fn put_in_place(&mut self, group: &Group<'a>, why: &str) -> bool {
        let own = &group.assignment.ranks;
        self.busy.retain(|node| !own.contains(node));
        match self.find(Some(group.assignment), &[]) {
            Some(ranks) => {
                self.put(group.id.clone(), ranks, Some(group), why);
                self.num_good += 1;
                true
            }
            None => {
                self.busy.extend(own.iter().cloned());
                false
            }
        }
    }

    fn tell_shortfall(&mut self, unrepaired: &[Group<'a>]) {
        if self.num_good >= self.wanted {
            return;
        }
        self.plan.waits = true;
        let (good, wanted) = (self.num_good, self.wanted);
        let room = match self.num_ranks {
            1 => "a free node".to_owned(),
            num => format!("a free node with {num} devices, or {num} free nodes"),
        };
        let free: Vec<_> = self.free_nodes().collect();
        let num_resting = free.iter().filter(|node| self.rests(node)).count();
        let mut text = format!(
            "{good} of {wanted} language groups have a place: another needs {room}, {} free",
            are(free.len())
        );
        if num_resting > 0 {
            text += &format!(" ({num_resting} after a failure, not used for a moment)");
        }
        for group in unrepaired {
            if let Health::Broken { why } = &group.health {
                text += &format!("; {}: {why}", group.id);
            }
        }
        self.plan.shortfalls.push(text);
    }

    /// Nodes for a group; `others` are of groups that are broken too.
    fn find(&self, before: Option<&GroupAssignment>, others: &[NodeId]) -> Option<Vec<NodeId>> {
        let is_own = |id| before.is_some_and(|before| before.ranks.contains(id));
        let view = self.view;
        let mut candidates = vec![];
        for node in self.free_nodes() {
            // What is its own ends with the new life at once; elsewhere streams finish first.
            if self.rests(node) || (self.is_held(node) && !is_own(&node.id)) {
                continue;
            }
            candidates.push(Candidate {
                node,
                is_own: is_own(&node.id),
                is_taken: others.contains(&node.id),
            });
        }
        select(view, self.num_ranks, &candidates, before)
    }

    /// Nodes that run no group that is whole.
    fn free_nodes(&self) -> impl Iterator<Item = &'a NodeRecord> {
        let view = self.view;
        let nodes = view.state.nodes.values();
        nodes.filter(|node| {
            view.is_eligible(node, Role::Language)
                && node.devices > 0
                && !self.busy.contains(&node.id)
        })
    }

    fn rests(&self, node: &NodeRecord) -> bool {
        self.view.memory.rests(&node.id, self.view.now)
    }

    fn is_held(&self, node: &NodeRecord) -> bool {
        let (view, id) = (self.view, &node.id);
        view.memory.is_held(id, view.policy, view.now)
    }

    fn num_lacking(&self, group: &Group<'_>) -> usize {
        let ranks = group.assignment.ranks.iter();
        let lacks = |node: &&NodeId| {
            let record = self.view.node(node);
            record.is_none_or(|record| !self.view.is_eligible(record, Role::Language))
        };
        ranks.filter(lacks).count()
    }

    /// Groups that are as wanted and serve.
    fn num_ready(&self, whole: &[Group<'_>]) -> usize {
        let is_ready = |group: &&Group<'_>| group.health == Health::Good(Standing::Ready);
        let num_ready = whole.iter().filter(is_ready).count();
        num_ready.min(self.num_good)
    }

    /// Whether a group that is wanted does not serve yet.
    fn is_coming_up(&self, whole: &[Group<'_>]) -> bool {
        let comes_up = |group: &Group<'_>| match group.health {
            Health::Good(standing) => standing < Standing::Ready,
            _ => false,
        };
        self.num_made > 0 || whole.iter().any(comes_up)
    }

    fn put(&mut self, group: GroupId, ranks: Vec<NodeId>, before: Option<&Group<'_>>, why: &str) {
        self.busy.extend(ranks.iter().cloned());
        self.num_made += 1;
        let change = Change::PutGroup {
            group,
            assignment: GroupAssignment { ranks },
            expected: before.map(|group| group.epoch),
        };
        self.plan.push(change, why);
    }

    fn remove(&mut self, group: &Group<'_>, why: &str) {
        self.is_settling = true;
        let change = Change::RemoveGroup {
            group: group.id.clone(),
            expected: group.epoch,
        };
        self.plan.push(change, why);
    }

    /// The first of `group-0`, `group-1` … that no group has.
    fn unused_id(&self) -> GroupId {
        let is_used = |id: &GroupId| {
            let planned = self.plan.steps.iter().map(|step| &step.change);
            let mut planned = planned.filter_map(|change| match change {
                Change::PutGroup { group, .. } | Change::RemoveGroup { group, .. } => Some(group),
                Change::PutVision { .. } | Change::RemoveVision { .. } => None,
            });
            self.view.state.groups.contains_key(id) || planned.any(|planned| planned == id)
        };
        let ids = (0_u64..).map(|number| GroupId::new(format!("group-{number}")));
        let mut unused = ids.skip_while(is_used);
        unused.next().expect("there are more numbers than groups")
    }
}

/// Groups that serve in a form that is not wanted, and why it is not, the one to go first in front.
fn outdated<'g, 'a>(whole: &'g [Group<'a>], loads: &Loads) -> Vec<(&'g Group<'a>, &'g str)> {
    let mut outdated: Vec<_> = whole
        .iter()
        .filter_map(|group| match &group.health {
            Health::Outdated {
                why,
                is_ready: true,
            } => Some((group, why.as_str())),
            _ => None,
        })
        .collect();
    outdated.sort_by_key(|(group, _)| {
        let load = loads.get(group.id).copied().unwrap_or(0);
        (load, std::cmp::Reverse(natural(group.id)))
    });
    outdated
}

/// Why a group is made beside this one.
fn replaced_because(health: &Health) -> Option<String> {
    match health {
        Health::Relieved { node, .. } => Some(format!("node {node} is to be relieved")),
        Health::Leaving => Some("a node is about to leave".into()),
        Health::Outdated { why, .. } => Some(why.clone()),
        Health::Good(_) | Health::Broken { .. } => None,
    }
}

fn are(num: usize) -> String {
    match num {
        1 => "1 is".into(),
        num => format!("{num} are"),
    }
}
