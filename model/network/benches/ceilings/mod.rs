//! What the machine allows, measured in the run of the benchmark that shows it: memory read, and the matrix product of the
//! `gemm` crate (which candle uses), the best library beside ours.
#![allow(dead_code, reason = "each benchmark takes what it needs")]
#![expect(unsafe_code, reason = "the library takes pointers")]

use std::{hint::black_box, time::Instant};

use gemm::Parallelism;
use inkstone_model::device::CpuDevice;

/// Seconds of the fastest of `num_runs` runs: others may use the machine meanwhile.
pub(crate) fn best(num_runs: usize, mut run: impl FnMut()) -> f64 {
    let mut time = || {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    };
    (0..num_runs).map(|_| time()).fold(f64::INFINITY, f64::min)
}

pub(crate) fn cpu(num_threads: usize) -> CpuDevice {
    CpuDevice::new(num_threads)
}

/// Bytes per second that `num_threads` threads read from memory.
pub(crate) fn memory_rate(num_threads: usize) -> f64 {
    let device = cpu(num_threads);
    let numbers = vec![1u64; 1 << 27];
    let pieces: Vec<&[u64]> = numbers.chunks(1 << 17).collect();
    let seconds = best(5, || {
        device.parallel_for(pieces.len(), |piece| {
            black_box(pieces[piece].iter().fold(0u64, |sum, number| sum ^ number));
        });
    });
    size_of_val(numbers.as_slice()) as f64 / seconds
}

/// Floating-point operations per second of the `gemm` crate for `[m, k] · [n, k]ᵀ` in f32.
pub(crate) fn library_gemm_rate(num_threads: usize, m: usize, k: usize, n: usize) -> f64 {
    let (x, w) = (vec![1.0_f32; m * k], vec![1.0_f32; n * k]);
    let mut y = vec![0.0_f32; m * n];
    let parallelism = match num_threads {
        1 => Parallelism::None,
        more => Parallelism::Rayon(more),
    };
    let [k_stride, n_stride] = [k, n].map(usize::cast_signed);
    let seconds = best(5, || {
        // SAFETY: x is [m, k], w read as its transpose [k, n], y [m, n]; all three are whole and our own.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                y.as_mut_ptr(),
                1,
                n_stride,
                false,
                x.as_ptr(),
                1,
                k_stride,
                w.as_ptr(),
                k_stride,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        black_box(&y);
    });
    2.0 * (m * k * n) as f64 / seconds
}
