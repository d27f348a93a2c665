//! Loops for layers that treat every element by itself: any layout, in place or not.

pub mod cuda;

use super::Io;
use crate::Result;
use crate::blob::Layout;
use crate::device::Run;

/// Elements per task: 64 KiB of input and output stay in the first-level caches' reach.
const CHUNK: usize = 8 * 1024;

/// What the function makes of a padding channel's zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AtZero {
    /// f(0) = 0: padding channels stay zero, every layout will do.
    Zero,
    /// f(0) ≠ 0: a blocked blob with padding channels is taken in plain order.
    Other,
}

impl AtZero {
    /// For a function whose value at 0 depends on its parameters.
    pub fn of(value: f32) -> AtZero {
        if value == 0.0 { AtZero::Zero } else { AtZero::Other }
    }
}

/// The layout to work in: the one that is there, unless its padding would be spoiled.
pub fn layout(io: &Io<'_>, at_zero: AtZero) -> Layout {
    let layout = io.bottom_layout(0);
    if at_zero == AtZero::Other && io.bottom_shape(0).is_padded_in(layout) {
        Layout::Plain
    } else {
        layout
    }
}

/// top = f(bottom).
///
/// # Errors
/// A conversion that fails.
pub fn forward(
    run: &mut Run,
    io: &Io<'_>,
    at_zero: AtZero,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<()> {
    let (threads, layout) = (run.threads(), layout(io, at_zero));
    if io.in_place() {
        let y = io.top_update_in(0, layout)?;
        threads.par_chunks_mut(y, CHUNK, |_, y| y.iter_mut().for_each(|v| *v = f(*v)));
    } else {
        let x = io.bottom_in(0, layout)?;
        let y = io.top_mut_in(0, layout)?;
        threads.par_chunks_mut(y, CHUNK, |i, y| {
            let x = &x[i * CHUNK..][..y.len()];
            y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x));
        });
    }
    Ok(())
}

/// The bottom of a layer that works in place and needs it for its gradient.
#[derive(Default)]
pub struct Kept {
    /// The values before the forward pass.
    pub values: Vec<f32>,
    /// The layout they are in.
    pub layout: Layout,
}

impl Kept {
    /// Memory for a bottom of `len` elements in `layout`.
    pub fn room(&mut self, len: usize, layout: Layout) -> &mut [f32] {
        self.layout = layout;
        self.values.resize(len, 0.0);
        &mut self.values
    }
}

/// top = f(bottom); in place, the bottom is kept where a gradient will be asked for.
///
/// # Errors
/// A conversion that fails.
pub fn forward_keeping(
    run: &mut Run,
    io: &Io<'_>,
    at_zero: AtZero,
    kept: &mut Kept,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<()> {
    if !io.in_place() || !io.propagate_down(0) {
        return forward(run, io, at_zero, f);
    }
    let layout = layout(io, at_zero);
    let y = io.top_update_in(0, layout)?;
    let kept = kept.room(y.len(), layout);
    run.threads().par_zip2_mut((y, CHUNK), (kept, CHUNK), |_, y, kept| {
        kept.copy_from_slice(y);
        y.iter_mut().for_each(|v| *v = f(*v));
    });
    Ok(())
}

/// Which value the derivative is computed from.
#[derive(Clone, Copy)]
pub enum From<'a> {
    /// The bottom. In place that is the top's memory: only for functions for which either will do.
    Bottom,
    /// The top.
    Top,
    /// The bottom; in place, what [`forward_keeping`] kept of it.
    Kept(&'a Kept),
}

/// For layers whose gradient needs the bottom's values.
///
/// # Errors
/// When the top has overwritten them.
pub fn refuse_in_place(io: &Io<'_>) -> Result<()> {
    if io.in_place() && io.propagate_down(0) {
        crate::bail!(
            "cannot learn in place: its gradient needs the bottom; name the top otherwise"
        );
    }
    Ok(())
}

/// bottom diff = d(value, top diff).
///
/// # Errors
/// A conversion that fails.
pub fn backward(
    run: &mut Run,
    io: &Io<'_>,
    from: From<'_>,
    d: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<()> {
    if !io.propagate_down(0) {
        return Ok(());
    }
    let threads = run.threads();
    let (layout, value) = match from {
        From::Kept(kept) if io.in_place() => (kept.layout, &kept.values[..]),
        From::Bottom | From::Kept(_) => {
            (io.bottom_layout(0), io.bottom_in(0, io.bottom_layout(0))?)
        }
        From::Top => (io.top_layout(0), io.top_in(0, io.top_layout(0))?),
    };
    if io.in_place() {
        let dx = io.bottom_diff_update_in(0, layout)?;
        threads.par_chunks_mut(dx, CHUNK, |i, dx| {
            let value = &value[i * CHUNK..][..dx.len()];
            dx.iter_mut().zip(value).for_each(|(dx, v)| *dx = d(*v, *dx));
        });
    } else {
        let dy = io.top_diff_in(0, layout)?;
        let dx = io.bottom_diff_mut_in(0, layout)?;
        threads.par_chunks_mut(dx, CHUNK, |i, dx| {
            let at = i * CHUNK..i * CHUNK + dx.len();
            let (value, dy) = (&value[at.clone()], &dy[at]);
            for ((dx, v), dy) in dx.iter_mut().zip(value).zip(dy) {
                *dx = d(*v, *dy);
            }
        });
    }
    Ok(())
}
