//! The fast path: channel blocks, through oneDNN where its rules are Caffe's, else by own loops.
//!
//! oneDNN has no divisor for means over windows that hang over a padded edge; there, and for those
//! alone, [`Tiles`] walks the windows with a block of channels at a time.

use super::plain::{Planes, divisor};
use crate::Result;
use crate::blob::Layout;
use crate::device::cpu::onednn::{Context, Error, PoolConfig, PoolMethod, Pooling};
use crate::device::cpu::threads::Threads;

/// Pooling of one shape in one blocked layout.
pub enum Blocked {
    /// oneDNN's kernels.
    Compiled(Box<Pooling>),
    /// Means by own loops.
    Means(Tiles),
}

impl Blocked {
    /// `planes` are the windows that `config` describes; `None` where only the plain path will do.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn new(cx: &Context, config: &PoolConfig, planes: &Planes) -> Result<Option<Self>> {
        match Pooling::new(cx, config) {
            Ok(pooling) => Ok(Some(Self::Compiled(Box::new(pooling)))),
            Err(Error::Unsupported { .. }) if config.method == PoolMethod::Average => {
                Ok(Some(Self::Means(Tiles { planes: planes.clone(), layout: config.layout })))
            }
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Names of the kernels, by direction.
    pub fn kernels(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Compiled(pooling) => pooling.impl_info(),
            Self::Means(_) => vec![("both", "own loops".to_owned())],
        }
    }

    /// y from x.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn forward(&mut self, threads: Threads, x: &[f32], y: &mut [f32]) -> Result<()> {
        match self {
            Self::Compiled(pooling) => pooling.forward(x, y)?,
            Self::Means(tiles) => tiles.mean(threads, x, y),
        }
        Ok(())
    }

    /// dx from dy.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn backward(&mut self, threads: Threads, dy: &[f32], dx: &mut [f32]) -> Result<()> {
        match self {
            Self::Compiled(pooling) => pooling.backward(dy, dx)?,
            Self::Means(tiles) => tiles.spread(threads, dy, dx),
        }
        Ok(())
    }
}

/// Windows over tiles: planes whose elements are blocks of channels.
pub struct Tiles {
    planes: Planes,
    layout: Layout,
}

impl Tiles {
    fn mean(&self, threads: Threads, x: &[f32], y: &mut [f32]) {
        match self.layout {
            Layout::Blocked16 => self.mean_of::<16>(threads, x, y),
            _ => self.mean_of::<8>(threads, x, y),
        }
    }

    fn spread(&self, threads: Threads, dy: &[f32], dx: &mut [f32]) {
        match self.layout {
            Layout::Blocked16 => self.spread_of::<16>(threads, dy, dx),
            _ => self.spread_of::<8>(threads, dy, dx),
        }
    }

    fn mean_of<const B: usize>(&self, threads: Threads, x: &[f32], y: &mut [f32]) {
        let (area, len) = self.planes.lens();
        let (x, _) = x.as_chunks::<B>();
        threads.par_chunks_mut(y, len * B, |tile, y| {
            let (x, y) = (&x[tile * area..][..area], y.as_chunks_mut::<B>().0);
            for (y, window) in y.iter_mut().zip(self.planes.windows()) {
                let mut sum = [0.0; B];
                for at in self.planes.places(window) {
                    sum.iter_mut().zip(&x[at]).for_each(|(sum, x)| *sum += x);
                }
                let divisor = divisor(window);
                *y = sum.map(|sum| sum / divisor);
            }
        });
    }

    fn spread_of<const B: usize>(&self, threads: Threads, dy: &[f32], dx: &mut [f32]) {
        let (area, len) = self.planes.lens();
        let (dy, _) = dy.as_chunks::<B>();
        threads.par_chunks_mut(dx, area * B, |tile, dx| {
            let (dx, _) = dx.as_chunks_mut::<B>();
            dx.fill([0.0; B]);
            for (dy, window) in dy[tile * len..][..len].iter().zip(self.planes.windows()) {
                let divisor = divisor(window);
                let share = dy.map(|dy| dy / divisor);
                for at in self.planes.places(window) {
                    dx[at].iter_mut().zip(&share).for_each(|(dx, share)| *dx += share);
                }
            }
        });
    }
}
