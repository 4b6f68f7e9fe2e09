//! The kernels run by the emulator in `model/network/cuda/emulator`, and everything else that a GPU does in plain loops: so that all
//! tests of CUDA forms run where there is no GPU, kernels and the code that launches them alike. Slow, and no word on speed.
#![expect(unsafe_code, reason = "a GPU's memory is the heap here, by address")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{
    alloc::{self, Layout},
    collections::HashMap,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

use half::{bf16, f16};

use super::{
    backend::{Argument, Backend, Launch, Product, pointers},
    device::CudaDevice,
};
use crate::{
    device::Device,
    tensor::{DType, Result, TensorError},
};

type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    *mut *mut c_void,
) -> c_int;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

pub(super) struct Emulator {
    launch: LaunchFunction,
    /// Sizes of what was allocated, by address.
    allocated: Mutex<HashMap<u64, usize>>,
    /// What was put down so far, while it is put down and not done.
    recorded: Mutex<Option<Vec<Work>>>,
}

pub(super) struct Recording(Vec<Work>);

enum Work {
    Launch(String, Launch, Vec<Argument>),
    Multiply(Product),
    Copy { from: u64, to: u64, len: usize },
    Clear { at: u64, len: usize },
}

/// A device that runs kernels on the CPU; nothing, and a word why, where there is no C++ compiler.
pub(crate) fn emulated() -> Option<Device> {
    static LIBRARY: OnceLock<Result<LaunchFunction, String>> = OnceLock::new();
    match LIBRARY.get_or_init(load) {
        Ok(launch) => Some(Device::Cuda(CudaDevice::over(Backend::Emulator(
            Emulator {
                launch: *launch,
                allocated: Mutex::default(),
                recorded: Mutex::default(),
            },
        )))),
        Err(reason) => {
            eprintln!("skipped on the emulator: {reason}");
            None
        }
    }
}

/// The emulator, and the real GPU where there is one; whoever wants the GPU alone says so with `INKSTONE_TEST_GPU_ONLY`.
pub(super) fn gpus() -> Vec<(&'static str, Device)> {
    let mut devices = Vec::new();
    match Device::cuda(0) {
        Ok(device) => devices.push(("GPU", device)),
        Err(error) => eprintln!("skipped on the GPU: {error}"),
    }
    if std::env::var_os("INKSTONE_TEST_GPU_ONLY").is_none() {
        devices.extend(emulated().map(|device| ("emulator", device)));
    }
    devices
}

fn load() -> Result<LaunchFunction, String> {
    let library = build()?;
    let path =
        CString::new(library.to_string_lossy().as_bytes()).map_err(|error| error.to_string())?;
    const NOW: c_int = 2;
    // SAFETY: our own library; its initialisers fill a table of kernels.
    let handle = unsafe { dlopen(path.as_ptr(), NOW) };
    if handle.is_null() {
        return Err(format!("{} cannot be opened", library.display()));
    }
    // SAFETY: an open library and a name.
    let symbol = unsafe { dlsym(handle, c"emulator_launch".as_ptr()) };
    if symbol.is_null() {
        return Err("the library has no emulator_launch".to_owned());
    }
    // SAFETY: emulator.cpp declares it so.
    Ok(unsafe { std::mem::transmute::<*mut c_void, LaunchFunction>(symbol) })
}

/// Compiles the library, unless one of these very sources is there.
fn build() -> Result<PathBuf, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut hasher = blake3::Hasher::new();
    for folder in ["emulator", "kernels"] {
        let files = fs::read_dir(sources.join(folder)).map_err(|error| error.to_string())?;
        let mut files: Vec<_> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for file in files {
            hasher.update(&fs::read(&file).map_err(|error| error.to_string())?);
        }
    }
    let name = format!("kernels-{}.so", hasher.finalize().to_hex());
    let library = Path::new(env!("OUT_DIR")).join(name);
    if library.exists() {
        return Ok(library);
    }
    // Tests run in processes of their own, which may all come here: each builds its own and the last one stays.
    let own = library.with_extension(std::process::id().to_string());
    let output = Command::new("c++")
        .args([
            "-std=c++20",
            "-O2",
            "-shared",
            "-fPIC",
            "-Wno-attributes",
            "-o",
        ])
        .arg(&own)
        .arg(sources.join("emulator/all.cpp"))
        .output()
        .map_err(|error| format!("no C++ compiler: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::rename(&own, &library).map_err(|error| error.to_string())?;
    Ok(library)
}

impl Emulator {
    pub(super) fn allocate(&self, num_bytes: usize) -> Result<u64> {
        // SAFETY: the size is not zero.
        let address = unsafe { alloc::alloc(layout(num_bytes)) };
        // Not what a program may count on, so it shall not: bytes of a NaN in every type.
        // SAFETY: just allocated.
        unsafe { address.write_bytes(0xff, num_bytes) };
        let mut allocated = self.allocated.lock().unwrap();
        allocated.insert(address as u64, num_bytes);
        Ok(address as u64)
    }

    pub(super) fn release(&self, address: u64) {
        let len = self
            .allocated
            .lock()
            .unwrap()
            .remove(&address)
            .expect("allocated here");
        // SAFETY: from `allocate`, with that layout.
        unsafe { alloc::dealloc(address as *mut u8, layout(len)) };
    }

    /// Puts work down where that is what goes on; gives it back where it is to be done.
    fn put_down(&self, work: Work) -> Option<Work> {
        match &mut *self.recorded.lock().unwrap() {
            Some(recorded) => {
                recorded.push(work);
                None
            }
            None => Some(work),
        }
    }

    pub(super) fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Recording> {
        *self.recorded.lock().unwrap() = Some(Vec::new());
        let worked = work();
        let recorded = self.recorded.lock().unwrap().take();
        worked?;
        Ok(Recording(recorded.expect("put there above")))
    }

    pub(super) unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        for work in &recording.0 {
            // SAFETY: the caller's.
            unsafe { self.work(work)? };
        }
        Ok(())
    }

    unsafe fn work(&self, work: &Work) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            match work {
                Work::Launch(kernel, launch, arguments) => self.run(kernel, *launch, arguments),
                Work::Multiply(product) => {
                    multiply(product);
                    Ok(())
                }
                Work::Copy { from, to, len } => {
                    (*to as *mut u8).copy_from_nonoverlapping(*from as *const u8, *len);
                    Ok(())
                }
                Work::Clear { at, len } => {
                    (*at as *mut u8).write_bytes(0, *len);
                    Ok(())
                }
            }
        }
    }

    fn refuse_in_recording(&self, what: &'static str) -> Result<()> {
        if self.recorded.lock().unwrap().is_none() {
            return Ok(());
        }
        let reason = "bytes of the host cannot be recorded".to_owned();
        Err(TensorError::Unsupported { what, reason })
    }

    pub(super) unsafe fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_in_recording("copy in")?;
        // SAFETY: the caller's.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    pub(super) unsafe fn copy_piece_in(
        &self,
        to: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        self.refuse_in_recording("copy a piece in")?;
        // SAFETY: the caller's.
        fill(unsafe { std::slice::from_raw_parts_mut(to as *mut u8, len) });
        Ok(())
    }

    pub(super) unsafe fn copy_out(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.refuse_in_recording("copy out")?;
        // SAFETY: the caller's.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(from as *const u8, bytes.len())
        };
        Ok(())
    }

    pub(super) unsafe fn copy(&self, from: u64, to: u64, len: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.put(Work::Copy { from, to, len }) }
    }

    pub(super) unsafe fn clear(&self, at: u64, len: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.put(Work::Clear { at, len }) }
    }

    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        let work = Work::Launch(kernel.to_owned(), launch, arguments.to_vec());
        // SAFETY: the caller's.
        unsafe { self.put(work) }
    }

    pub(super) unsafe fn multiply(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.put(Work::Multiply(*product)) }
    }

    unsafe fn put(&self, work: Work) -> Result<()> {
        match self.put_down(work) {
            // SAFETY: the caller's.
            Some(work) => unsafe { self.work(&work) },
            None => Ok(()),
        }
    }

    unsafe fn run(&self, kernel: &str, launch: Launch, arguments: &[Argument]) -> Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        assert!(
            launch.block.is_multiple_of(32) && launch.block <= 1024,
            "{kernel}: {launch:?}"
        );
        let name = CString::new(kernel).unwrap();
        let grid = launch.grid.map(|size| size as c_uint);
        let block = [launch.block as c_uint, 1, 1];
        // SAFETY: the caller's.
        let status = unsafe {
            (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                launch.shared as c_uint,
                pointers(arguments).as_mut_ptr(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let reason = format!("there is no kernel {kernel}");
        Err(TensorError::Unsupported {
            what: "emulate",
            reason,
        })
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    pub(super) fn bind(&self) -> Result<()> {
        Ok(())
    }

    pub(super) fn identity(&self) -> Result<[u8; 16]> {
        Ok([1; 16])
    }

    pub(super) fn stream(&self) -> *mut c_void {
        std::ptr::null_mut()
    }

    pub(super) fn memory(&self) -> Result<(usize, usize)> {
        Ok((1 << 30, 1 << 30))
    }

    pub(super) fn num_multiprocessors(&self) -> usize {
        8
    }

    pub(super) fn describe(&self) -> String {
        "emulated GPU".to_owned()
    }
}

unsafe fn multiply(product: &Product) {
    let Product {
        rows,
        columns,
        depth,
        dtype,
        out_dtype,
        ..
    } = *product;
    // SAFETY: the caller's.
    let (x, w) = unsafe {
        (
            read(product.x, dtype, rows * depth),
            read(product.w, dtype, columns * depth),
        )
    };
    // SAFETY: the caller's.
    let bias = product
        .bias
        .map(|bias| unsafe { read(bias, out_dtype, columns) });
    // SAFETY: the caller's.
    let before = product
        .adds_to_y
        .then(|| unsafe { read(product.y, out_dtype, rows * columns) });
    for row in 0..rows {
        let x = &x[row * depth..][..depth];
        for column in 0..columns {
            let w = &w[column * depth..][..depth];
            let mut value = x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() * product.scale;
            let at = row * columns + column;
            value += before.as_ref().map_or(0.0, |before| before[at]);
            value += bias.as_ref().map_or(0.0, |bias| bias[column]);
            // SAFETY: the caller's.
            unsafe { write(product.y, out_dtype, at, value) };
        }
    }
}

fn layout(num_bytes: usize) -> Layout {
    Layout::from_size_align(num_bytes, 512).expect("sizes of tests")
}

unsafe fn read(address: u64, dtype: DType, len: usize) -> Vec<f32> {
    // SAFETY: the caller's; allocations are aligned far beyond any element.
    unsafe {
        match dtype {
            DType::F32 => std::slice::from_raw_parts(address as *const f32, len).to_vec(),
            DType::BF16 => std::slice::from_raw_parts(address as *const bf16, len)
                .iter()
                .map(|x| x.to_f32())
                .collect(),
            DType::F16 => std::slice::from_raw_parts(address as *const f16, len)
                .iter()
                .map(|x| x.to_f32())
                .collect(),
        }
    }
}

unsafe fn write(address: u64, dtype: DType, at: usize, value: f32) {
    // SAFETY: the caller's.
    unsafe {
        match dtype {
            DType::F32 => (address as *mut f32).add(at).write(value),
            DType::BF16 => (address as *mut bf16).add(at).write(bf16::from_f32(value)),
            DType::F16 => (address as *mut f16).add(at).write(f16::from_f32(value)),
        }
    }
}
