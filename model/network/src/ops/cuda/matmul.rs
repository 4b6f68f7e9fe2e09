//! Matrix products by cuBLASLt. For each shape the algorithm that its heuristics name is asked for once and kept.
#![expect(unsafe_code, reason = "calls of cuBLASLt")]

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr,
    sync::{Mutex, OnceLock},
};

use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys::{
            self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t,
            cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t, cudaDataType,
        },
    },
    driver,
};

use super::backend::Product;
use crate::tensor::{DType, Result};

/// What cuBLASLt may use for partial sums: as much as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// `CUBLAS_OP_T`, which is cuBLAS's, whose bindings are not built for one number.
const TRANSPOSED: i32 = 1;

pub(super) struct Matmul {
    handle: sys::cublasLtHandle_t,
    algorithms: Mutex<HashMap<Shape, cublasLtMatmulAlgo_t>>,
    workspace: OnceLock<u64>,
}

// SAFETY: cuBLASLt's handle may be used by several threads; this one is used under its GPU's context only.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    columns: usize,
    depth: usize,
    dtype: DType,
    out_dtype: DType,
    has_bias: bool,
    adds_to_y: bool,
    /// Address bits that decide which accesses are allowed.
    is_aligned: bool,
}

/// Descriptions that cuBLASLt hands out, given back at the end.
struct Descriptions {
    operation: sys::cublasLtMatmulDesc_t,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}

impl Matmul {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            handle: result::create_handle().map_err(text)?,
            algorithms: Mutex::default(),
            workspace: OnceLock::new(),
        })
    }

    /// The workspace's address; `allocate` is asked once.
    pub(super) fn workspace<E>(
        &self,
        allocate: impl FnOnce(usize) -> Result<u64, E>,
    ) -> Result<u64, E> {
        if let Some(address) = self.workspace.get() {
            return Ok(*address);
        }
        let address = allocate(WORKSPACE)?;
        Ok(*self.workspace.get_or_init(|| address))
    }

    /// # Safety
    /// As [`Product`] says; the context must be bound and `workspace` be that of this GPU.
    pub(super) unsafe fn multiply(
        &self,
        product: &Product,
        workspace: u64,
        stream: driver::sys::CUstream,
    ) -> Result<(), String> {
        if product.rows == 0 || product.columns == 0 {
            return Ok(());
        }
        let descriptions = Descriptions::new(product).map_err(text)?;
        let algorithm = self.algorithm(product, &descriptions)?;
        let scale = product.scale;
        let beta = if product.adds_to_y { 1.0_f32 } else { 0.0 };
        // SAFETY: the caller's; descriptions match the addresses, and cuBLASLt reads scale and beta before it returns.
        unsafe {
            result::matmul(
                self.handle,
                descriptions.operation,
                ptr::from_ref(&scale).cast(),
                ptr::from_ref(&beta).cast(),
                product.w as *const c_void,
                descriptions.w,
                product.x as *const c_void,
                descriptions.x,
                product.y as *const c_void,
                descriptions.y,
                product.y as *mut c_void,
                descriptions.y,
                &algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }
        .map_err(|error| format!("{}: {product:?}", text(error)))
    }

    fn algorithm(
        &self,
        product: &Product,
        of: &Descriptions,
    ) -> Result<cublasLtMatmulAlgo_t, String> {
        let shape = Shape {
            rows: product.rows,
            columns: product.columns,
            depth: product.depth,
            dtype: product.dtype,
            out_dtype: product.out_dtype,
            has_bias: product.bias.is_some(),
            adds_to_y: product.adds_to_y,
            is_aligned: (product.x | product.w | product.y).is_multiple_of(16),
        };
        let mut algorithms = self.algorithms.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(algorithm) = algorithms.get(&shape) {
            return Ok(*algorithm);
        }
        // Steps differ in their number of rows for ever; what is kept is bounded.
        const MOST_KEPT: usize = 4096;
        if algorithms.len() >= MOST_KEPT {
            algorithms.clear();
        }
        let algorithm = self
            .ask(shape.is_aligned, of)
            .map_err(|error| format!("no algorithm for {product:?}: {}", text(error)))?;
        algorithms.insert(shape, algorithm);
        Ok(algorithm)
    }

    fn ask(
        &self,
        is_aligned: bool,
        of: &Descriptions,
    ) -> Result<cublasLtMatmulAlgo_t, CublasError> {
        use cublasLtMatmulPreferenceAttributes_t as Attribute;
        let alignment: u32 = if is_aligned { 16 } else { 2 };
        let preference = result::create_matmul_pref()?;
        let set = |attribute, value: *const c_void, len| {
            // SAFETY: cuBLASLt copies `len` bytes of a value that lives through the call.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, value, len) }
        };
        let asked = set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            ptr::from_ref(&WORKSPACE).cast(),
            size_of::<usize>(),
        )
        .and_then(|()| {
            [
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ]
            .into_iter()
            .try_for_each(|attribute| {
                set(
                    attribute,
                    ptr::from_ref(&alignment).cast(),
                    size_of::<u32>(),
                )
            })
        })
        .and_then(|()| {
            // SAFETY: all handles are alive.
            unsafe {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    of.operation,
                    of.w,
                    of.x,
                    of.y,
                    of.y,
                    preference,
                )
            }
        });
        // SAFETY: made above.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        asked.map(|found| found.algo)
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // The workspace goes with the context.
        // SAFETY: made in `new`.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Descriptions {
    /// cuBLASLt counts by columns: to it y is `[columns, rows]` and the product `wᵀ · x`, with w `[depth, columns]` transposed.
    fn new(product: &Product) -> Result<Self, CublasError> {
        use cublasLtMatmulDescAttributes_t as Attribute;
        let (dtype, out) = (data_type(product.dtype), data_type(product.out_dtype));
        let (rows, columns, depth) = (product.rows, product.columns, product.depth);
        let layout = |dtype, high: usize, wide: usize| {
            result::create_matrix_layout(dtype, high as u64, wide as u64, high as i64)
        };
        // Leaks on failure, which ends the group.
        let descriptions = Self {
            operation: result::create_matmul_desc(
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cudaDataType::CUDA_R_32F,
            )?,
            w: layout(dtype, depth, columns)?,
            x: layout(dtype, depth, rows)?,
            y: layout(out, columns, rows)?,
        };
        descriptions.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if let Some(bias) = product.bias {
            descriptions.set(
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                &cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            )?;
            descriptions.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(descriptions)
    }

    fn set<T>(
        &self,
        attribute: cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: cuBLASLt copies the value, of the size that the attribute has.
        unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Descriptions {
    fn drop(&mut self) {
        // SAFETY: made in `new`; cuBLASLt has read them when a product was started.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.w, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

fn data_type(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::BF16 => cudaDataType::CUDA_R_16BF,
        DType::F16 => cudaDataType::CUDA_R_16F,
    }
}

fn text(error: CublasError) -> String {
    format!("{:?}", error.0)
}
