//! Crop: cuts the first bottom to the extents of the second along all axes from `axis` on.
//!
//! ```text
//! layer { name: "cut" type: "Crop" bottom: "big" bottom: "like" top: "y" crop_param { axis: 2 offset: 5 } }
//! ```
//! `offset` is where the cut starts: 0, one number for all these axes, or one for each. Of the
//! second bottom only the shape is looked at, and it gets no gradient.

use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct Crop {
    axis: i32,
    offsets: Vec<usize>,
    /// Per axis: extent of the bottom, extent of the top, start.
    axes: Vec<[usize; 3]>,
    axes_on_device: Scratch,
}

impl Crop {
    /// Where the cut starts along axis `i`.
    fn offset(&self, first: usize, i: usize) -> usize {
        match self.offsets[..] {
            [] => 0,
            [all] => all,
            _ => self.offsets[i - first],
        }
    }

    /// Calls `f(start in the bottom, start in the top, length)` for every line along the last axis.
    fn lines(&self, mut f: impl FnMut(usize, usize, usize)) {
        let Some((&[width, len, start], outer)) = self.axes.split_last() else { return };
        let count: usize = outer.iter().map(|[_, extent, _]| extent).product();
        for line in 0..count {
            // The line's index along the outer axes, innermost first.
            let (mut left, mut at, mut stride) = (line, start, width);
            for &[whole, extent, start] in outer.iter().rev() {
                at += (start + left % extent) * stride;
                (left, stride) = (left / extent, stride * whole);
            }
            f(at, line * len, len);
        }
    }
}

impl Layer for Crop {
    fn reshape(&mut self, run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let [x, like] = bottoms else { return Ok(Vec::new()) };
        let first = x.axis(self.axis)?;
        let cropped = x.axes() - first;
        ensure!(
            like.axes() >= x.axes(),
            "the second bottom, of shape {like}, has no extents for all axes of the first, {x}"
        );
        ensure!(
            self.offsets.len() <= 1 || self.offsets.len() == cropped,
            "{} offsets for the {cropped} axes from axis {} on of a bottom of shape {x}; give one, \
             or one per axis",
            self.offsets.len(),
            self.axis
        );
        let mut axes = Vec::with_capacity(x.axes());
        for i in 0..x.axes() {
            let (extent, start) =
                if i < first { (x[i], 0) } else { (like[i], self.offset(first, i)) };
            ensure!(
                start.saturating_add(extent) <= x[i],
                "cannot cut {extent} elements from offset {start} on out of the {} of axis {i}: \
                 the bottoms' shapes are {x} and {like}",
                x[i]
            );
            axes.push([x[i], extent, start]);
        }
        let top = Shape::new(axes.iter().map(|a| a[1]).collect::<Vec<_>>());
        self.axes = axes;
        if let Some(cuda) = run.cuda() {
            self.axes_on_device.integers(&cuda.device, self.axes.as_flattened())?;
        }
        Ok(vec![top])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        self.lines(|from, to, len| y[to..to + len].copy_from_slice(&x[from..from + len]));
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dy, dx) = (io.top_diff(0)?, io.bottom_diff_mut(0)?);
        dx.fill(0.0);
        self.lines(|from, to, len| dx[from..from + len].copy_from_slice(&dy[to..to + len]));
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "crop",
    text: r#"
// Where element i of the top is in the bottom. Of every axis: extent of the bottom, extent of the
// top, start.
static __device__ __forceinline__ int64 place(int64 i, const int* axes, int count) {
  int64 at = 0, stride = 1;
  for (int a = count - 1; a >= 0; --a) {
    at += (axes[3 * a + 2] + i % axes[3 * a + 1]) * stride;
    i /= axes[3 * a + 1];
    stride *= axes[3 * a];
  }
  return at;
}

extern "C" __global__ void crop(int64 n, const float* x, float* y, const int* axes, int count) {
  KERNEL_LOOP(i, n) { y[i] = x[place(i, axes, count)]; }
}

extern "C" __global__ void crop_backward(int64 n, const float* dy, float* dx, const int* axes,
                                         int count) {
  KERNEL_LOOP(i, n) { dx[place(i, axes, count)] = dy[i]; }
}
"#,
    functions: &["crop", "crop_backward"],
};

impl Crop {
    fn axes_on(&mut self, cuda: &CudaRun) -> Result<[Arg; 2]> {
        let count = self.axes.len();
        let at = self.axes_on_device.room(&cuda.device, 3 * count)?;
        Ok([at.into(), Arg::Int(count as i32)])
    }
}

impl CudaLayer for Crop {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let [axes, count] = self.axes_on(cuda)?;
        let args = [io.bottom(0)?.into(), io.top_mut(0)?.into(), axes, count];
        cuda.each(&KERNELS, "crop", io.top_shape(0).count(), &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let ([axes, count], dx) = (self.axes_on(cuda)?, io.bottom_diff_mut(0)?);
        cuda.device.zero(dx, io.bottom_shape(0).count())?;
        let args = [io.top_diff(0)?.into(), dx.into(), axes, count];
        cuda.each(&KERNELS, "crop_backward", io.top_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.crop_param.as_deref().cloned().unwrap_or_default();
    let offsets = param.offset.iter().map(|&o| o as usize).collect();
    Ok(Box::new(Crop { axis: param.axis(), offsets, axes: Vec::new(), axes_on_device: Scratch::default() }))
}

/// `Crop`.
pub static DEF: LayerDef =
    LayerDef::new("Crop", "the first bottom cut to the extents of the second", build)
        .kernels(&[&KERNELS])
        .counts(Count::Exactly(2), Count::Exactly(1))
        .gradient_bottoms(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, set, try_net, values};

    fn text(like: &str, param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 3 dim: 4 }} }} }} \
             layer {{ name: 'l' type: 'Input' top: 'l' input_param {{ shape {{ {like} }} }} }} \
             layer {{ name: 'c' type: 'Crop' bottom: 'x' bottom: 'l' top: 'y' crop_param {{ {param} }} }}"
        )
    }

    #[test]
    fn cuts_every_axis_from_its_offset() {
        for (like, param, wanted) in [
            ("dim: 2 dim: 3 dim: 1", "axis: -1", &[0.0, 4.0, 8.0, 12.0, 16.0, 20.0][..]),
            ("dim: 9 dim: 2 dim: 2", "axis: 1 offset: 1", &[5., 6., 9., 10., 17., 18., 21., 22.]),
            ("dim: 1 dim: 1 dim: 2", "axis: 0 offset: 1 offset: 2 offset: 1", &[21.0, 22.0]),
        ] {
            let mut net = net(&text(like, param), Phase::Test);
            set(&mut net, "x", &(0..24).map(|i| i as f32).collect::<Vec<_>>());
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), wanted, "{param}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_shapes() {
        for (like, param, said) in [
            ("dim: 2 dim: 3 dim: 5", "", "cannot cut 5 elements from offset 0"),
            ("dim: 2 dim: 3 dim: 2", "offset: 3", "cannot cut 2 elements from offset 3"),
            ("dim: 2 dim: 3", "", "no extents for all axes"),
        ] {
            let message = try_net(&text(like, param), Phase::Test).err().unwrap().to_string();
            assert!(message.contains(said) && message.contains("2 3 4 (24)"), "{message}");
        }
        let text = text("dim: 2 dim: 3 dim: 2", "axis: 1 offset: 0 offset: 0 offset: 0");
        let message = try_net(&text, Phase::Test).err().unwrap().to_string();
        assert!(message.contains("3 offsets for the 2 axes"), "{message}");
    }
}
