//! A plan: what is to change and why, what cannot be had, and how it reads in a log line.

use std::{collections::BTreeMap, fmt};

use inkstone_cluster::{Change, ClusterState, Deployment, GroupId, NodeId};

use super::{
    Memory, Moment, Policy,
    language::plan_language,
    nodes::{View, served_model},
    vision::plan_vision,
};

/// Requests that each group runs and has waiting, as far as they are known.
pub(crate) type Loads = BTreeMap<GroupId, u64>;

/// What is to be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is to change, in order: what makes room comes first.
    pub(crate) steps: Vec<Step>,
    /// What is wanted and cannot be had, for people.
    pub(crate) shortfalls: Vec<String>,
    /// Time alone may change what is to be done.
    pub(crate) waits: bool,
}

/// A change and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) change: Change,
    pub(crate) why: String,
    /// Who runs the group now.
    before: Vec<NodeId>,
}

/// What brings the cluster closer to what is wanted. Where nothing is wanted, nothing is done.
pub(crate) fn plan(
    state: &ClusterState,
    memory: &Memory,
    policy: &Policy,
    loads: &Loads,
    now: Moment,
) -> Plan {
    let mut plan = Plan::default();
    let Some((deployment, _)) = &state.deployment else {
        return plan;
    };
    let deployment = Deployment {
        // A group has at least its leader.
        tensor_parallel: deployment.tensor_parallel.max(1),
        ..deployment.clone()
    };
    let view = View {
        state,
        memory,
        policy,
        now,
        model: served_model(state, &deployment),
    };
    plan_language(&mut plan, &view, &deployment, loads);
    plan_vision(&mut plan, &view, &deployment);
    for step in &mut plan.steps {
        if let Change::PutGroup { group, .. } | Change::RemoveGroup { group, .. } = &step.change {
            let before = state.groups.get(group);
            step.before = before.map_or_else(Vec::new, |(before, _)| before.ranks.clone());
        }
    }
    plan.steps.sort_by_key(|step| match step.change {
        Change::RemoveGroup { .. } | Change::RemoveVision { .. } => 0,
        Change::PutGroup { .. } | Change::PutVision { .. } => 1,
    });
    plan
}

impl Plan {
    pub(super) fn push(&mut self, change: Change, why: impl Into<String>) {
        self.steps.push(Step {
            change,
            why: why.into(),
            before: vec![],
        });
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().map(ToString::to_string);
        let shortfalls = self.shortfalls.iter().map(|text| format!("! {text}"));
        let lines: Vec<_> = steps.chain(shortfalls).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::PutGroup {
                group,
                assignment,
                expected: None,
            } => write!(f, "+ {group} on {}", Ranks(&assignment.ranks))?,
            Change::PutGroup {
                group, assignment, ..
            } => {
                let (before, after) = (Ranks(&self.before), Ranks(&assignment.ranks));
                write!(f, "~ {group} from {before} to {after}")?;
            }
            Change::RemoveGroup { group, .. } => {
                write!(f, "- {group} from {}", Ranks(&self.before))?;
            }
            Change::PutVision { node } => write!(f, "+ vision on {node}")?,
            Change::RemoveVision { node } => write!(f, "- vision from {node}")?,
        }
        write!(f, ": {}", self.why)
    }
}

/// `a×2` for two ranks on one node, `a b` for one each.
struct Ranks<'a>(&'a [NodeId]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            [one] => one.fmt(f),
            [first, rest @ ..] if rest.iter().all(|node| node == first) => {
                write!(f, "{first}×{}", self.0.len())
            }
            nodes => {
                let names: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
                f.write_str(&names.join(" "))
            }
        }
    }
}
