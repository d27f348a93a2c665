//! Correlations by cuDNN: their descriptions, and the calls. `choosing` says by which algorithm.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;

use super::{Kind, Order, failed};
use crate::Result;
use crate::device::cuda::algorithms::{Setup, Table};
use crate::device::cuda::backend::{Address, Axis, Correlation};

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
    pub(super) handle: sys::cudnnHandle_t,
    /// Whether sums have to come out the same each time.
    pub(super) exact: bool,
    pub(super) shapes: Vec<(Correlation, Kind, Shape)>,
    /// The algorithms that were settled before the first pass.
    pub(super) table: Table,
}

/// An algorithm, with a description that has its arithmetic.
#[derive(Clone, Copy)]
pub(super) struct Choice<A> {
    pub(super) algorithm: A,
    /// Of working memory.
    pub(super) bytes: usize,
    pub(super) convolution: sys::cudnnConvolutionDescriptor_t,
}

/// One shape.
pub(super) struct Shape {
    pub(super) x: sys::cudnnTensorDescriptor_t,
    pub(super) w: sys::cudnnFilterDescriptor_t,
    pub(super) y: sys::cudnnTensorDescriptor_t,
    pub(super) forward: Option<Choice<sys::cudnnConvolutionFwdAlgo_t>>,
    pub(super) back: Option<Choice<sys::cudnnConvolutionBwdDataAlgo_t>>,
    pub(super) weights: Option<Choice<sys::cudnnConvolutionBwdFilterAlgo_t>>,
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
pub(super) fn convolution(
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

impl Convolutions {
    pub(super) fn new(stream: &Arc<CudaStream>, of: Setup, exact: bool) -> Result<Convolutions> {
        let handle = result::create_handle().map_err(failed("starting cuDNN"))?;
        // SAFETY: both are alive; the stream outlives this object.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(failed("giving cuDNN its stream"))?;
        let table = Table { of, records: Vec::new() };
        Ok(Convolutions { handle, exact, shapes: Vec::new(), table })
    }

    /// Place of a shape's descriptions, made when it is first asked for.
    pub(super) fn place(&mut self, shape: &Correlation, kind: Kind) -> Result<usize> {
        let same = |(known, of, _): &(Correlation, Kind, Shape)| (known, *of) == (shape, kind);
        if let Some(place) = self.shapes.iter().position(same) {
            return Ok(place);
        }
        self.shapes.push((shape.clone(), kind, Shape::new(shape, kind)?));
        Ok(self.shapes.len() - 1)
    }

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

pub(super) fn release(convolution: sys::cudnnConvolutionDescriptor_t) {
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
