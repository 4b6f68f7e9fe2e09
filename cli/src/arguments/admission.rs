//! What can be typed about how many requests a coordinator takes on and where they go.

use clap::{Args, ValueEnum};
use inkstone_coordinator::{Config, RoutingPolicy};

/// What a coordinator takes on. Not given: the coordinator's defaults.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct AdmissionArguments {
    /// Most requests that run at once; more wait for their turn.
    #[arg(long, env = "INKSTONE_MAX_REQUESTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: Option<u32>,
    /// Most requests that wait for their turn; past it they are sent away and told when to come again.
    #[arg(long, env = "INKSTONE_MAX_QUEUED", value_name = "N")]
    max_queued: Option<u32>,
    /// Most of these of one tenant; default: a quarter.
    #[arg(long, env = "INKSTONE_MAX_QUEUED_PER_TENANT", value_name = "N")]
    max_queued_per_tenant: Option<u32>,
    /// Most tokens that requests which wait may have, answers included; a quarter of them for one tenant.
    #[arg(long, env = "INKSTONE_MAX_QUEUED_TOKENS", value_name = "N")]
    max_queued_tokens: Option<u32>,
    /// Longest wait for a turn, in seconds.
    #[arg(long, env = "INKSTONE_MAX_QUEUE_WAIT", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    max_queue_wait: Option<u64>,
    /// Seconds without a sign of life from a client's machine after which its connection counts as dead.
    #[arg(long, env = "INKSTONE_CLIENT_SILENCE", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    client_silence: Option<u64>,
    /// Requests run in the order in which they come, whoever asks: to compare with.
    #[arg(long, hide = true)]
    first_come_first_served: bool,
    /// How a language group is chosen: to compare with.
    #[arg(long, hide = true, value_enum, default_value = "cost")]
    routing: RoutingChoice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoutingChoice {
    /// By predicted cost.
    #[default]
    Cost,
    /// One after the other.
    RoundRobin,
    /// The one with fewest requests.
    LeastLoaded,
}

impl AdmissionArguments {
    /// Puts what was typed into the settings.
    pub(crate) fn apply(&self, config: &mut Config) {
        let limits = &mut config.limits;
        if let Some(max_requests) = self.max_requests {
            limits.max_requests = max_requests as usize;
        }
        if let Some(max_queued) = self.max_queued {
            limits.max_queued_requests = max_queued as usize;
            limits.max_queued_per_tenant = (max_queued as usize / 4).max(1);
        }
        if let Some(max_queued) = self.max_queued_per_tenant {
            limits.max_queued_per_tenant = max_queued as usize;
        }
        if let Some(max_tokens) = self.max_queued_tokens {
            limits.max_queued_tokens = max_tokens as usize;
            limits.max_queued_tokens_per_tenant = (max_tokens as usize / 4).max(1);
        }
        if let Some(seconds) = self.max_queue_wait {
            config.timeouts.queued = std::time::Duration::from_secs(seconds);
        }
        if let Some(seconds) = self.client_silence {
            config.timeouts.client_silence = std::time::Duration::from_secs(seconds);
        }
        limits.fair_queueing = !self.first_come_first_served;
        // One client may use the whole coordinator.
        let most = limits
            .max_requests
            .saturating_add(limits.max_queued_requests);
        limits.max_requests_per_connection = u32::try_from(most).unwrap_or(u32::MAX);
        config.routing = self.routing.into();
    }
}

impl From<RoutingChoice> for RoutingPolicy {
    fn from(choice: RoutingChoice) -> Self {
        match choice {
            RoutingChoice::Cost => Self::PredictedCost,
            RoutingChoice::RoundRobin => Self::RoundRobin,
            RoutingChoice::LeastLoaded => Self::LeastLoaded,
        }
    }
}
