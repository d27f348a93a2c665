//! Matrix products by cuBLASLt.
//!
//! cuBLAS counts columns first, so the product of two row-major matrices is asked for as the product
//! of their transposes: Cᵀ = op(B)ᵀ · op(A)ᵀ, where the stored matrices stay as they are.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self as cublaslt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;

use super::{Kind, Math, WORKSPACE, failed};
use crate::Result;
use crate::device::cpu::gemm::Gemm;
use crate::device::cuda::backend::Address;

type Desc = sys::cublasLtMatmulDescAttributes_t;
/// Sizes and strides, kinds of factors and result, alignments.
type Key = ([usize; 8], [Kind; 2], [u32; 3]);

/// cuBLASLt, and the products asked for so far.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    compute: sys::cublasComputeType_t,
    plans: HashMap<Key, Plan>,
}

/// How one kind of product is computed.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl Plan {
    /// Bytes of working memory.
    pub(super) fn workspace(&self) -> usize {
        self.workspace
    }
}

/// What cuBLAS takes an address to be a multiple of, unless it is told: more than parts of ours are.
const ALIGNED: u64 = 256;

fn key(g: &Gemm, kinds: [Kind; 2], at: [Address; 3]) -> Key {
    let sizes = [usize::from(g.transa), usize::from(g.transb), g.m, g.n, g.k, g.lda, g.ldb, g.ldc];
    (sizes, kinds, at.map(|address| 1 << (address.0 | ALIGNED).trailing_zeros()))
}

fn data_type(kind: Kind) -> sys::cudaDataType_t {
    match kind {
        Kind::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Kind::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Kind::F16 => sys::cudaDataType_t::CUDA_R_16F,
    }
}

/// A stored row-major matrix of `rows` × `columns`, as cuBLAS sees it.
fn layout(
    kind: Kind,
    rows: usize,
    columns: usize,
    ld: usize,
) -> Result<sys::cublasLtMatrixLayout_t> {
    cublaslt::create_matrix_layout(data_type(kind), columns as u64, rows as u64, ld as i64)
        .map_err(failed("describing a matrix"))
}

/// Limits an algorithm's working memory, and says what the addresses of cuBLAS's first factor, second
/// factor and result are multiples of. Parts of sums are added up in 32 bits, whatever the result's are.
///
/// # Safety
/// The preference is alive.
unsafe fn prefer(
    preference: sys::cublasLtMatmulPreference_t,
    result: Kind,
    [first, second, out]: [u32; 3],
) -> Result<(), CublasError> {
    type Preference = sys::cublasLtMatmulPreferenceAttributes_t;
    let limit = WORKSPACE as u64;
    let (bytes, size) = (std::ptr::from_ref(&limit).cast(), size_of::<u64>());
    let most = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    // SAFETY: the caller's word; the value has the size that is said.
    unsafe { cublaslt::set_matmul_pref_attribute(preference, most, bytes, size) }?;
    if result != Kind::F32 {
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let (bytes, size) = (std::ptr::from_ref(&scheme).cast(), size_of::<u32>());
        let schemes = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
        // SAFETY: as above.
        unsafe { cublaslt::set_matmul_pref_attribute(preference, schemes, bytes, size) }?;
    }
    for (attribute, alignment) in [
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, second),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
    ] {
        let (bytes, size) = (std::ptr::from_ref(&alignment).cast(), size_of::<u32>());
        // SAFETY: as above.
        unsafe { cublaslt::set_matmul_pref_attribute(preference, attribute, bytes, size) }?;
    }
    Ok(())
}

impl Products {
    pub(super) fn new(math: Math) -> Result<Products> {
        let handle = cublaslt::create_handle().map_err(failed("starting cuBLASLt"))?;
        let compute = match math {
            // Products of 16-bit factors are exact in f32.
            Math::F32 | Math::Bf16 | Math::F16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Math::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        };
        Ok(Products { handle, compute, plans: HashMap::new() })
    }

    /// The plan of such a product of matrices that lie there, made when it is first asked for.
    pub(super) fn plan(&mut self, g: &Gemm, kinds: [Kind; 2], at: [Address; 3]) -> Result<Plan> {
        let key = key(g, kinds, at);
        if let Some(plan) = self.plans.get(&key) {
            return Ok(*plan);
        }
        let plan = self.make(g, kinds, key.2)?;
        self.plans.insert(key, plan);
        Ok(plan)
    }

    fn make(&self, g: &Gemm, [factors, result]: [Kind; 2], [a, b, c]: [u32; 3]) -> Result<Plan> {
        let scale = sys::cudaDataType_t::CUDA_R_32F;
        let desc = cublaslt::create_matmul_desc(self.compute, scale)
            .map_err(failed("describing a product"))?;
        // cuBLAS's first factor is our second.
        for (attribute, transposed) in [
            (Desc::CUBLASLT_MATMUL_DESC_TRANSA, g.transb),
            (Desc::CUBLASLT_MATMUL_DESC_TRANSB, g.transa),
        ] {
            let value = i32::from(transposed);
            let bytes = std::ptr::from_ref(&value).cast();
            // SAFETY: the description is alive; cublasOperation_t is an int with N = 0, T = 1.
            unsafe {
                cublaslt::set_matmul_desc_attribute(desc, attribute, bytes, size_of::<i32>())
            }
            .map_err(failed("describing a product"))?;
        }
        let stored =
            |transposed, rows, columns| if transposed { (columns, rows) } else { (rows, columns) };
        let (a_rows, a_columns) = stored(g.transa, g.m, g.k);
        let (b_rows, b_columns) = stored(g.transb, g.k, g.n);
        let layouts = [
            layout(factors, b_rows, b_columns, g.ldb)?,
            layout(factors, a_rows, a_columns, g.lda)?,
            layout(result, g.m, g.n, g.ldc)?,
        ];
        let preference = cublaslt::create_matmul_pref().map_err(failed("choosing a product"))?;
        // SAFETY: all handles are alive; the preference is destroyed once, after its last use.
        let found = unsafe {
            let set = prefer(preference, result, [b, a, c]);
            let [a, b, c] = layouts;
            let found = set.and_then(|()| {
                cublaslt::get_matmul_algo_heuristic(self.handle, desc, a, b, c, c, preference)
            });
            let _ = cublaslt::destroy_matmul_pref(preference);
            found
        };
        let found = found.map_err(failed("choosing a matrix product"))?;
        Ok(Plan { desc, layouts, algorithm: found.algo, workspace: found.workspaceSize })
    }

    /// C ← alpha · op(A) · op(B) + beta · C.
    pub(super) fn run(
        &self,
        g: &Gemm,
        plan: Plan,
        [a, b, c]: [Address; 3],
        workspace: *mut c_void,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        let [first, second, out] = plan.layouts;
        let at = |address: Address| address.0 as *const c_void;
        // SAFETY: handles live as long as `self`; the matrices are device memory of the described
        // sizes by the caller's word; alpha and beta are read before the call returns.
        unsafe {
            cublaslt::matmul(
                self.handle,
                plan.desc,
                std::ptr::from_ref(&g.alpha).cast(),
                std::ptr::from_ref(&g.beta).cast(),
                at(b),
                first,
                at(a),
                second,
                at(c),
                out,
                c.0 as *mut c_void,
                out,
                &plan.algorithm,
                workspace,
                plan.workspace,
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed("a matrix product"))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: made by this object, destroyed once; the device has been waited for.
        unsafe {
            for plan in self.plans.values() {
                let _ = cublaslt::destroy_matmul_desc(plan.desc);
                for layout in plan.layouts {
                    let _ = cublaslt::destroy_matrix_layout(layout);
                }
            }
            let _ = cublaslt::destroy_handle(self.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::library::Library;

    /// Descriptions need no device; the library that the environment has judges them.
    #[test]
    fn cublas_takes_our_descriptions() {
        if let Err(missing) = Library::CublasLt.open() {
            println!("skipped: {missing}");
            return;
        }
        let layout = layout(Kind::Bf16, 5, 7, 9).unwrap();
        let preference = cublaslt::create_matmul_pref().unwrap();
        // SAFETY: alive; each is destroyed once.
        unsafe {
            prefer(preference, Kind::Bf16, [256, 4, 16]).unwrap();
            cublaslt::destroy_matmul_pref(preference).unwrap();
            cublaslt::destroy_matrix_layout(layout).unwrap();
        }
    }

    #[test]
    fn addresses_are_multiples_of_what_is_said() {
        let of = |address| {
            key(&Gemm::dense(false, false, 1, 1, 1), [Kind::F32; 2], [Address(address); 3]).2[0]
        };
        assert_eq!([0, 1024, 256 + 64, 12, 4].map(of), [256, 256, 64, 4, 4]);
    }
}
