//! The optimizer: from summed gradients to new weights, over the whole parameter arena.
//!
//! The order is Caffe's: take out the loss scale, clip the summed gradient by its global norm, divide by iter_size, add the
//! weight decay, apply the solver's rule, subtract. All of it is done cache-sized piece by piece, so
//! that weights, gradients and histories pass through memory once.

use std::ops::Range;

use caffe_proto::SolverParameter;

use super::lr_policy::{LrPolicy, Ramp};
use super::on_device::{OnDevice, Update};
use super::rules::{At, UpdateRule, rule_for};
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::params::{Mirrored, Param, ParamArena, Use};
use crate::{Error, Result, bail, ensure};

/// Values per piece: four arrays of it fit the second-level cache of any current CPU.
const PIECE: usize = 16 * 1024;

/// Weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decay {
    None,
    L1(f32),
    L2(f32),
}

/// A run of values that one parameter has in one piece.
#[derive(Clone, Debug)]
struct Run {
    /// Relative to the piece.
    range: Range<usize>,
    lr_mult: f32,
    decay_mult: f32,
}

/// Rule, rate, decay and histories of one replica.
pub struct Optimizer {
    policy: LrPolicy,
    rule: Box<dyn UpdateRule>,
    decay: Decay,
    clip: Option<f32>,
    iter_size: f32,
    /// The arena's gradient is the gradient times this.
    gradient_scale: f32,
    histories: [Mirrored; 2],
    /// What it has on the device that it has updated on.
    there: Option<OnDevice>,
    pieces: Vec<Vec<Run>>,
    /// The squared norm of each piece's gradient; empty without clipping.
    norms: Vec<f64>,
}

impl Optimizer {
    /// The optimizer a solver prototxt describes, for the learnable part of `arena`.
    ///
    /// # Errors
    /// Unknown policies, types or regularizations, and numbers that make no sense.
    pub fn new(param: &SolverParameter, arena: &ParamArena) -> Result<Self> {
        let rule = rule_for(param)?;
        let decay = match (param.weight_decay(), param.regularization_type()) {
            (w, _) if !w.is_finite() => bail!("weight_decay {w} is not a finite number"),
            (0.0, "L1" | "L2") => Decay::None,
            (w, "L1") => Decay::L1(w),
            (w, "L2") => Decay::L2(w),
            (_, other) => bail!("unknown regularization_type \"{other}\"; known are L1 and L2"),
        };
        ensure!(param.iter_size() >= 1, "iter_size must be at least 1, got {}", param.iter_size());
        let len = arena.learnable_len();
        let kept = |k: usize| {
            let len = if rule.histories() > k { len } else { 0 };
            Mirrored::zeroed(len, std::iter::once(0..len))
        };
        let clip = Some(param.clip_gradients()).filter(|c| *c >= 0.0);
        let pieces = cut(arena.params(), len);
        Ok(Optimizer {
            policy: LrPolicy::new(param)?,
            decay,
            clip,
            norms: vec![0.0; if clip.is_some() { pieces.len() } else { 0 }],
            iter_size: param.iter_size() as f32,
            gradient_scale: 1.0,
            histories: [kept(0), kept(1)],
            there: None,
            rule,
            pieces,
        })
    }

    /// Puts the rate behind a warm-up.
    pub fn set_ramp(&mut self, ramp: Ramp) {
        self.policy = self.policy.clone().ramped(ramp);
    }

    /// Says that the gradients to come are those of the loss times this.
    pub fn set_gradient_scale(&mut self, scale: f32) {
        self.gradient_scale = scale;
    }

    /// Learning rate at an iteration.
    pub fn rate(&self, iter: u64) -> f32 {
        self.policy.rate(iter)
    }

    /// Steps of the rate taken by an iteration.
    pub fn steps(&self, iter: u64) -> u64 {
        self.policy.steps(iter)
    }

    /// Caffe's name of the rule.
    pub fn type_name(&self) -> &'static str {
        self.rule.type_name()
    }

    /// Number of histories in use.
    pub fn history_count(&self) -> usize {
        self.rule.histories()
    }

    /// Floats of all histories together.
    pub fn history_len(&self) -> usize {
        self.histories.iter().map(Mirrored::floats).sum()
    }

    /// The histories in use, each laid out like the learnable part of the arena.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn histories(&mut self) -> Result<Vec<&[f32]>> {
        let used = self.histories.iter_mut().take(self.rule.histories());
        used.map(|h| h.whole(Use::Read).map(|h| &*h)).collect()
    }

    /// The histories in use, to be written.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn histories_mut(&mut self) -> Result<Vec<&mut [f32]>> {
        let used = self.histories.iter_mut().take(self.rule.histories());
        used.map(|h| h.whole(Use::Change)).collect()
    }

    /// Turns summed gradients into the update of this iteration, in place, and advances the
    /// histories; the weights stay.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when clipping meets a gradient without a finite norm.
    pub fn solve(&mut self, arena: &mut ParamArena, iter: u64, threads: Threads) -> Result<()> {
        let all = 0..arena.learnable_len();
        self.run(arena, all, iter, threads, false)
    }

    /// Whether a part of the gradient can be solved before all of it is known.
    pub fn solves_parts(&self) -> bool {
        self.clip.is_none()
    }

    /// [`Optimizer::solve`] for a part of the arena; with [`Optimizer::solves_parts`] only. Parts
    /// that make up the whole make the same update as the whole.
    ///
    /// # Errors
    /// When the whole gradient's norm is needed.
    pub fn solve_part(
        &mut self,
        arena: &mut ParamArena,
        part: Range<usize>,
        iter: u64,
        threads: Threads,
    ) -> Result<()> {
        ensure!(self.solves_parts(), "clip_gradients needs the whole gradient");
        self.run(arena, part, iter, threads, false)
    }

    /// Turns summed gradients into the update and subtracts it from the weights.
    ///
    /// # Errors
    /// As [`Optimizer::solve`].
    pub fn update(&mut self, arena: &mut ParamArena, iter: u64, threads: Threads) -> Result<()> {
        let all = 0..arena.learnable_len();
        self.run(arena, all, iter, threads, true)
    }

    /// Measures the gradient's norm on a device, for the report and for [`Optimizer::update_on`].
    ///
    /// # Errors
    /// A device that failed.
    pub fn measure_on(&mut self, arena: &mut ParamArena, cuda: &CudaRun) -> Result<()> {
        let there = OnDevice::get(&mut self.there, arena, &cuda.device)?;
        let most = self.clip.map_or(f32::MAX, |clip| clip * self.gradient_scale);
        there.measure(cuda, arena, most)
    }

    /// [`Optimizer::update`] on a device, where gradient, weights and histories stay, with the norm that
    /// was measured last. It does not wait for the host's look at that: without a finite one it leaves
    /// everything as it is.
    ///
    /// # Errors
    /// A device that failed.
    pub fn update_on(&mut self, arena: &mut ParamArena, iter: u64, cuda: &CudaRun) -> Result<()> {
        let (l1, l2) = match self.decay {
            Decay::None => (0.0, 0.0),
            Decay::L1(d) => (d, 0.0),
            Decay::L2(d) => (0.0, d),
        };
        let device = &cuda.device;
        let there = OnDevice::get(&mut self.there, arena, device)?;
        let (data, diff) = arena.data_and_diff_on(device)?;
        let mut history = [data; 2];
        for (at, h) in history.iter_mut().zip(&self.histories).take(self.rule.histories()) {
            *at = h.span_on(device, &(0..h.floats()), Use::Change)?;
        }
        let (rate, iter_size) = (self.policy.rate(iter), self.iter_size * self.gradient_scale);
        let rule = self.rule.on_device(iter);
        there.update(cuda, &rule, &Update { data, diff, history, rate, iter_size, l1, l2 })
    }

    fn run(
        &mut self,
        arena: &mut ParamArena,
        span: Range<usize>,
        iter: u64,
        threads: Threads,
        apply: bool,
    ) -> Result<()> {
        let divisor = self.iter_size * self.gradient_scale;
        let scale = self.clip_scale(arena, iter, threads)? / divisor;
        let len = arena.learnable_len();
        let rate = self.policy.rate(iter);
        // Whole pieces that hold the span; what lies outside of it is left alone.
        let first = span.start / PIECE;
        let cover = first * PIECE..len.min(span.end.next_multiple_of(PIECE));
        let (data, diff) =
            if apply { arena.data_and_diff()? } else { arena.values_and_diff(&span)? };
        let [h0, h1] = &mut self.histories;
        let (h0, h1) = (h0.whole(Use::Change)?, h1.whole(Use::Change)?);
        let (rule, decay, pieces) = (&*self.rule, self.decay, &self.pieces);
        let piece = |index: usize, w: &mut [f32], g: &mut [f32], h: [&mut [f32]; 2]| {
            let [h0, h1] = h;
            let base = (first + index) * PIECE;
            for run in &pieces[first + index] {
                let from = run.range.start.max(span.start.saturating_sub(base));
                let to = run.range.end.min(span.end.saturating_sub(base));
                if from >= to {
                    continue;
                }
                let r = from..to;
                let (w, g) = (&mut w[r.clone()], &mut g[r.clone()]);
                if scale != 1.0 {
                    g.iter_mut().for_each(|g| *g *= scale);
                }
                add_decay(decay, run.decay_mult, w, g);
                let at = At { rate: rate * run.lr_mult, iter };
                rule.update(at, g, [part(h0, &r), part(h1, &r)]);
                if apply {
                    w.iter_mut().zip(g).for_each(|(w, u)| *w -= *u);
                }
            }
        };
        let (data, diff) = (&mut data[cover.clone()], &mut diff[cover.clone()]);
        match rule.histories() {
            0 => threads.par_zip2_mut((data, PIECE), (diff, PIECE), |i, w, g| {
                piece(i, w, g, [&mut [], &mut []]);
            }),
            1 => {
                let h0 = (&mut h0[cover], PIECE);
                threads.par_zip3_mut((data, PIECE), (diff, PIECE), h0, |i, w, g, h0| {
                    piece(i, w, g, [h0, &mut []]);
                });
            }
            _ => threads.par_zip4_mut(
                [data, diff, &mut h0[cover.clone()], &mut h1[cover]],
                PIECE,
                |i, [w, g, h0, h1]| {
                    piece(i, w, g, [h0, h1]);
                },
            ),
        }
        Ok(())
    }

    /// The factor that brings the global norm of the gradient down to the clip value.
    fn clip_scale(&mut self, arena: &mut ParamArena, iter: u64, threads: Threads) -> Result<f32> {
        let Some(clip) = self.clip else { return Ok(1.0) };
        let len = arena.learnable_len();
        let diff = arena.diff_in(0..len)?;
        // Sums of pieces in f64, added in order: the same for any number of threads.
        threads.par_chunks_mut(&mut self.norms, 1, |i, sum| {
            let piece = &diff[i * PIECE..len.min((i + 1) * PIECE)];
            sum[0] = piece.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        });
        let norm = self.norms.iter().sum::<f64>().sqrt() as f32 / self.gradient_scale;
        if !norm.is_finite() {
            return Err(Error::NotFinite { iter, what: "the gradient's norm".into(), value: norm });
        }
        Ok(if norm > clip { clip / norm } else { 1.0 })
    }
}

/// The runs of each piece of the arena.
fn cut(params: &[Param], len: usize) -> Vec<Vec<Run>> {
    let mut pieces = vec![Vec::new(); len.div_ceil(PIECE)];
    for p in params.iter().filter(|p| !p.statistic) {
        let mut at = p.range.start;
        while at < p.range.end {
            let piece = at / PIECE;
            let end = p.range.end.min((piece + 1) * PIECE);
            pieces[piece].push(Run {
                range: at - piece * PIECE..end - piece * PIECE,
                lr_mult: p.lr_mult,
                decay_mult: p.decay_mult,
            });
            at = end;
        }
    }
    pieces
}

/// The part of a history, or nothing where the rule keeps none.
fn part<'a>(history: &'a mut [f32], range: &Range<usize>) -> &'a mut [f32] {
    if history.is_empty() { history } else { &mut history[range.clone()] }
}

fn add_decay(decay: Decay, mult: f32, w: &[f32], g: &mut [f32]) {
    match decay {
        Decay::L2(d) if mult != 0.0 => {
            let d = d * mult;
            g.iter_mut().zip(w).for_each(|(g, w)| *g += d * w);
        }
        Decay::L1(d) if mult != 0.0 => {
            let d = d * mult;
            // The sign of zero is zero.
            let sign = |w: f32| f32::from(w > 0.0) - f32::from(w < 0.0);
            g.iter_mut().zip(w).for_each(|(g, w)| *g += d * sign(*w));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use caffe_proto::{FillerParameter, ParamSpec};

    use super::*;
    use crate::blob::Shape;
    use crate::params::{Declared, ParamDef};

    /// Three parameters whose ends lie within pieces.
    fn arena() -> ParamArena {
        let declared: Vec<Declared> = [PIECE + 100, 70, 2 * PIECE - 9]
            .into_iter()
            .enumerate()
            .map(|(layer, len)| Declared {
                spec: ParamSpec::default(),
                layer,
                index: 0,
                def: ParamDef::learned(Shape::new(vec![len]), FillerParameter::default()),
            })
            .collect();
        let mut arena = ParamArena::new(&declared);
        let params = arena.params().to_vec();
        let (data, diff) = arena.data_and_diff().unwrap();
        for i in params.iter().flat_map(|p| p.range.clone()) {
            (data[i], diff[i]) = ((i % 13) as f32 - 6.0, (i % 7) as f32 * 0.1 - 0.3);
        }
        arena
    }

    #[test]
    fn parts_make_the_same_update_as_the_whole() {
        for kind in ["SGD", "Adam"] {
            let param = SolverParameter {
                r#type: Some(kind.into()),
                base_lr: Some(0.1),
                lr_policy: Some("fixed".into()),
                momentum: Some(0.9),
                momentum2: Some(0.99),
                weight_decay: Some(0.01),
                ..SolverParameter::default()
            };
            let (mut whole, mut parts) = (arena(), arena());
            let mut optimizers =
                [&whole, &parts].map(|arena| Optimizer::new(&param, arena).unwrap());
            let spans: Vec<Range<usize>> =
                whole.params().iter().rev().map(|p| p.range.clone()).collect();
            let threads = Threads::new(2);
            for iter in 0..3 {
                optimizers[0].solve(&mut whole, iter, threads).unwrap();
                for span in &spans {
                    optimizers[1].solve_part(&mut parts, span.clone(), iter, threads).unwrap();
                }
                assert!(whole.diff().unwrap() == parts.diff().unwrap(), "{kind}, iteration {iter}");
            }
            let clipped = SolverParameter { clip_gradients: Some(1.0), ..param };
            let mut clipped = Optimizer::new(&clipped, &whole).unwrap();
            assert!(clipped.solve_part(&mut whole, 0..70, 0, threads).is_err());
        }
    }
}
