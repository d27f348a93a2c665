//! Im2col: the patches under a convolution's kernel as channels: for every channel and kernel
//! element a channel that holds what lies under that element at each kernel position.
//!
//! ```text
//! layer { name: "patches" type: "Im2col" bottom: "x" top: "y" convolution_param { kernel_size: 3 pad: 1 } }
//! ```
//! Any number of spatial axes lie behind `axis`. The patches are those of a convolution with the
//! same kernel, stride, pad and dilation; what that would make of them (`num_output`, `group`,
//! `bias_term`, fillers, `engine`) does not change them, nor does `force_nd_im2col`.

use caffe_proto::ConvolutionParameter;

use super::convolution::geometry::{Axis, Patches, settings};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct Im2col {
    param: ConvolutionParameter,
    patches: Patches,
    axes_on_device: Scratch,
}

impl Layer for Im2col {
    fn reshape(&mut self, run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let x = &bottoms[0];
        let axis = x.axis(self.param.axis())?;
        let images = &x.dims()[axis + 1..];
        ensure!(!images.is_empty(), "has no spatial axes behind axis {axis} of {x}");
        let settings = settings(&self.param, images.len())?;
        let rows = [x[axis]].into_iter().chain(settings.iter().map(|s| s[0]));
        Shape::new(rows.collect::<Vec<_>>()).check_size()?;
        let axes = images.iter().zip(settings).map(|(&image, s)| Axis::new(image, s));
        self.patches = Patches { channels: x[axis], axes: axes.collect::<Result<_>>()? };
        if let Some(cuda) = run.cuda() {
            self.axes_on_device.integers(&cuda.device, self.axes().as_flattened())?;
        }
        let mut dims = x.dims()[..axis].to_vec();
        dims.push(x[axis].saturating_mul(self.patches.kernel()));
        dims.extend(self.patches.axes.iter().map(|a| a.positions));
        Ok(vec![Shape::new(dims)])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        let (image, matrix) = (self.patches.image_len().max(1), self.patches.matrix_len().max(1));
        for (x, y) in x.chunks(image).zip(y.chunks_mut(matrix)) {
            self.patches.gather(run.threads(), x, y);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dy, dx) = (io.top_diff(0)?, io.bottom_diff_mut(0)?);
        let (image, matrix) = (self.patches.image_len().max(1), self.patches.matrix_len().max(1));
        for (dx, dy) in dx.chunks_mut(image).zip(dy.chunks(matrix)) {
            self.patches.scatter(run.threads(), dy, dx);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "im2col",
    text: r#"
// Of every axis: extent of the image, kernel, stride, padding, dilation, positions.
#define IMAGE(a) axes[6 * (a)]
#define KERNEL(a) axes[6 * (a) + 1]
#define STRIDE(a) axes[6 * (a) + 2]
#define PAD(a) axes[6 * (a) + 3]
#define DILATION(a) axes[6 * (a) + 4]
#define POSITIONS(a) axes[6 * (a) + 5]

// i: an element of the matrix; its position p and kernel element k are taken apart axis by axis.
extern "C" __global__ void gather_patches(int64 n, const float* image, float* matrix,
                                          const int* axes, int count, int64 kernel,
                                          int64 positions) {
  KERNEL_LOOP(i, n) {
    int64 p = i % positions, k = i / positions % kernel, plane = i / positions / kernel;
    int64 at = 0, size = 1;
    int inside = 1;
    for (int a = count - 1; a >= 0; --a) {
      int64 here = p % POSITIONS(a) * STRIDE(a) + k % KERNEL(a) * DILATION(a) - PAD(a);
      inside = inside && here >= 0 && here < IMAGE(a);
      at += here * size;
      size *= IMAGE(a);
      p /= POSITIONS(a);
      k /= KERNEL(a);
    }
    matrix[i] = inside ? image[plane * size + at] : 0.0f;
  }
}

// i: an element of the image; every kernel element lay on it at one position, or at none.
extern "C" __global__ void scatter_patches(int64 n, const float* matrix, float* image,
                                           const int* axes, int count, int64 kernel,
                                           int64 positions, int64 area) {
  KERNEL_LOOP(i, n) {
    const float* rows = matrix + i / area * kernel * positions;
    float sum = 0.0f;
    for (int64 k = 0; k < kernel; ++k) {
      int64 rest = i % area, element = k, p = 0, size = 1;
      int there = 1;
      for (int a = count - 1; a >= 0; --a) {
        int64 start = rest % IMAGE(a) + PAD(a) - element % KERNEL(a) * DILATION(a);
        there = there && start >= 0 && start % STRIDE(a) == 0 && start / STRIDE(a) < POSITIONS(a);
        p += start / STRIDE(a) * size;
        size *= POSITIONS(a);
        rest /= IMAGE(a);
        element /= KERNEL(a);
      }
      if (there) sum += rows[k * positions + p];
    }
    image[i] = sum;
  }
}
"#,
    functions: &["gather_patches", "scatter_patches"],
};

impl Im2col {
    fn axes(&self) -> Vec<[usize; 6]> {
        let axis = |a: &Axis| [a.image, a.kernel, a.stride, a.pad, a.dilation, a.positions];
        self.patches.axes.iter().map(axis).collect()
    }

    /// The kernels' last arguments.
    fn sizes(&mut self, cuda: &CudaRun) -> Result<[Arg; 5]> {
        let count = self.patches.axes.len();
        let axes = self.axes_on_device.room(&cuda.device, 6 * count)?;
        let (kernel, positions) = (self.patches.kernel(), self.patches.positions());
        let area = self.patches.area().into();
        Ok([axes.into(), Arg::Int(count as i32), kernel.into(), positions.into(), area])
    }
}

impl CudaLayer for Im2col {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let [axes, count, kernel, positions, _] = self.sizes(cuda)?;
        let args = [io.bottom(0)?.into(), io.top_mut(0)?.into(), axes, count, kernel, positions];
        cuda.each(&KERNELS, "gather_patches", io.top_shape(0).count(), &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let [axes, count, kernel, positions, area] = self.sizes(cuda)?;
        let (dy, dx) = (io.top_diff(0)?.into(), io.bottom_diff_mut(0)?.into());
        let args = [dy, dx, axes, count, kernel, positions, area];
        cuda.each(&KERNELS, "scatter_patches", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.convolution_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Im2col {
        param,
        patches: Patches::default(),
        axes_on_device: Scratch::default(),
    }))
}

/// `Im2col`.
pub static DEF: LayerDef =
    LayerDef::new("Im2col", "the patches under a convolution's kernel, as channels", build)
        .kernels(&[&KERNELS]);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, set, try_net, values};

    fn text(param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 1 dim: 4 }} }} }} \
             layer {{ name: 'i' type: 'Im2col' bottom: 'x' top: 'y' convolution_param {{ {param} }} }}"
        )
    }

    #[test]
    fn one_axis_and_others() {
        for (param, shape, wanted) in [
            (
                "kernel_size: 2",
                &[2, 2, 3][..],
                &[0., 1., 2., 1., 2., 3., 4., 5., 6., 5., 6., 7.][..],
            ),
            ("kernel_size: 2 dilation: 3", &[2, 2, 1], &[0.0, 3.0, 4.0, 7.0]),
            (
                "kernel_size: 3 stride: 2 pad: 1",
                &[2, 3, 2],
                &[0., 1., 0., 2., 1., 3., 0., 5., 4., 6., 5., 7.],
            ),
            ("axis: 0 kernel_h: 1 kernel_w: 4", &[8, 1, 1], &[0., 1., 2., 3., 4., 5., 6., 7.]),
        ] {
            let mut net = net(&text(param), Phase::Test);
            set(&mut net, "x", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), wanted, "{param}");
            let y = net.blob("y").unwrap();
            assert_eq!(net.store().blobs[y].shape.dims(), shape, "{param}");
        }
    }

    #[test]
    fn says_what_does_not_fit() {
        for (param, said) in [
            ("kernel_size: 5", "a kernel of 5"),
            ("axis: 2 kernel_size: 1", "no spatial axes behind axis 2 of 2 1 4 (8)"),
            ("axis: 3 kernel_size: 1", "axis 3 is outside"),
            ("", "needs a kernel_size"),
        ] {
            let message = try_net(&text(param), Phase::Test).err().unwrap().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
