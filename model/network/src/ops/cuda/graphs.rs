//! Decode steps as CUDA graphs: hundreds of launches recorded once for a number of rows, and asked for by one launch ever after. What
//! changes from step to step (tokens, positions, slots, block tables) is read from memory that stays at its place and is written
//! before each replay; a step with fewer rows than a recorded one is filled up with rows that write nothing.
#![expect(unsafe_code, reason = "recorded work names memory by address")]

use std::{collections::BTreeMap, sync::Arc};

use super::{
    attention::{Lists, UploadedPlan},
    backend::Recording,
    device::{CudaDevice, address_mut},
    memory::{Arena, CudaBuffer},
    rowwise::RotaryRows,
    words::Words,
};
use crate::{
    device::Device,
    ops::{
        attention::AttentionPlan,
        decode_graphs::DecodeRows,
        rotary::{QkvLayout, RotaryAngles},
    },
    tensor::{DType, Result, Tensor},
};

/// Different rotary bases in a step: prompts beyond the reference's longest have one each, all others share one.
const MOST_BASES: usize = 4;
/// Entries of all block tables of a step: 256 sequences of 65,536 positions.
const MOST_TABLE_ENTRIES: usize = 1 << 20;

/// Recorded steps, on one cache and with one model's weights: whoever owns them sees to it that both are there.
pub struct DecodeGraphs {
    device: CudaDevice,
    layout: QkvLayout,
    num_blocks: usize,
    /// What a step reads; the same memory for all of them.
    inputs: Arc<CudaBuffer>,
    /// By their number of rows.
    steps: BTreeMap<usize, RecordedStep>,
    arena: Arc<Arena>,
}

struct RecordedStep {
    recording: Recording,
    /// What the step leaves.
    hidden: Tensor,
}

/// What a step that is being recorded reads.
pub struct DecodeInputs {
    device: CudaDevice,
    layout: QkvLayout,
    num_rows: usize,
    words: Words,
    plan: AttentionPlan,
}

/// Where things lie in a step's words: token ids, positions and bases, then what attention reads, whose tables come last.
struct Places {
    rotary: usize,
    attention: usize,
}

impl Places {
    fn new(num_rows: usize, layout: &QkvLayout) -> Self {
        let rotary = num_rows;
        let attention = rotary + 2 * num_rows + MOST_BASES * layout.head_dim / 2;
        Self { rotary, attention }
    }
}

impl DecodeGraphs {
    /// No step yet, of a model with this layout of heads, on a cache of `num_blocks` blocks. `most_rows`: of the largest step to come.
    pub(crate) fn new(
        device: &CudaDevice,
        layout: QkvLayout,
        num_blocks: usize,
        most_rows: usize,
    ) -> Result<Self> {
        // Rows of attention's lists take seven words each at most.
        let len = Places::new(most_rows, &layout).attention + 7 * most_rows + MOST_TABLE_ENTRIES;
        Ok(Self {
            inputs: Arc::new(device.zeros(len * size_of::<u32>())?),
            device: device.clone(),
            layout,
            num_blocks,
            steps: BTreeMap::new(),
            arena: Arc::default(),
        })
    }

    /// Records what `forward` does with `num_rows` rows. It is called twice: first it runs, on rows that mean nothing, so that
    /// whatever is made at first use is there; then it is recorded.
    pub(crate) fn record<E: From<crate::tensor::TensorError>>(
        &mut self,
        num_rows: usize,
        forward: &mut dyn FnMut(&DecodeInputs) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let nobody = AttentionPlan::new(&[], self.num_blocks).expect("no rows fit any cache");
        let nothing = DecodeRows {
            ids: &[],
            spans: &[],
            plan: &nobody,
        };
        let (words, lists) = self
            .words(&nothing, num_rows)
            .expect("room for rows without sequences");
        self.send(&words)?;
        let inputs = self.inputs(num_rows, &lists);
        let (device, arena) = (&self.device, &self.arena);
        let (recording, made) = device.pool().within(arena, || {
            drop(forward(&inputs)?);
            device.synchronize()?;
            let mut made = None;
            let recording = device.backend().record(&mut || {
                made = Some(forward(&inputs));
                Ok(())
            });
            Ok::<_, E>((recording, made))
        })?;
        let hidden = made.expect("work is called once")?;
        let step = RecordedStep {
            recording: recording?,
            hidden,
        };
        self.steps.insert(num_rows, step);
        Ok(())
    }

    /// Replays the smallest step that has room for these rows and gives their hidden states, which are there until the next replay;
    /// nothing where no step has room.
    pub(crate) fn replay(&self, rows: &DecodeRows<'_>) -> Result<Option<Tensor>> {
        let Some((&num_rows, step)) = self.steps.range(rows.ids.len()..).next() else {
            return Ok(None);
        };
        let Some((words, _)) = self.words(rows, num_rows) else {
            return Ok(None);
        };
        self.send(&words)?;
        // SAFETY: weights and cache are the owner's to keep; all else that the step names is this one's, the arena's memory included.
        unsafe { self.device.backend().replay(&step.recording)? };
        step.hidden.narrow_rows(0..rows.ids.len()).map(Some)
    }

    /// What a step of `num_rows` rows reads for these; nothing where its memory has no room for it.
    fn words(&self, rows: &DecodeRows<'_>, num_rows: usize) -> Option<(Vec<u32>, Lists)> {
        let places = Places::new(num_rows, &self.layout);
        let mut rotary = RotaryRows::new(rows.spans);
        let mut lists = Lists::new(rows.plan, self.layout.group);
        rotary.pad(num_rows);
        lists.pad(num_rows, self.layout.group);
        let mut words = rows.ids.to_vec();
        words.resize(places.rotary, 0);
        rotary.put_into(self.layout.head_dim, &mut words);
        if words.len() > places.attention {
            return None;
        }
        words.resize(places.attention, 0);
        lists.put_into(&mut words);
        (size_of_val(&words[..]) <= self.inputs.len()).then_some((words, lists))
    }

    fn send(&self, words: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        assert!(bytes.len() <= self.inputs.len(), "inside the buffer");
        // SAFETY: just checked.
        unsafe { self.device.backend().copy_in(self.inputs.address(), bytes) }
    }

    fn inputs(&self, num_rows: usize, lists: &Lists) -> DecodeInputs {
        let words = Words::over(Arc::clone(&self.inputs));
        let places = Places::new(num_rows, &self.layout);
        let of_attention = words.from(places.attention);
        let plan = UploadedPlan::over(of_attention, lists, self.layout.group).of_any_length();
        DecodeInputs {
            device: self.device.clone(),
            layout: self.layout,
            num_rows,
            words,
            plan: AttentionPlan::on_a_device(num_rows, self.num_blocks, plan),
        }
    }
}

impl Drop for DecodeGraphs {
    fn drop(&mut self) {
        // A step that still runs uses what goes now. Nobody is left to tell of an error.
        let _ = self.device.synchronize();
    }
}

impl DecodeInputs {
    /// Where the rows belong in the cache.
    pub(crate) fn plan(&self) -> &AttentionPlan {
        &self.plan
    }

    /// The embeddings of the rows' tokens, `[num_rows, hidden_size]`.
    pub(crate) fn embed(&self, table: &Tensor) -> Result<Tensor> {
        let device = Device::Cuda(self.device.clone());
        let mut hidden = Tensor::unwritten(&device, table.dtype(), &[self.num_rows, table.cols()])?;
        let to = address_mut(&mut hidden)?;
        self.device
            .gather_by(table, self.words.at(0), self.num_rows, to)?;
        Ok(hidden)
    }

    /// The rotary angles of the rows' positions.
    pub(crate) fn angles(&self) -> Result<RotaryAngles> {
        let device = Device::Cuda(self.device.clone());
        let half = self.layout.head_dim / 2;
        let table = || Tensor::unwritten(&device, DType::F32, &[self.num_rows, half]);
        let (mut cos, mut sin) = (table()?, table()?);
        let rows = self
            .words
            .from(Places::new(self.num_rows, &self.layout).rotary);
        self.device
            .rotary_angles_by(&rows, self.layout.head_dim, &mut cos, &mut sin)?;
        Ok(RotaryAngles::of_tables(cos, sin))
    }
}
