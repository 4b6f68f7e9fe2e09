//! What a step costs on an accelerator that is not there: the roofline of its data sheet, a stated share of it, and what
//! comes on top of every step.
//!
//! A step takes `max(bytes / bandwidth, operations / peak) + all-reduces + overhead`, each of the shares of one rank.
//! Bytes are the weights, read once a step, and the keys and values that attention reads; what activations move is left
//! out. Operations are those of the linears and of attention over all positions before, 2 for a multiplication with its
//! addition.

use std::time::Duration;

use inkstone_engine::{BLOCK_TOKENS, StepPlan};
use inkstone_interface::{config::ModelConfig, description::PartialLoraDescription};

/// bf16: weights, activations, keys and values.
const ELEMENT_BYTES: f64 = 2.0;
/// Two in each layer: after `wo` and after `w2`.
const ALL_REDUCES_PER_LAYER: f64 = 2.0;
/// The share of the memory that the weights and the cache may take; the rest is for activations and the runtime.
const MEMORY_SHARE: f64 = 0.9;

/// An accelerator by its data sheet, and how much of that a good implementation gets out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accelerator {
    /// What it is called.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory_bytes: f64,
    /// Bytes from memory in a second.
    pub memory_bandwidth: f64,
    /// The share of it that kernels reach.
    pub memory_efficiency: f64,
    /// bf16 operations in a second, dense.
    pub peak_operations: f64,
    /// The share of it that kernels reach.
    pub compute_efficiency: f64,
    /// Bytes in a second that one accelerator sends to its neighbours while it receives as many.
    pub link_bandwidth: f64,
    /// The shortest all-reduce among accelerators of one machine.
    pub link_latency: Duration,
    /// What every step takes besides: launching it, sampling, and carrying tokens to the host.
    pub step_overhead: Duration,
}

impl Accelerator {
    /// NVIDIA H100 SXM5 80 GB. Memory, bandwidth, peak and link (900 GB/s of NVLink 4, both directions together) are the data sheet's. The
    /// rest is **assumed, not measured**: 0.87 of the bandwidth and 200 µs a step together give the 190 tokens/s that are the
    /// goal of our CUDA kernels for one sequence; 0.40 of the peak is 55 %, the goal for prefill, of the 70 to 75 % that large
    /// bf16 GEMMs reach under the card's power limit; 8 µs is about what the one-shot all-reduces of serving engines need for small
    /// messages on eight cards.
    pub const H100_SXM: Self = Self {
        name: "H100 SXM",
        memory_bytes: 80e9,
        memory_bandwidth: 3.35e12,
        memory_efficiency: 0.87,
        peak_operations: 989e12,
        compute_efficiency: 0.40,
        link_bandwidth: 450e9,
        link_latency: Duration::from_micros(8),
        step_overhead: Duration::from_micros(200),
    };

    /// The same without losses: what the data sheet allows and nothing reaches.
    pub fn roof(self) -> Self {
        Self {
            memory_efficiency: 1.0,
            compute_efficiency: 1.0,
            link_latency: Duration::ZERO,
            step_overhead: Duration::ZERO,
            ..self
        }
    }
}

/// The cost of steps of one model on `world_size` accelerators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    accelerator: Accelerator,
    world_size: f64,
    shape: Shape,
}

/// What a model asks of each step, by its config. Whole model, not a rank's share, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    num_layers: f64,
    hidden_size: f64,
    /// Of the five linears in all layers.
    linear_parameters: f64,
    /// Of the output head.
    head_parameters: f64,
    /// Of the norms: whole on every rank.
    norm_parameters: f64,
    /// Of the token embedding, of which a step reads a few rows only.
    embedding_parameters: f64,
    /// Of the low-rank branches, on one rank.
    partial_lora_parameters: f64,
    /// Operations that one row of attention takes for each position it sees.
    attention_operations: f64,
    /// Keys and values of one position.
    kv_bytes: f64,
}

/// What one step asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Rows of all sequences.
    pub rows: usize,
    /// Those of pictures, which take the low-rank branches too.
    pub picture_rows: usize,
    /// Rows whose logits are computed.
    pub logit_rows: usize,
    /// Positions that attention sees, summed over rows.
    pub attended: usize,
    /// Positions whose keys and values are read or written, summed over sequences.
    pub cached: usize,
}

impl StepWork {
    /// What `plan` asks for; `picture_rows` tells how many rows of an item are a picture's.
    pub fn of(plan: &StepPlan, picture_rows: usize) -> Self {
        let mut work = Self {
            picture_rows,
            ..Self::default()
        };
        for item in &plan.items {
            let logit_rows = if item.prompt_logprobs {
                item.num_rows()
            } else {
                usize::from(item.draw.is_some())
            };
            work.add_rows(item.start, item.end, logit_rows);
        }
        work
    }

    /// Adds positions `start..end` of a sequence.
    pub fn add_rows(&mut self, start: usize, end: usize, logit_rows: usize) {
        let rows = end.saturating_sub(start);
        self.rows += rows;
        self.logit_rows += logit_rows;
        // The row at position p sees p + 1 positions.
        self.attended += rows * (start + end + 1) / 2;
        self.cached += end;
    }
}

impl CostModel {
    /// The cost of `config` with these low-rank branches on `world_size` accelerators.
    pub fn new(
        config: &ModelConfig,
        partial_lora: &PartialLoraDescription,
        world_size: usize,
        accelerator: Accelerator,
    ) -> Self {
        let world_size = world_size.max(1) as f64;
        Self {
            accelerator,
            world_size,
            shape: Shape::new(config, partial_lora, world_size),
        }
    }

    /// How long a step with this work takes.
    pub fn step_time(&self, work: &StepWork) -> Duration {
        if work.rows == 0 {
            return Duration::ZERO;
        }
        let seconds = self.memory_seconds(work).max(self.compute_seconds(work))
            + self.all_reduce_seconds(work);
        Duration::from_secs_f64(seconds) + self.accelerator.step_overhead
    }

    /// Positions that fit the memory beside the weights.
    pub fn kv_tokens(&self) -> usize {
        let shape = &self.shape;
        let split = shape.linear_parameters + shape.head_parameters + shape.embedding_parameters;
        let weights = ELEMENT_BYTES
            * (split / self.world_size + shape.norm_parameters + shape.partial_lora_parameters);
        let free = self.accelerator.memory_bytes * MEMORY_SHARE - weights;
        // Negative where the weights alone do not fit: then a block, so that the limits can say what is too small.
        ((free * self.world_size / shape.kv_bytes).max(0.0) as usize).max(BLOCK_TOKENS)
    }

    fn memory_seconds(&self, work: &StepWork) -> f64 {
        let shape = &self.shape;
        let head = if work.logit_rows > 0 {
            shape.head_parameters
        } else {
            0.0
        };
        let branches = if work.picture_rows > 0 {
            shape.partial_lora_parameters
        } else {
            0.0
        };
        let parameters =
            (shape.linear_parameters + head) / self.world_size + shape.norm_parameters + branches;
        let cache = shape.kv_bytes * work.cached as f64 / self.world_size;
        (ELEMENT_BYTES * parameters + cache)
            / (self.accelerator.memory_bandwidth * self.accelerator.memory_efficiency)
    }

    fn compute_seconds(&self, work: &StepWork) -> f64 {
        let shape = &self.shape;
        let split = 2.0 * shape.linear_parameters * work.rows as f64
            + 2.0 * shape.head_parameters * work.logit_rows as f64
            + shape.attention_operations * work.attended as f64;
        let branches = 2.0 * shape.partial_lora_parameters * work.picture_rows as f64;
        (split / self.world_size + branches)
            / (self.accelerator.peak_operations * self.accelerator.compute_efficiency)
    }

    /// Each rank sends and receives `2 (n - 1) / n` of the message, whatever the way it goes.
    fn all_reduce_seconds(&self, work: &StepWork) -> f64 {
        if self.world_size <= 1.0 {
            return 0.0;
        }
        let message = work.rows as f64 * self.shape.hidden_size * ELEMENT_BYTES;
        let sent = message * 2.0 * (self.world_size - 1.0) / self.world_size;
        let once =
            self.accelerator.link_latency.as_secs_f64() + sent / self.accelerator.link_bandwidth;
        once * ALL_REDUCES_PER_LAYER * self.shape.num_layers
    }
}

impl Shape {
    fn new(config: &ModelConfig, branches: &PartialLoraDescription, world_size: f64) -> Self {
        let hidden = config.hidden_size as f64;
        let inner = config.intermediate_size as f64;
        let layers = config.num_hidden_layers as f64;
        let kv_width = (config.num_key_value_heads * config.head_dim()) as f64;
        let vocabulary = config.vocab_size as f64;
        let qkv_width = hidden + 2.0 * kv_width;
        let linears = hidden * qkv_width + hidden * hidden + 3.0 * hidden * inner;
        // Column parallel: A is whole on every rank. Row parallel: B is.
        let column = |rank: usize, out: f64| rank as f64 * (hidden + out / world_size);
        let row = |rank: usize, input: f64| rank as f64 * (input / world_size + hidden);
        let low_rank = column(branches.wqkv.rank, qkv_width)
            + row(branches.wo.rank, hidden)
            + column(branches.w1.rank, inner)
            + column(branches.w3.rank, inner)
            + row(branches.w2.rank, inner);
        Self {
            num_layers: layers,
            hidden_size: hidden,
            linear_parameters: layers * linears,
            head_parameters: vocabulary * hidden,
            norm_parameters: (2.0 * layers + 1.0) * hidden,
            embedding_parameters: vocabulary * hidden,
            partial_lora_parameters: layers * low_rank,
            attention_operations: 4.0 * hidden * layers,
            kv_bytes: 2.0 * kv_width * ELEMENT_BYTES * layers,
        }
    }
}

#[cfg(test)]
mod tests {
    use inkstone_model::synthesize::Preset;

    use super::*;

    fn seven_b(world_size: usize, accelerator: Accelerator) -> CostModel {
        let preset = Preset::Vl7b;
        CostModel::new(
            &preset.config(),
            &preset.structure().partial_lora,
            world_size,
            accelerator,
        )
    }

    /// `sequences` that each draw a token with `context` positions in the cache.
    fn decode(sequences: usize, context: usize) -> StepWork {
        let mut work = StepWork::default();
        for _ in 0..sequences {
            work.add_rows(context - 1, context, 1);
        }
        work
    }

    fn prefill(rows: usize, picture_rows: usize) -> StepWork {
        let mut work = StepWork {
            picture_rows,
            ..StepWork::default()
        };
        work.add_rows(0, rows, 1);
        work
    }

    fn seconds(model: &CostModel, work: &StepWork) -> f64 {
        model.step_time(work).as_secs_f64()
    }

    #[test]
    fn the_seven_b_shape_has_the_parameters_of_the_published_checkpoint() {
        let shape = seven_b(1, Accelerator::H100_SXM).shape;
        assert_eq!(shape.linear_parameters, 6_979_321_856.0);
        assert_eq!(
            shape.head_parameters + shape.embedding_parameters,
            758_120_448.0
        );
        assert_eq!(shape.norm_parameters, 266_240.0);
        assert_eq!(shape.partial_lora_parameters, 603_979_776.0);
        assert_eq!(shape.attention_operations, 524_288.0);
        assert_eq!(shape.kv_bytes, 131_072.0);
    }

    #[test]
    fn the_memory_roof_of_one_sequence_is_228_tokens_a_second() {
        let roof = seven_b(1, Accelerator::H100_SXM.roof());
        let rate = 1.0 / seconds(&roof, &decode(1, 1));
        assert!((227.0..229.0).contains(&rate), "{rate}");
    }

    #[test]
    fn one_sequence_with_losses_is_near_the_goal_of_190_tokens_a_second() {
        let model = seven_b(1, Accelerator::H100_SXM);
        let rate = 1.0 / seconds(&model, &decode(1, 512));
        assert!((185.0..195.0).contains(&rate), "{rate}");
    }

    #[test]
    fn more_rows_and_longer_contexts_never_take_less() {
        let model = seven_b(1, Accelerator::H100_SXM);
        let mut last = Duration::ZERO;
        for sequences in [1, 2, 16, 64, 256, 1024, 4096] {
            let time = model.step_time(&decode(sequences, 512));
            assert!(
                time >= last,
                "{sequences} sequences: {time:?} after {last:?}"
            );
            assert!(model.step_time(&decode(sequences, 1024)) > time);
            last = time;
        }
        assert!(model.step_time(&prefill(4096, 0)) > model.step_time(&prefill(2048, 0)));
    }

    #[test]
    fn decodes_are_bound_by_memory_and_long_prompts_by_compute() {
        let model = seven_b(1, Accelerator::H100_SXM);
        let (decodes, prompt) = (decode(16, 512), prefill(4096, 0));
        assert!(model.memory_seconds(&decodes) > model.compute_seconds(&decodes));
        assert!(model.compute_seconds(&prompt) > model.memory_seconds(&prompt));
    }

    #[test]
    fn wider_groups_are_faster_but_less_than_their_width() {
        for work in [decode(1, 512), decode(256, 1536), prefill(2048, 0)] {
            let alone = seconds(&seven_b(1, Accelerator::H100_SXM), &work);
            let mut last = alone;
            for world_size in [2, 4, 8] {
                let time = seconds(&seven_b(world_size, Accelerator::H100_SXM), &work);
                assert!(time < last, "tp {world_size}: {time} after {last}");
                assert!(time > alone / world_size as f64, "tp {world_size}: {time}");
                last = time;
            }
        }
    }

    #[test]
    fn picture_rows_cost_their_low_rank_branches() {
        let model = seven_b(1, Accelerator::H100_SXM);
        let text = seconds(&model, &prefill(1265, 0));
        let picture = seconds(&model, &prefill(1265, 1225));
        // 8.65 % more in the linears of the picture's rows (spec section 11).
        let more = picture / text;
        assert!((1.05..1.09).contains(&more), "{more}");
    }

    #[test]
    fn the_cache_takes_what_the_weights_leave() {
        let one = seven_b(1, Accelerator::H100_SXM).kv_tokens();
        // 72 GB less 16.7 GB of weights, at 128 KiB a position.
        assert!((415_000..430_000).contains(&one), "{one}");
        assert!(seven_b(2, Accelerator::H100_SXM).kv_tokens() > 2 * one);
        let tight = Accelerator {
            memory_bytes: 8e9,
            ..Accelerator::H100_SXM
        };
        assert_eq!(seven_b(1, tight).kv_tokens(), BLOCK_TOKENS);
    }

    #[test]
    fn a_chunk_attends_to_all_before_it() {
        let mut chunks = StepWork::default();
        chunks.add_rows(0, 100, 0);
        chunks.add_rows(100, 160, 1);
        let mut whole = StepWork::default();
        whole.add_rows(0, 160, 1);
        assert_eq!(chunks.attended, whole.attended);
        assert_eq!(whole.attended, (1..=160).sum::<usize>());
    }
}
