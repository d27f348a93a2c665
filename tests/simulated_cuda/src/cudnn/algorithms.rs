//! Algorithms: several for each direction, of which not all can do every shape or within every workspace.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io::Write;

use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t as DataAlgo, cudnnConvolutionBwdDataAlgoPerf_t as DataPerf,
    cudnnConvolutionBwdFilterAlgo_t as FilterAlgo,
    cudnnConvolutionBwdFilterAlgoPerf_t as FilterPerf, cudnnConvolutionFwdAlgo_t as ForwardAlgo,
    cudnnConvolutionFwdAlgoPerf_t as ForwardPerf, cudnnDeterminism_t as Determinism,
    cudnnMathType_t as Math,
};

use super::{Fault, Library, Status, answer, bad, library};
use crate::convolution::{Direction, Tensor, Windows};
use crate::places::put;
use crate::world::{World, driver, setting};

/// An algorithm: its number, whether it can do the shape, the bytes of its working memory, and
/// whether sums come out the same each time.
#[derive(Clone, Copy)]
pub struct Choice {
    pub number: c_int,
    pub works: bool,
    pub bytes: usize,
    pub repeats: bool,
}

/// More working memory than anybody allows.
const HUGE: usize = 3 << 30;

/// All algorithms of a direction, the fastest first; those that cannot do it last, as in cuDNN.
pub fn choices(direction: Direction, windows: &Windows, tensors: &[Tensor; 3]) -> Vec<Choice> {
    let choice = |number, bytes, repeats| Choice { number, works: true, bytes, repeats };
    let never = |number| Choice { number, works: false, bytes: 0, repeats: true };
    let some = tensors[2].bytes() / 2 + 512;
    let plain = windows.groups == 1 && windows.dilations.iter().all(|d| *d == 1);
    let mut all = match direction {
        Direction::Forward => {
            vec![choice(7, HUGE, true), choice(1, some, true), choice(0, 0, true)]
        }
        Direction::Data => vec![choice(5, HUGE, true), choice(1, some, true), choice(0, 0, false)],
        Direction::Filter => {
            vec![choice(5, HUGE, true), choice(0, 0, false), choice(1, some, true)]
        }
    };
    if !plain {
        all[0].works = false;
        all[0].bytes = 0;
        all.rotate_left(1);
    }
    all.push(never(match direction {
        Direction::Forward => 4,
        _ => 2,
    }));
    let lacking = setting("SIMULATED_CUDNN_LACKS", usize::MAX);
    if let Some(place) = all.iter().position(|choice| choice.number as usize == lacking) {
        all.remove(place);
        all.push(never(lacking as c_int));
    }
    all
}

/// The arithmetic that an algorithm is said to have: the last one has no use for tensor cores. Nothing says that
/// it is no looser than that of the windows.
fn arithmetic(windows: &Windows, repeats: bool) -> Math {
    match (windows.math, repeats) {
        (0 | 3, true) => Math::CUDNN_DEFAULT_MATH,
        (1, true) => Math::CUDNN_TENSOR_OP_MATH,
        (2, true) => Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
        _ => Math::CUDNN_FMA_MATH,
    }
}

impl Library {
    /// The algorithms, after cuDNN has run them all: with memory of its own, and a wait. Times may be others
    /// at every try, and so is the order then.
    fn tried(
        &mut self,
        world: &mut World,
        handle: u64,
        direction: Direction,
        (windows, tensors): &(Windows, [Tensor; 3]),
    ) -> Result<Vec<Choice>, Fault> {
        let stream = self.here(world, handle)?;
        world.unsafe_in_capture()?;
        world.drain(stream)?;
        let device = world.current()?;
        let own: usize = tensors.iter().map(Tensor::bytes).sum();
        if world.memory.room(device).0 < own {
            let why = format!("no memory for {own} bytes to try with");
            return Err(Fault(Status::CUDNN_STATUS_ALLOC_FAILED, why, false));
        }
        self.note(world, handle, "tried", direction, windows, tensors)?;
        let mut all = choices(direction, windows, tensors);
        let handle = self.handles.get_mut(handle).map_err(bad)?;
        let turn = world.times.map(|by| by + handle.ordinal + handle.tries);
        handle.tries += 1;
        if turn.is_some_and(|turn| turn % 2 == 1) {
            let working = all.iter().take_while(|choice| choice.works).count();
            all[..working].reverse();
        }
        Ok(all)
    }

    /// Writes down what is done, if somebody wants to know: process, handle, what, and of what.
    pub fn note(
        &self,
        world: &World,
        handle: u64,
        what: &str,
        direction: Direction,
        windows: &Windows,
        tensors: &[Tensor; 3],
    ) -> Result<(), Fault> {
        let Some(path) = &world.convolutions else { return Ok(()) };
        let ordinal = self.handles.get(handle).map_err(bad)?.ordinal;
        let sizes = tensors.each_ref().map(|tensor| &tensor.sizes);
        // The arithmetic is the algorithm's own.
        let windows = Windows { math: 0, ..windows.clone() };
        let of = format!("{direction:?} {sizes:?} {:?} {windows:?}", tensors[0].kind);
        let line = format!("{}\t{ordinal}\t{what}\t{of}\n", std::process::id());
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|error| bad(format!("{}: {error}", path.display())))
    }
}

/// Waits for the work of a handle's stream; what is wrong with either, the call itself will say.
fn waited(handle: u64) {
    driver("cudnnFind", |world| {
        let stream = library().handles.get(handle).map(|found| found.stream);
        match (stream, world.current()) {
            (Ok(stream), Ok(_)) => world.drain(stream),
            _ => Ok(()),
        }
    });
}

/// The entries of one direction. `$order` puts the three arrays, which cuDNN has in another order in
/// each, into that of x, w, y.
macro_rules! direction {
    ($direction:expr, $find:ident, $guess:ident, $size:ident, $perf:ident, $codes:expr, $order:expr) => {
        direction!(offers $find, true, $direction, $perf, $codes, $order);
        direction!(offers $guess, false, $direction, $perf, $codes, $order);

        #[unsafe(no_mangle)]
        extern "C" fn $size(
            handle: u64,
            first: u64,
            second: u64,
            windows: u64,
            third: u64,
            number: c_int,
            bytes: *mut usize,
        ) -> Status {
            answer(stringify!($size), |world, library| {
                library.here(world, handle)?;
                let arrays: [u64; 3] = $order([first, second, third]);
                let (windows, tensors) = library.fitting(arrays, windows)?;
                let all = choices($direction, &windows, &tensors);
                let choice = all.iter().find(|choice| choice.number == number && choice.works);
                // To ask is how a program finds out.
                let none = || {
                    Fault(Status::CUDNN_STATUS_NOT_SUPPORTED, format!("algorithm {number}"), false)
                };
                Ok(put(bytes, choice.ok_or_else(none)?.bytes)?)
            })
        }
    };
    (offers $entry:ident, $trying:literal, $direction:expr, $perf:ident, $codes:expr, $order:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn $entry(
            handle: u64,
            first: u64,
            second: u64,
            windows: u64,
            third: u64,
            requested: c_int,
            returned: *mut c_int,
            results: *mut $perf,
        ) -> Status {
            if $trying {
                waited(handle);
            }
            answer(stringify!($entry), |world, library| {
                let arrays: [u64; 3] = $order([first, second, third]);
                let fitting = library.fitting(arrays, windows)?;
                library.here(world, handle)?;
                let all = match $trying {
                    true => library.tried(world, handle, $direction, &fitting)?,
                    false => choices($direction, &fitting.0, &fitting.1),
                };
                let count = all.len().min(requested.max(0) as usize);
                for (i, choice) in all.iter().take(count).enumerate() {
                    let determinism = match choice.repeats {
                        true => Determinism::CUDNN_DETERMINISTIC,
                        false => Determinism::CUDNN_NON_DETERMINISTIC,
                    };
                    // A guess is not tried.
                    let (status, time) = match choice.works || !$trying {
                        true => (Status::CUDNN_STATUS_SUCCESS, 0.25 * (i + 1) as f32),
                        false => (Status::CUDNN_STATUS_NOT_SUPPORTED, -1.0),
                    };
                    let perf = $perf {
                        algo: $codes[choice.number as usize],
                        status,
                        time,
                        memory: choice.bytes,
                        determinism,
                        mathType: arithmetic(&fitting.0, choice.repeats),
                        reserved: [0; 3],
                    };
                    put(results.wrapping_add(i), perf)?;
                }
                Ok(put(returned, count as c_int)?)
            })
        }
    };
}

const FORWARD: [ForwardAlgo; 8] = [
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
    ForwardAlgo::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
];
const DATA: [DataAlgo; 6] = [
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
    DataAlgo::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
];
const FILTER: [FilterAlgo; 6] = [
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
    FilterAlgo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
];

direction!(
    Direction::Forward,
    cudnnFindConvolutionForwardAlgorithm,
    cudnnGetConvolutionForwardAlgorithm_v7,
    cudnnGetConvolutionForwardWorkspaceSize,
    ForwardPerf,
    FORWARD,
    |[x, w, y]: [u64; 3]| [x, w, y]
);
direction!(
    Direction::Data,
    cudnnFindConvolutionBackwardDataAlgorithm,
    cudnnGetConvolutionBackwardDataAlgorithm_v7,
    cudnnGetConvolutionBackwardDataWorkspaceSize,
    DataPerf,
    DATA,
    |[w, y, x]: [u64; 3]| [x, w, y]
);
direction!(
    Direction::Filter,
    cudnnFindConvolutionBackwardFilterAlgorithm,
    cudnnGetConvolutionBackwardFilterAlgorithm_v7,
    cudnnGetConvolutionBackwardFilterWorkspaceSize,
    FilterPerf,
    FILTER,
    |[x, y, w]: [u64; 3]| [x, w, y]
);
