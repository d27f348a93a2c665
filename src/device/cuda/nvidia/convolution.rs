//! Correlations by cuDNN: for each shape and direction the fastest algorithm within the limit of
//! working memory, found by trying them all once.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;

use super::{Kind, Math, Order, WORKSPACE, failed};
use crate::device::cuda::backend::{Address, Axis, Correlation};
use crate::{Result, bail};

/// Algorithms that cuDNN may report for one direction.
const MOST: usize = 16;

/// What sums are in, whatever the numbers are.
const SUMS: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
const CROSS: sys::cudnnConvolutionMode_t = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;

/// Order of weights: (K, C, R, S) or (K, R, S, C).
fn format(order: Order) -> sys::cudnnTensorFormat_t {
    match order {
        Order::Plain => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        Order::ChannelsLast => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
    }
}

fn data_type(kind: Kind) -> sys::cudnnDataType_t {
    match kind {
        Kind::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Kind::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        Kind::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
    }
}

/// cuDNN, and the shapes asked for so far.
pub(super) struct Convolutions {
    handle: sys::cudnnHandle_t,
    math: Math,
    /// Whether sums have to come out the same each time.
    exact: bool,
    shapes: Vec<(Correlation, Kind, Shape)>,
}

/// An algorithm, with a description that has its arithmetic.
#[derive(Clone, Copy)]
pub(super) struct Choice<A> {
    algorithm: A,
    /// Of working memory.
    pub(super) bytes: usize,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

/// One shape.
struct Shape {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    forward: Option<Choice<sys::cudnnConvolutionFwdAlgo_t>>,
    back: Option<Choice<sys::cudnnConvolutionBwdDataAlgo_t>>,
    weights: Option<Choice<sys::cudnnConvolutionBwdFilterAlgo_t>>,
}

/// Two axes at least: cuDNN's images have four dimensions or five.
fn axes(shape: &Correlation) -> Vec<Axis> {
    let point = Axis { image: 1, kernel: 1, stride: 1, pad: 0, dilation: 1, positions: 1 };
    let missing = 2usize.saturating_sub(shape.axes.len());
    std::iter::repeat_n(point, missing).chain(shape.axes.iter().copied()).collect()
}

/// Of an array of these extents (images, channels, space…), whatever its order.
fn tensor((kind, order): (Kind, Order), sizes: &[usize]) -> Result<sys::cudnnTensorDescriptor_t> {
    let dims: Vec<c_int> = sizes.iter().map(|size| *size as c_int).collect();
    // From the fastest axis to the slowest.
    let mut axes: Vec<usize> = (0..dims.len()).rev().collect();
    if order == Order::ChannelsLast {
        axes.retain(|axis| *axis != 1);
        axes.insert(0, 1);
    }
    let mut strides: Vec<c_int> = vec![1; dims.len()];
    for pair in axes.windows(2) {
        strides[pair[1]] = strides[pair[0]] * dims[pair[0]];
    }
    let tensor = result::create_tensor_descriptor().map_err(failed("describing an image"))?;
    let count = dims.len() as c_int;
    // SAFETY: the description is alive, and both lists have `count` numbers.
    unsafe {
        result::set_tensornd_descriptor(
            tensor,
            data_type(kind),
            count,
            dims.as_ptr(),
            strides.as_ptr(),
        )
    }
    .map_err(failed("describing an image"))?;
    Ok(tensor)
}

impl Shape {
    fn new(shape: &Correlation, kind: Kind) -> Result<Shape> {
        let axes = axes(shape);
        let sizes = |first: [usize; 2], of: fn(&Axis) -> usize| -> Vec<usize> {
            first.into_iter().chain(axes.iter().map(of)).collect()
        };
        let kernel = sizes([shape.outputs, shape.channels / shape.groups], |axis| axis.kernel);
        let kernel: Vec<c_int> = kernel.iter().map(|size| *size as c_int).collect();
        let w = result::create_filter_descriptor().map_err(failed("describing weights"))?;
        let count = kernel.len() as c_int;
        // SAFETY: the description is alive, and the list has `count` numbers.
        unsafe {
            result::set_filternd_descriptor(
                w,
                data_type(kind),
                format(shape.order),
                count,
                kernel.as_ptr(),
            )
        }
        .map_err(failed("describing weights"))?;
        Ok(Shape {
            x: tensor(
                (kind, shape.order),
                &sizes([shape.images, shape.channels], |axis| axis.image),
            )?,
            w,
            y: tensor(
                (kind, shape.order),
                &sizes([shape.images, shape.outputs], |axis| axis.positions),
            )?,
            forward: None,
            back: None,
            weights: None,
        })
    }
}

/// A description of the windows with the arithmetic that an algorithm wants.
fn convolution(
    shape: &Correlation,
    math: sys::cudnnMathType_t,
) -> Result<sys::cudnnConvolutionDescriptor_t> {
    let axes = axes(shape);
    let list = |of: fn(&Axis) -> usize| -> Vec<c_int> {
        axes.iter().map(|axis| of(axis) as c_int).collect()
    };
    let (pads, strides) = (list(|axis| axis.pad), list(|axis| axis.stride));
    let dilations = list(|axis| axis.dilation);
    let convolution =
        result::create_convolution_descriptor().map_err(failed("describing a convolution"))?;
    // SAFETY: the description is alive, and each list has a number for every axis.
    unsafe {
        result::set_convolutionnd_descriptor(
            convolution,
            axes.len() as c_int,
            pads.as_ptr(),
            strides.as_ptr(),
            dilations.as_ptr(),
            CROSS,
            SUMS,
        )
        .and_then(|()| result::set_convolution_group_count(convolution, shape.groups as i32))
        .and_then(|()| result::set_convolution_math_type(convolution, math))
    }
    .map_err(failed("describing a convolution"))?;
    Ok(convolution)
}

/// The first (cuDNN sorts by time) that works within the limit. Exactly: of those whose sums come out the
/// same each time the one with the lowest number, as times differ from run to run and from rank to rank.
macro_rules! best {
    ($results:expr, $shape:expr, $direction:literal, $exact:expr) => {{
        let mut fits = $results.iter().filter(|r| {
            r.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS && r.memory <= WORKSPACE
        });
        let repeats = sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
        let fit = match $exact {
            false => fits.next(),
            true => fits.filter(|r| r.determinism == repeats).min_by_key(|r| r.algo as u32),
        };
        match fit {
            Some(found) => Choice {
                algorithm: found.algo,
                bytes: found.memory,
                convolution: convolution($shape, found.mathType)?,
            },
            None => bail!(
                "cuDNN has no {}algorithm for the {} of {:?} within {} MB",
                if $exact { "exact " } else { "" },
                $direction,
                $shape,
                WORKSPACE >> 20
            ),
        }
    }};
}

/// Lets cuDNN try all algorithms of one direction.
macro_rules! tried {
    ($find:path, $perf:ty, ($($argument:expr),*)) => {{
        let mut results: [std::mem::MaybeUninit<$perf>; MOST] =
            [const { std::mem::MaybeUninit::uninit() }; MOST];
        let mut count: c_int = 0;
        // SAFETY: all handles are alive; cuDNN writes at most MOST results and says how many.
        unsafe {
            $find($($argument),*, MOST as c_int, &mut count, results.as_mut_ptr().cast())
                .result()
                .map_err(failed("trying convolutions"))?;
            results[..count.clamp(0, MOST as c_int) as usize]
                .iter()
                .map(|result| result.assume_init_read())
                .collect::<Vec<$perf>>()
        }
    }};
}

/// The shape's place and its algorithm for one direction, found when it is first asked for; the order
/// is that of cuDNN's arguments behind the handle.
macro_rules! choice {
    ($name:ident, $field:ident, $algorithm:ty, $direction:literal, $find:path, $perf:ty,
     |$x:ident, $w:ident, $y:ident, $trial:ident| ($($order:ident),*)) => {
        pub(super) fn $name(
            &mut self,
            shape: &Correlation,
            kind: Kind,
        ) -> Result<(usize, Choice<$algorithm>)> {
            let place = self.place(shape, kind)?;
            let Shape { x: $x, w: $w, y: $y, $field: known, .. } = self.shapes[place].2;
            if let Some(choice) = known {
                return Ok((place, choice));
            }
            let $trial = convolution(shape, self.math_type(kind))?;
            let results = tried!($find, $perf, (self.handle, $($order),*));
            release($trial);
            let choice = best!(results, shape, $direction, self.exact);
            self.shapes[place].2.$field = Some(choice);
            Ok((place, choice))
        }
    };
}

impl Convolutions {
    pub(super) fn new(stream: &Arc<CudaStream>, math: Math, exact: bool) -> Result<Convolutions> {
        let handle = result::create_handle().map_err(failed("starting cuDNN"))?;
        // SAFETY: both are alive; the stream outlives this object.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(failed("giving cuDNN its stream"))?;
        Ok(Convolutions { handle, math, exact, shapes: Vec::new() })
    }

    /// Place of a shape's descriptions, made when it is first asked for.
    fn place(&mut self, shape: &Correlation, kind: Kind) -> Result<usize> {
        let same = |(known, of, _): &(Correlation, Kind, Shape)| (known, *of) == (shape, kind);
        if let Some(place) = self.shapes.iter().position(same) {
            return Ok(place);
        }
        self.shapes.push((shape.clone(), kind, Shape::new(shape, kind)?));
        Ok(self.shapes.len() - 1)
    }

    /// The arithmetic to try with: what cuDNN then finds may be stricter.
    fn math_type(&self, kind: Kind) -> sys::cudnnMathType_t {
        match (kind, self.math) {
            (Kind::Bf16 | Kind::F16, _) => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            (Kind::F32, Math::Tf32) => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            (Kind::F32, _) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        }
    }

    choice!(
        forward_choice,
        forward,
        sys::cudnnConvolutionFwdAlgo_t,
        "forward pass",
        sys::cudnnFindConvolutionForwardAlgorithm,
        sys::cudnnConvolutionFwdAlgoPerf_t,
        |x, w, y, trial| (x, w, trial, y)
    );

    choice!(
        back_choice,
        back,
        sys::cudnnConvolutionBwdDataAlgo_t,
        "gradient",
        sys::cudnnFindConvolutionBackwardDataAlgorithm,
        sys::cudnnConvolutionBwdDataAlgoPerf_t,
        |x, w, y, trial| (w, y, trial, x)
    );

    choice!(
        weights_choice,
        weights,
        sys::cudnnConvolutionBwdFilterAlgo_t,
        "gradient of the weights",
        sys::cudnnFindConvolutionBackwardFilterAlgorithm,
        sys::cudnnConvolutionBwdFilterAlgoPerf_t,
        |x, w, y, trial| (x, y, trial, w)
    );

    pub(super) fn forward(
        &self,
        (place, choice): (usize, Choice<sys::cudnnConvolutionFwdAlgo_t>),
        [x, w, y]: [Address; 3],
        workspace: *mut c_void,
    ) -> Result<()> {
        let of = &self.shapes[place].2;
        // SAFETY: handles live as long as `self`; the arrays are device memory of the described
        // sizes by the caller's word; the factors are read before the call returns.
        unsafe {
            result::convolution_forward(
                self.handle,
                factor(&1.0),
                of.x,
                at(x),
                of.w,
                at(w),
                choice.convolution,
                choice.algorithm,
                workspace,
                choice.bytes,
                factor(&0.0),
                of.y,
                at(y).cast_mut(),
            )
        }
        .map_err(failed("a convolution"))
    }

    pub(super) fn back(
        &self,
        (place, choice): (usize, Choice<sys::cudnnConvolutionBwdDataAlgo_t>),
        [w, dy, dx]: [Address; 3],
        workspace: *mut c_void,
    ) -> Result<()> {
        let of = &self.shapes[place].2;
        // SAFETY: as in `forward`.
        unsafe {
            result::convolution_backward_data(
                self.handle,
                factor(&1.0),
                of.w,
                at(w),
                of.y,
                at(dy),
                choice.convolution,
                choice.algorithm,
                workspace,
                choice.bytes,
                factor(&0.0),
                of.x,
                at(dx).cast_mut(),
            )
        }
        .map_err(failed("a convolution's gradient"))
    }

    /// The gradient in the place of what is there, or added to it.
    pub(super) fn weights(
        &self,
        (place, choice): (usize, Choice<sys::cudnnConvolutionBwdFilterAlgo_t>),
        [x, dy, dw]: [Address; 3],
        workspace: *mut c_void,
        add: bool,
    ) -> Result<()> {
        let of = &self.shapes[place].2;
        // SAFETY: as in `forward`.
        unsafe {
            result::convolution_backward_filter(
                self.handle,
                factor(&1.0),
                of.x,
                at(x),
                of.y,
                at(dy),
                choice.convolution,
                choice.algorithm,
                workspace,
                choice.bytes,
                factor(if add { &1.0 } else { &0.0 }),
                of.w,
                at(dw).cast_mut(),
            )
        }
        .map_err(failed("the gradient of a convolution's weights"))
    }
}

fn at(address: Address) -> *const c_void {
    address.0 as *const c_void
}

fn factor(value: &f32) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

fn release(convolution: sys::cudnnConvolutionDescriptor_t) {
    // SAFETY: made by `convolution`, destroyed once, and in no choice.
    let _ = unsafe { result::destroy_convolution_descriptor(convolution) };
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        for (_, _, shape) in &self.shapes {
            let choices = [
                shape.forward.map(|choice| choice.convolution),
                shape.back.map(|choice| choice.convolution),
                shape.weights.map(|choice| choice.convolution),
            ];
            choices.into_iter().flatten().for_each(release);
            // SAFETY: made by this object, destroyed once; the device has been waited for.
            unsafe {
                let _ = result::destroy_tensor_descriptor(shape.x);
                let _ = result::destroy_tensor_descriptor(shape.y);
                let _ = result::destroy_filter_descriptor(shape.w);
            }
        }
        // SAFETY: as above.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::library::Library;

    fn axis(image: usize, [kernel, stride, pad, dilation]: [usize; 4]) -> Axis {
        let positions = (image + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
        Axis { image, kernel, stride, pad, dilation, positions }
    }

    /// Descriptions need no device; the library that the environment has judges them.
    #[test]
    fn cudnn_counts_the_positions_that_we_count() {
        if let Err(missing) = Library::Cudnn.open() {
            println!("skipped: {missing}");
            return;
        }
        let [plain, odd, dilated] = [[3, 1, 1, 1], [5, 3, 2, 1], [3, 2, 4, 3]];
        for (groups, list) in [
            (1, vec![axis(9, plain)]),
            (2, vec![axis(17, odd), axis(12, plain)]),
            (1, vec![axis(23, dilated), axis(8, odd)]),
            (4, vec![axis(5, plain), axis(9, odd), axis(20, dilated)]),
        ] {
            let (images, channels, outputs, axes) = (3, 8, 12, list);
            let order = Order::Plain;
            let mut shape = Correlation { images, channels, outputs, groups, axes, order };
            for kind in [Kind::F32, Kind::Bf16, Kind::F16] {
                for order in [Order::Plain, Order::ChannelsLast] {
                    shape.order = order;
                    counted(&shape, kind);
                }
            }
        }
    }

    fn counted(shape: &Correlation, kind: Kind) {
        let of = Shape::new(shape, kind).unwrap();
        let windows = convolution(shape, sys::cudnnMathType_t::CUDNN_DEFAULT_MATH).unwrap();
        let axes = axes(shape);
        let mut sizes = vec![0; 2 + axes.len()];
        let (count, to) = (sizes.len() as c_int, sizes.as_mut_ptr());
        // SAFETY: all descriptions are alive; cuDNN writes `count` numbers.
        let code =
            unsafe { sys::cudnnGetConvolutionNdForwardOutputDim(windows, of.x, of.w, count, to) };
        assert_eq!(code, sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS, "{shape:?}");
        let ours = axes.into_iter().map(|axis| axis.positions as c_int);
        assert_eq!(sizes, [3, 12].into_iter().chain(ours).collect::<Vec<_>>(), "{shape:?}");
        release(windows);
    }
}
