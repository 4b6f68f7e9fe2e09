//! What the loop counts, for whoever reads metrics.

use std::time::Duration;

use inkstone_engine::{Load, Stats, StepPlan};

use super::row_rate::RowRate;

/// Kept between reports.
#[derive(Default)]
pub(super) struct Measure {
    load: Option<Load>,
    stats: Stats,
    rate: RowRate,
}

impl Measure {
    /// A step that is done.
    pub(super) fn step(&mut self, plan: &StepPlan, took: Duration) {
        if !plan.items.is_empty() {
            self.rate.step(plan.num_rows(), took);
        }
        metrics::histogram!("inkstone_step_seconds").record(took.as_secs_f64());
        metrics::histogram!("inkstone_step_rows").record(plan.num_rows() as f64);
        metrics::histogram!("inkstone_step_sequences").record(plan.items.len() as f64);
    }

    /// Rows of prompts that the group computes each second; none: not known yet.
    pub(super) fn rows_per_second(&self) -> Option<f64> {
        self.rate.rows_per_second()
    }

    /// Tokens of answers.
    pub(super) fn tokens(&self, count: usize) {
        metrics::counter!("inkstone_generated_tokens_total").increment(count as u64);
    }

    /// How busy the engine is now, and what it has counted.
    pub(super) fn load(&mut self, load: Load, stats: Stats) {
        if self.load != Some(load) {
            self.load = Some(load);
            let free = load.blocks_total - load.blocks_used - load.blocks_cached;
            for (name, value) in [
                ("inkstone_running_sequences", load.running),
                ("inkstone_waiting_requests", load.waiting),
                ("inkstone_kv_blocks_used", load.blocks_used),
                ("inkstone_kv_blocks_cached", load.blocks_cached),
                ("inkstone_kv_blocks_free", free),
            ] {
                metrics::gauge!(name).set(value as f64);
            }
        }
        if self.stats != stats {
            self.stats = stats;
            for (name, value) in [
                ("inkstone_prefix_lookup_tokens_total", stats.prompt_tokens),
                ("inkstone_prefix_hit_tokens_total", stats.cached_tokens),
                ("inkstone_prefix_evictions_total", stats.evictions),
                ("inkstone_preemptions_total", stats.preemptions),
            ] {
                metrics::counter!(name).absolute(value);
            }
        }
    }
}
