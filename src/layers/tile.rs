//! Tile: the bottom `tiles` times, one behind the other along `axis`.
//!
//! ```text
//! layer { name: "repeat" type: "Tile" bottom: "x" top: "y" tile_param { axis: 1 tiles: 3 } }
//! ```

use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct Tile {
    axis: i32,
    tiles: usize,
    /// Elements of one index of the axes before: what is repeated.
    len: usize,
}

impl Layer for Tile {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let axis = bottoms[0].axis(self.axis)?;
        self.len = bottoms[0].count_from(axis).max(1);
        Ok(vec![bottoms[0].with(axis, bottoms[0][axis].saturating_mul(self.tiles))])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, len) = (io.bottom(0)?, self.len);
        run.threads().par_chunks_mut(io.top_mut(0)?, len * self.tiles, |i, y| {
            let x = &x[i * len..][..len];
            y.chunks_mut(len).for_each(|y| y.copy_from_slice(x));
        });
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dy, len) = (io.top_diff(0)?, self.len);
        let tiles = len * self.tiles;
        run.threads().par_chunks_mut(io.bottom_diff_mut(0)?, len, |i, dx| {
            dx.fill(0.0);
            for dy in dy[i * tiles..][..tiles].chunks(len) {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "tile",
    text: r#"
extern "C" __global__ void tile(int64 n, const float* x, float* y, int64 len, int64 tiles) {
  KERNEL_LOOP(i, n) { y[i] = x[i / (len * tiles) * len + i % len]; }
}

extern "C" __global__ void tile_backward(int64 n, const float* dy, float* dx, int64 len,
                                         int64 tiles) {
  KERNEL_LOOP(i, n) {
    float sum = 0.0f;
    for (int64 t = 0; t < tiles; ++t) sum += dy[(i / len * tiles + t) * len + i % len];
    dx[i] = sum;
  }
}
"#,
    functions: &["tile", "tile_backward"],
};

impl CudaLayer for Tile {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?.into(), io.top_mut(0)?.into());
        let args = [x, y, self.len.into(), self.tiles.into()];
        cuda.each(&KERNELS, "tile", io.top_shape(0).count(), &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dy, dx) = (io.top_diff(0)?.into(), io.bottom_diff_mut(0)?.into());
        let args = [dy, dx, self.len.into(), self.tiles.into()];
        cuda.each(&KERNELS, "tile_backward", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.tile_param.as_deref().cloned().unwrap_or_default();
    ensure!(param.tiles() > 0, "needs tile_param {{ tiles }} of at least 1, got {}", param.tiles());
    Ok(Box::new(Tile { axis: param.axis(), tiles: param.tiles() as usize, len: 1 }))
}

/// `Tile`.
pub static DEF: LayerDef = LayerDef::new("Tile", "the bottom several times along axis", build).kernels(&[&KERNELS]);

#[cfg(test)]
mod tests {
    use crate::layers::testing::{input, message};

    #[test]
    fn refuses_what_it_cannot_repeat() {
        let text = |param: &str| {
            let x = input("x", &[2, 3]);
            format!("{x} layer {{ name: 't' type: 'Tile' bottom: 'x' top: 'y' {param} }}")
        };
        for param in ["", "tile_param { tiles: 0 }", "tile_param { tiles: -2 }"] {
            assert!(message(&text(param)).contains("tiles"), "{param}");
        }
        let outside = message(&text("tile_param { axis: 2 tiles: 2 }"));
        assert!(outside.contains("axis 2 is outside"), "{outside}");
    }
}
