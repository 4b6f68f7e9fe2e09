//! A GPU through its driver. The driver and cuBLASLt are opened when a device is: a process without them runs on.
#![expect(unsafe_code, reason = "calls of the driver")]

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use cudarc::{
    cublaslt,
    driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys},
};

use super::{
    backend::{Argument, Launch, PIECE, Product, pointers},
    matmul::Matmul,
};
use crate::{
    device::DeviceError,
    tensor::{AlignedBytes, Result, TensorError},
};

/// All kernels, for every generation of GPUs that they were compiled for.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The oldest GPUs that the kernels run on.
const OLDEST: (i32, i32) = (8, 0);
/// Shared memory of a block that a kernel may have without being asked for more.
const ORDINARY_SHARED: usize = 48 << 10;

pub(super) struct Gpu {
    ordinal: usize,
    name: String,
    num_multiprocessors: usize,
    module: Module,
    functions: Mutex<HashMap<String, Function>>,
    matmul: Matmul,
    staging: Mutex<Staging>,
    is_recording: AtomicBool,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// A CUDA graph, ready to be launched.
pub(super) struct Recording(CudaGraph);

// SAFETY: handles of the driver, which may be used from any thread that has the context bound, one at a time: whoever owns it sees to
// that.
unsafe impl Send for Recording {}

struct Module(sys::CUmodule);
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of the driver, which may be used from any thread that has the context bound; every method binds it.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl Gpu {
    pub(super) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // SAFETY: opens libraries, whose initialisers are NVIDIA's.
        let (has_driver, has_blas) =
            unsafe { (sys::is_culib_present(), cublaslt::sys::is_culib_present()) };
        if !has_driver {
            return Err(DeviceError::NoDriver);
        }
        let driver = |what| {
            move |error: DriverError| DeviceError::Driver {
                what,
                reason: describe(error),
            }
        };
        let count = CudaContext::device_count().map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => DeviceError::NoSuchGpu { ordinal, found: 0 },
            _ => driver("count GPUs")(error),
        })?;
        if usize::try_from(count).is_ok_and(|count| ordinal >= count) {
            let found = count.unsigned_abs() as usize;
            return Err(DeviceError::NoSuchGpu { ordinal, found });
        }
        if !has_blas {
            return Err(DeviceError::NoLibrary {
                name: "libcublasLt.so",
            });
        }
        let context = CudaContext::new(ordinal).map_err(driver("open the GPU"))?;
        // Buffers are used on one stream only; events between streams would be spent for nothing, and in graphs they must not be.
        // SAFETY: no memory of cudarc's own is used.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(driver("ask for the GPU's name"))?;
        let found = context
            .compute_capability()
            .map_err(driver("ask for the GPU's generation"))?;
        if found < OLDEST {
            return Err(DeviceError::TooOld {
                name,
                found,
                wanted: OLDEST,
            });
        }
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let num_multiprocessors = context
            .attribute(attribute)
            .map_err(driver("ask for multiprocessors"))?;
        let stream = context.new_stream().map_err(driver("make a stream"))?;
        // The driver reads whole words.
        let image = AlignedBytes::copy_of(KERNELS);
        // SAFETY: the image is what nvcc wrote, whole.
        let module = unsafe { result::module::load_data(image.as_slice().as_ptr().cast()) };
        let module = Module(module.map_err(driver("load the kernels"))?);
        let matmul = Matmul::new().map_err(|reason| DeviceError::Driver {
            what: "start cuBLASLt",
            reason,
        })?;
        Ok(Self {
            ordinal,
            name,
            num_multiprocessors: num_multiprocessors.unsigned_abs() as usize,
            module,
            functions: Mutex::default(),
            matmul,
            staging: Mutex::default(),
            is_recording: AtomicBool::new(false),
            stream,
            context,
        })
    }

    pub(super) fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(failed("bind the GPU"))
    }

    pub(super) fn allocate(&self, num_bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the size is not zero; memory is read only where it was written.
        let address = unsafe { result::malloc_sync(num_bytes) };
        address.map_err(|error| TensorError::Unsupported {
            what: "take memory of the GPU",
            reason: format!("{} for {num_bytes} bytes", describe(error)),
        })
    }

    pub(super) fn release(&self, address: u64) {
        // What cannot be given back while the context goes down is gone with it.
        if self.bind().is_ok() {
            // SAFETY: from `allocate`, and unused by the caller's word.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    pub(super) unsafe fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_in_recording("copy to the GPU")?;
        self.bind()?;
        // The driver has taken over pageable memory when this returns.
        // SAFETY: the caller's.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(failed("copy to the GPU"))
    }

    pub(super) unsafe fn copy_piece_in(
        &self,
        to: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        const WHAT: &str = "copy a piece to the GPU";
        self.refuse_in_recording(WHAT)?;
        self.bind()?;
        let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        let slot = staging.next_slot().map_err(failed(WHAT))?;
        // The slot's last copy has read it before it is written again.
        // SAFETY: the event is alive as long as the staging.
        unsafe { result::event::synchronize(slot.event) }.map_err(failed(WHAT))?;
        // SAFETY: the slot has PIECE bytes, written once when it was made, and nobody else has the lock.
        let bytes = unsafe { std::slice::from_raw_parts_mut(slot.memory, len.min(PIECE)) };
        fill(bytes);
        let stream = self.stream.cu_stream();
        // SAFETY: the caller's for the target; the slot stays as it is until its event has passed.
        unsafe {
            result::memcpy_htod_async(to, bytes, stream).map_err(failed(WHAT))?;
            result::event::record(slot.event, stream).map_err(failed(WHAT))
        }
    }

    pub(super) unsafe fn copy_out(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.refuse_in_recording("copy from the GPU")?;
        self.bind()?;
        // SAFETY: the caller's; the bytes are not touched before the stream has come to an end.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(failed("copy from the GPU"))?;
        self.synchronize()
    }

    pub(super) unsafe fn copy(&self, from: u64, to: u64, len: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtod_async(to, from, len, self.stream.cu_stream()) }
            .map_err(failed("copy on the GPU"))
    }

    pub(super) unsafe fn clear(&self, at: u64, len: usize) -> Result<()> {
        self.bind()?;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { result::memset_d8_async(at, 0, len, self.stream.cu_stream()) }
            .map_err(failed("clear memory of the GPU"))
    }

    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel, launch.shared)?;
        let [x, y, z] = launch
            .grid
            .map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let block = u32::try_from(launch.block).unwrap_or(u32::MAX);
        let shared = u32::try_from(launch.shared).unwrap_or(u32::MAX);
        let stream = self.stream.cu_stream();
        // SAFETY: the caller's.
        let launched = unsafe {
            result::launch_kernel(
                function.0,
                (x, y, z),
                (block, 1, 1),
                shared,
                stream,
                &mut pointers(arguments),
            )
        };
        launched.map_err(|error| TensorError::Unsupported {
            what: "launch a kernel",
            reason: format!("{kernel} with {launch:?}: {}", describe(error)),
        })
    }

    pub(super) fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Recording> {
        const WHAT: &str = "record work for the GPU";
        // Memory may be taken meanwhile, by this thread and others: what is recorded does not depend on when.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed(WHAT))?;
        self.is_recording.store(true, Ordering::SeqCst);
        let worked = work();
        self.is_recording.store(false, Ordering::SeqCst);
        // However it went, the stream must come out of it.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        worked?;
        let graph = graph.map_err(failed(WHAT))?;
        let graph = graph.ok_or_else(|| TensorError::Unsupported {
            what: WHAT,
            reason: "nothing was put on the stream".to_owned(),
        })?;
        // Else the first launch would bring it there.
        graph.upload().map_err(failed(WHAT))?;
        Ok(Recording(graph))
    }

    pub(super) unsafe fn replay(&self, recording: &Recording) -> Result<()> {
        recording.0.launch().map_err(failed("replay on the GPU"))
    }

    fn refuse_in_recording(&self, what: &'static str) -> Result<()> {
        if !self.is_recording.load(Ordering::SeqCst) {
            return Ok(());
        }
        let reason = "bytes of the host cannot be recorded".to_owned();
        Err(TensorError::Unsupported { what, reason })
    }

    /// A kernel by name, allowed the shared memory that it needs.
    fn function(&self, kernel: &str, shared: usize) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = functions.get(kernel) {
            return Ok(*function);
        }
        let no_such = |error| TensorError::Unsupported {
            what: "find a kernel",
            reason: format!("{kernel}: {}", describe(error)),
        };
        let name = CString::new(kernel).expect("names of kernels are identifiers");
        // SAFETY: the module lives as long as the GPU.
        let function =
            unsafe { result::module::get_function(self.module.0, name) }.map_err(no_such)?;
        if shared > ORDINARY_SHARED {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let shared = i32::try_from(shared).unwrap_or(i32::MAX);
            // SAFETY: the function was just found.
            unsafe { result::function::set_function_attribute(function, attribute, shared) }
                .map_err(no_such)?;
        }
        functions.insert(kernel.to_owned(), Function(function));
        Ok(Function(function))
    }

    pub(super) unsafe fn multiply(&self, product: &Product) -> Result<()> {
        self.bind()?;
        // The workspace is taken with the first product, when the context is bound for sure.
        let workspace = self.matmul.workspace(|len| self.allocate(len))?;
        // SAFETY: the caller's.
        unsafe {
            self.matmul
                .multiply(product, workspace, self.stream.cu_stream())
        }
        .map_err(|reason| TensorError::Unsupported {
            what: "multiply on the GPU",
            reason,
        })
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream
            .synchronize()
            .map_err(failed("wait for the GPU"))
    }

    pub(super) fn memory(&self) -> Result<(usize, usize)> {
        self.context
            .mem_get_info()
            .map_err(failed("ask for the GPU's memory"))
    }

    pub(super) fn num_multiprocessors(&self) -> usize {
        self.num_multiprocessors
    }

    pub(super) fn describe(&self) -> String {
        format!("GPU {}, {}", self.ordinal, self.name)
    }

    pub(super) fn stream(&self) -> *mut c_void {
        self.stream.cu_stream().cast()
    }

    pub(super) fn identity(&self) -> Result<[u8; 16]> {
        let uuid = self
            .context
            .uuid()
            .map_err(failed("ask for the GPU's identity"))?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: nothing runs any more once the stream is empty, and nobody can launch.
            let _ = self.synchronize();
            let module = std::mem::replace(&mut self.module.0, ptr::null_mut());
            // SAFETY: loaded in `open`.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Memory of the host that the GPU reads by itself, in two slots used in turn. Made when it is first needed: most of it is never.
#[derive(Default)]
struct Staging {
    slots: Vec<Slot>,
    num_used: usize,
}

struct Slot {
    memory: *mut u8,
    event: sys::CUevent,
}

// SAFETY: the pointer is this slot's alone, and the event may be used from any thread with the context bound.
unsafe impl Send for Slot {}

impl Staging {
    fn next_slot(&mut self) -> Result<&Slot, DriverError> {
        while self.slots.len() < 2 {
            // SAFETY: the context is bound; the memory is written before it is read.
            let memory = unsafe { result::malloc_host(PIECE, 0)? }.cast::<u8>();
            // SAFETY: just allocated, of that size.
            unsafe { memory.write_bytes(0, PIECE) };
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            self.slots.push(Slot { memory, event });
        }
        self.num_used += 1;
        Ok(&self.slots[self.num_used % 2])
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: made in `next_slot`; the GPU's own drop has emptied the stream.
        unsafe {
            let _ = result::event::destroy(self.event);
            let _ = result::free_host(self.memory.cast());
        }
    }
}

fn failed(what: &'static str) -> impl Fn(DriverError) -> TensorError {
    move |error| TensorError::Unsupported {
        what,
        reason: describe(error),
    }
}

/// The driver's name for an error, and what it says.
fn describe(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    format!(
        "{} ({})",
        text(error.error_name()),
        text(error.error_string())
    )
}
