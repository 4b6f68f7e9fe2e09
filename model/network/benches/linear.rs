//! The linear op beside the machine's memory rate (one row and few rows) and beside the best matrix product library (many
//! rows): `cargo bench -p inkstone-model --bench linear`
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod ceilings;

use std::hint::black_box;

use ceilings::{best, library_gemm_rate, memory_rate};
use inkstone_model::{
    device::Device,
    ops::linear::linear,
    tensor::{DType, Tensor},
};

/// Weights of the 7B decoder: `wo`, and `w1` which no cache holds.
const SHAPES: [(usize, usize); 2] = [(4096, 4096), (14336, 4096)];
const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

fn main() {
    for num_threads in [1, 2] {
        let memory = memory_rate(num_threads);
        println!(
            "{num_threads} threads: memory read {:.1} GB/s",
            memory / 1e9
        );
        println!(
            "{:<10} {:>14} {:>6} {:>9} {:>9}",
            "weights", "shape", "rows", "GB/s", "of memory"
        );
        for (n, k) in SHAPES {
            for dtype in TYPES {
                for m in [1, 2, 4, 8, 16, 24] {
                    let seconds = seconds(num_threads, dtype, m, k, n, 7);
                    let rate = (n * k * dtype.num_bytes()) as f64 / seconds;
                    let shape = format!("{n} x {k}");
                    println!(
                        "{:<10} {shape:>14} {m:>6} {:>9.1} {:>8.0}%",
                        format!("{dtype:?}"),
                        rate / 1e9,
                        100.0 * rate / memory
                    );
                }
            }
        }
        let (m, k, n) = (512, 4096, 4096);
        let library = library_gemm_rate(num_threads, m, k, n);
        println!(
            "gemm crate, f32, {m} x {k} x {n}: {:.1} GFLOP/s",
            library / 1e9
        );
        for dtype in TYPES {
            let rate = 2.0 * (m * k * n) as f64 / seconds(num_threads, dtype, m, k, n, 5);
            println!(
                "{:<10} {m} rows: {:>8.1} GFLOP/s, {:>4.0}% of the gemm crate",
                format!("{dtype:?}"),
                rate / 1e9,
                100.0 * rate / library
            );
        }
        let device = ceilings::cpu(num_threads);
        let empty = best(2000, || {
            device.parallel_for(num_threads, |task| {
                black_box(task);
            })
        });
        println!("an op that computes nothing: {:.1} µs\n", empty * 1e6);
    }
}

fn seconds(num_threads: usize, dtype: DType, m: usize, k: usize, n: usize, num_runs: usize) -> f64 {
    let device = Device::cpu(num_threads);
    let numbers = |rows: usize| -> Vec<f32> {
        (0..rows * k)
            .map(|at| (at % 97) as f32 * 0.01 - 0.5)
            .collect()
    };
    let x = Tensor::from_f32(&device, &[m, k], &numbers(m)).expect("a sound shape");
    let w = Tensor::from_f32(&device, &[n, k], &numbers(n)).expect("a sound shape");
    let w = w.to_dtype(dtype).expect("a known type");
    best(num_runs, || {
        drop(black_box(linear(&x, &w, None).expect("sound shapes")))
    })
}
