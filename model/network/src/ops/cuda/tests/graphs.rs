//! Recorded steps: attention over pages for single rows, replayed with rows that the recording never saw, against the same ops one by
//! one. The rest of a decode step is rows and products, which know nothing of sequences.

use super::*;
use crate::{
    ops::decode_graphs::{DecodeGraphs, DecodeRows},
    tensor::TensorError,
};

const VOCABULARY: usize = 11;
const NUM_BLOCKS: usize = 40;

/// A step of single rows: tokens, their positions, and blocks.
struct Rows {
    ids: Vec<u32>,
    spans: Vec<RotarySpan>,
    plan: AttentionPlan,
}

impl Rows {
    /// Sequences at these positions, the tokens by step, each with blocks of its own.
    fn new(step: usize, positions: &[usize]) -> Self {
        let mut free = (0..NUM_BLOCKS as u32).rev();
        let tables: Vec<Vec<u32>> = positions
            .iter()
            .map(|position| free.by_ref().take(position / 16 + 1).collect())
            .collect();
        let sequences: Vec<_> = positions.iter().zip(&tables).collect();
        let rows: Vec<_> = sequences
            .iter()
            .map(|&(&start, block_table)| SequenceRows {
                start,
                num_rows: 1,
                block_table,
            })
            .collect();
        let span = |&start: &usize| RotarySpan {
            num_rows: 1,
            start,
            base: if start > 60 { 2e4 } else { 1e4 },
            divisor: 1.0,
        };
        let id = |index| ((step * 7 + index * 3) % VOCABULARY) as u32;
        Self {
            ids: (0..positions.len()).map(id).collect(),
            spans: positions.iter().map(span).collect(),
            plan: AttentionPlan::new(&rows, NUM_BLOCKS).unwrap(),
        }
    }

    fn decode_rows(&self) -> DecodeRows<'_> {
        DecodeRows {
            ids: &self.ids,
            spans: &self.spans,
            plan: &self.plan,
        }
    }
}

/// A table of rows as the fused projection gives them, and pages with keys and values in every place.
fn table_and_pages(place: &Place, layout: &QkvLayout) -> (Tensor, KvPages) {
    let width = layout.width();
    let table = place.weight(&[VOCABULARY, width], &place.numbers(31, VOCABULARY * width));
    let mut pages = KvPages::new(
        NUM_BLOCKS,
        layout.num_kv_heads,
        layout.head_dim,
        place.dtype,
        &place.device,
    );
    let blocks: Vec<u32> = (0..NUM_BLOCKS as u32).collect();
    let all = SequenceRows {
        start: 0,
        num_rows: NUM_BLOCKS * 16,
        block_table: &blocks,
    };
    let plan = AttentionPlan::new(&[all], NUM_BLOCKS).unwrap();
    let qkv = place.numbers(32, plan.num_rows() * width);
    let qkv = place.tensor(&[plan.num_rows(), width], &qkv);
    write_pages(&qkv, layout, &plan, &mut pages).unwrap();
    (table, pages)
}

fn one_by_one(table: &Tensor, rows: &Rows, layout: &QkvLayout, pages: &mut KvPages) -> Tensor {
    let device = table.device().clone();
    let shape = [rows.ids.len(), table.cols()];
    let mut qkv = Tensor::unwritten(&device, table.dtype(), &shape).unwrap();
    embed(table, &rows.ids, &mut qkv, 0).unwrap();
    let angles = RotaryAngles::new(&device, layout.head_dim, &rows.spans).unwrap();
    rotate_and_write_pages(&mut qkv, layout, &angles, &rows.plan, pages).unwrap();
    attention(&qkv, layout, &rows.plan, pages).unwrap()
}

fn record(graphs: &mut DecodeGraphs, table: &Tensor, layout: &QkvLayout, pages: &mut KvPages) {
    for num_rows in [8, 2] {
        graphs
            .record(num_rows, &mut |inputs| {
                let mut qkv = inputs.embed(table)?;
                let plan = inputs.plan();
                rotate_and_write_pages(&mut qkv, layout, &inputs.angles()?, plan, pages)?;
                attention(&qkv, layout, plan, pages)
            })
            .unwrap();
    }
}

fn contents(pages: &KvPages) -> Vec<f32> {
    let mut contents = pages.keys.to_f32_vec().unwrap();
    contents.extend(pages.values.to_f32_vec().unwrap());
    contents
}

#[test]
fn a_replayed_step_is_the_step_op_by_op() {
    let layout = |num_kv_heads, group, head_dim| QkvLayout {
        num_kv_heads,
        group,
        head_dim,
    };
    // Split over keys, by tiles, and one by one.
    let cases = [
        (layout(2, 4, 128), DType::BF16),
        (layout(1, 7, 128), DType::F16),
        (layout(2, 2, 24), DType::BF16),
        (layout(1, 1, 128), DType::F32),
    ];
    // Fewer rows and more, short sequences and long, one that begins; positions go on from step to step in between.
    let steps: [&[usize]; 6] = [
        &[5, 30, 200],
        &[6, 31, 201],
        &[0],
        &[7, 32],
        &[100, 15, 16, 3, 64, 17, 0, 130],
        &[8, 33, 202, 4, 1],
    ];
    for (layout, dtype) in cases {
        for (name, device) in gpus() {
            let place = Place {
                name,
                device,
                dtype,
            };
            let (table, mut pages) = table_and_pages(&place, &layout);
            let (_, mut other_pages) = table_and_pages(&place, &layout);
            let mut graphs = DecodeGraphs::on(&place.device, layout, NUM_BLOCKS, 8)
                .unwrap()
                .expect("a GPU records");
            let before = contents(&pages);
            record(&mut graphs, &table, &layout, &mut pages);
            assert_eq!(contents(&pages), before, "recording writes no page");
            for (step, positions) in steps.into_iter().enumerate() {
                let rows = Rows::new(step, positions);
                let wanted = one_by_one(&table, &rows, &layout, &mut other_pages);
                let found = graphs.replay(&rows.decode_rows()).unwrap();
                let found = found.expect("there is room for these rows");
                assert_eq!(found.shape(), wanted.shape());
                let wanted = wanted.to_f32_vec().unwrap();
                let largest = wanted.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                // Keys may be split elsewhere, so the last place may be another.
                let unit = match dtype {
                    DType::F32 => 1e-6,
                    DType::F16 => 1.0 / 2048.0,
                    DType::BF16 => 1.0 / 256.0,
                };
                for (found, wanted) in found.to_f32_vec().unwrap().iter().zip(&wanted) {
                    assert!(
                        (found - wanted).abs() <= 2.0 * unit * largest,
                        "{name} {layout:?} step {step}: {found} {wanted}"
                    );
                }
                assert_eq!(contents(&pages), contents(&other_pages), "{name} {step}");
            }
            let too_many = Rows::new(0, &[1; 9]);
            assert!(graphs.replay(&too_many.decode_rows()).unwrap().is_none());
            let mut too_different = Rows::new(0, &[1; 5]);
            for (index, span) in too_different.spans.iter_mut().enumerate() {
                span.base += index as f64;
            }
            let replayed = graphs.replay(&too_different.decode_rows()).unwrap();
            assert!(replayed.is_none(), "{name}: five rotary bases");
        }
    }
}

#[test]
fn memory_of_a_recording_comes_back_and_bytes_of_the_host_are_not_recorded() {
    for (name, device) in gpus() {
        let layout = QkvLayout {
            num_kv_heads: 1,
            group: 1,
            head_dim: 128,
        };
        let Device::Cuda(cuda) = &device else {
            panic!("{name} is no GPU");
        };
        let place = Place {
            name,
            device: device.clone(),
            dtype: DType::F16,
        };
        let (table, mut pages) = table_and_pages(&place, &layout);
        cuda.memory().unwrap();
        let before = cuda.held_bytes();
        let mut graphs = DecodeGraphs::on(&device, layout, NUM_BLOCKS, 8)
            .unwrap()
            .unwrap();
        record(&mut graphs, &table, &layout, &mut pages);
        cuda.memory().unwrap();
        let with = cuda.held_bytes();
        assert!(with > before, "{name}: what replays write is kept");
        let refused = graphs.record(1, &mut |inputs| {
            let mut x = inputs.embed(&table)?;
            // As careless code would: indices that go along with the launch.
            embed(&table, &[3], &mut x, 0)?;
            Ok::<_, TensorError>(x)
        });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("cannot be recorded"), "{name}: {refused}");
        // The device works on, and what was recorded before is still there.
        let rows = Rows::new(0, &[20]);
        assert!(graphs.replay(&rows.decode_rows()).unwrap().is_some());
        drop(graphs);
        cuda.memory().unwrap();
        assert_eq!(cuda.held_bytes(), before, "{name}");
    }
}
