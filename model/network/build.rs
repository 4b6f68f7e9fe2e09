//! With the feature `cuda`: compiles the kernels to one binary for every generation of GPUs that is served, which is then embedded.
//! Without it: nothing. nvcc is looked for where `deploy/cuda/fetch-toolkit.sh` puts it, then where toolkits usually are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Machine code for these, and PTX of the last, which the driver compiles for what comes later.
const GENERATIONS: [&str; 2] = ["80", "90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=cuda/kernels");
    for name in ["INKSTONE_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.fatbin");
    let kernels = Path::new("cuda/kernels");
    let compiled =
        cache().map(|cache| cache.join(format!("kernels-{:016x}.fatbin", digest(kernels))));
    match compiled {
        // Profiles and folders of their own need not compile the same kernels anew: it takes minutes.
        Some(compiled) if compiled.is_file() => {
            fs::copy(compiled, out).expect("the file is there");
        }
        compiled => {
            compile(&toolkit(), &kernels.join("all.cu"), &out);
            if let Some(compiled) = compiled {
                // A cache that cannot be written is none.
                let _ = fs::create_dir_all(compiled.parent().expect("in a folder"));
                let _ = fs::copy(&out, compiled);
            }
        }
    }
}

/// What the compiled kernels are made of: their sources and how they are compiled.
fn digest(kernels: &Path) -> u64 {
    let entries = fs::read_dir(kernels).expect("the kernels are there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    let mut bytes = GENERATIONS.join(" ").into_bytes();
    for file in files {
        bytes.extend(fs::read(file).expect("readable"));
    }
    // FNV-1a: a change is to be noticed, nobody is to be kept out.
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// Where things that take long to get are kept between builds.
fn cache() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("inkstone"))
}

/// The folder of a CUDA toolkit: the first that has a compiler.
fn toolkit() -> PathBuf {
    let named = ["INKSTONE_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(PathBuf::from);
    let cache = cache().map(|cache| cache.join("cuda-13.0/nvidia/cu13"));
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    let mut homes = named.chain(cache).chain(usual);
    homes.find(|home| home.join("bin/nvcc").is_file()).unwrap_or_else(|| {
        panic!(
            "the feature `cuda` needs nvcc of CUDA 12.8 or later: set CUDA_HOME to a toolkit, or run \
             deploy/cuda/fetch-toolkit.sh, which fetches the compiler (about 100 MB) from PyPI"
        )
    })
}

fn compile(home: &Path, source: &Path, out: &Path) {
    let mut nvcc = Command::new(home.join("bin/nvcc"));
    nvcc.env("CUDA_HOME", home)
        .args(["-std=c++17", "-O3", "-fatbin"]);
    for generation in GENERATIONS {
        nvcc.arg(format!(
            "-gencode=arch=compute_{generation},code=sm_{generation}"
        ));
    }
    let last = GENERATIONS[GENERATIONS.len() - 1];
    nvcc.arg(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    // Names the source in profiles; costs nothing at run time.
    nvcc.arg("-lineinfo").arg("-o").arg(out).arg(source);
    let output = nvcc.output().unwrap_or_else(|error| {
        panic!("{} cannot be run: {error}", home.join("bin/nvcc").display())
    });
    if !output.status.success() {
        panic!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let len = fs::metadata(out).map_or(0, |file| file.len());
    assert!(len > 0, "nvcc wrote nothing to {}", out.display());
}
