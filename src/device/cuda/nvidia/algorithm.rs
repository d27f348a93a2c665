//! [`Algorithm`]: cuDNN's algorithms of one direction behind one face, as cuDNN has its own type and
//! functions for each.

use std::ffi::c_int;

use cudarc::cudnn::{result, sys};

use super::convolution::{Choice, Shape};
use super::{WORKSPACE, failed};
use crate::Result;
use crate::device::cuda::algorithms::Direction;

/// Algorithms that cuDNN may report for one direction.
const MOST: usize = 16;

/// An algorithm that works within the limit of working memory, as cuDNN tells of it.
#[derive(Clone, Copy)]
pub(super) struct Offer<A> {
    pub(super) algorithm: A,
    pub(super) arithmetic: sys::cudnnMathType_t,
    /// Of working memory.
    pub(super) bytes: usize,
    /// Whether its sums come out the same each time.
    pub(super) repeats: bool,
    /// Milliseconds, measured or guessed.
    pub(super) ms: f32,
}

/// cuDNN's types of arithmetic.
pub(super) const ARITHMETIC: [sys::cudnnMathType_t; 4] = [
    sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    sys::cudnnMathType_t::CUDNN_FMA_MATH,
];

/// An algorithm of one direction.
pub(super) trait Algorithm: Copy + 'static {
    /// The direction.
    const DIRECTION: Direction;
    /// All there are.
    const ALL: &'static [Self];

    /// Its number, by which it is recorded.
    fn number(self) -> u32;

    /// Where a shape keeps its choice.
    fn slot(shape: &mut Shape) -> &mut Option<Choice<Self>>;

    /// Those that work within the limit, the fastest first: when cuDNN has tried them all, or by its
    /// guess.
    ///
    /// # Safety
    /// The handle and the description of the windows are alive.
    unsafe fn offers(
        handle: sys::cudnnHandle_t,
        shape: &Shape,
        windows: sys::cudnnConvolutionDescriptor_t,
        trying: bool,
    ) -> Result<Vec<Offer<Self>>>;

    /// Bytes of its working memory, or why it does not work.
    ///
    /// # Safety
    /// As [`offers`](Algorithm::offers).
    unsafe fn workspace(
        self,
        handle: sys::cudnnHandle_t,
        shape: &Shape,
        windows: sys::cudnnConvolutionDescriptor_t,
    ) -> Result<usize, result::CudnnError>;
}

/// The order of the three descriptions and that of the windows is that of cuDNN's arguments.
macro_rules! algorithm {
    ($algorithm:ident, $perf:ident, $direction:ident, $slot:ident,
     [$find:ident, $guess:ident, $workspace:ident],
     |$x:ident, $w:ident, $y:ident, $windows:ident| ($($order:ident),*), [$($name:ident),*]) => {
        impl Algorithm for sys::$algorithm {
            const DIRECTION: Direction = Direction::$direction;
            const ALL: &'static [Self] = &[$(sys::$algorithm::$name),*];

            fn number(self) -> u32 {
                self as u32
            }

            fn slot(shape: &mut Shape) -> &mut Option<Choice<Self>> {
                &mut shape.$slot
            }

            unsafe fn offers(
                handle: sys::cudnnHandle_t,
                &Shape { $x, $w, $y, .. }: &Shape,
                $windows: sys::cudnnConvolutionDescriptor_t,
                trying: bool,
            ) -> Result<Vec<Offer<Self>>> {
                let ask = if trying { sys::$find } else { sys::$guess };
                let mut results: [std::mem::MaybeUninit<sys::$perf>; MOST] =
                    [const { std::mem::MaybeUninit::uninit() }; MOST];
                let (mut count, to) = (0, results.as_mut_ptr().cast());
                // SAFETY: all handles are alive, two of them by the caller's word; cuDNN writes at most
                // MOST results and says how many.
                let results = unsafe {
                    ask(handle, $($order),*, MOST as c_int, &mut count, to)
                        .result()
                        .map_err(failed("trying convolutions"))?;
                    let told = &results[..count.clamp(0, MOST as c_int) as usize];
                    told.iter().map(|result| result.assume_init_read()).collect::<Vec<_>>()
                };
                let works = |result: &sys::$perf| {
                    result.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                        && result.memory <= WORKSPACE
                };
                let offer = |result: sys::$perf| Offer {
                    algorithm: result.algo,
                    arithmetic: result.mathType,
                    bytes: result.memory,
                    repeats: result.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                    ms: result.time,
                };
                Ok(results.into_iter().filter(works).map(offer).collect())
            }

            unsafe fn workspace(
                self,
                handle: sys::cudnnHandle_t,
                &Shape { $x, $w, $y, .. }: &Shape,
                $windows: sys::cudnnConvolutionDescriptor_t,
            ) -> Result<usize, result::CudnnError> {
                // SAFETY: all handles are alive, two of them by the caller's word.
                unsafe { result::$workspace(handle, $($order),*, self) }
            }
        }
    };
}

algorithm!(
    cudnnConvolutionFwdAlgo_t,
    cudnnConvolutionFwdAlgoPerf_t,
    Forward,
    forward,
    [
        cudnnFindConvolutionForwardAlgorithm,
        cudnnGetConvolutionForwardAlgorithm_v7,
        get_convolution_forward_workspace_size
    ],
    |x, w, y, windows| (x, w, windows, y),
    [
        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
        CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
        CUDNN_CONVOLUTION_FWD_ALGO_FFT,
        CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
        CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED
    ]
);

algorithm!(
    cudnnConvolutionBwdDataAlgo_t,
    cudnnConvolutionBwdDataAlgoPerf_t,
    Back,
    back,
    [
        cudnnFindConvolutionBackwardDataAlgorithm,
        cudnnGetConvolutionBackwardDataAlgorithm_v7,
        get_convolution_backward_data_workspace_size
    ],
    |x, w, y, windows| (w, y, windows, x),
    [
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED
    ]
);

algorithm!(
    cudnnConvolutionBwdFilterAlgo_t,
    cudnnConvolutionBwdFilterAlgoPerf_t,
    Weights,
    weights,
    [
        cudnnFindConvolutionBackwardFilterAlgorithm,
        cudnnGetConvolutionBackwardFilterAlgorithm_v7,
        get_convolution_backward_filter_workspace_size
    ],
    |x, w, y, windows| (x, y, windows, w),
    [
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
        CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING
    ]
);
