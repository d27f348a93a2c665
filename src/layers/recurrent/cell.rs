//! The LSTM cell: one stream's step. Gates stand in Caffe's order i, f, o, g, `hidden` of each:
//!
//! ```text
//! i = σ(a_i)   f = σ(a_f)   o = σ(a_o)   g = tanh(a_g)
//! c = cont · f · c_before + i · g         h = o · tanh(c)
//! ```
//! `cont` is 0 where a sequence begins, and what was before is then forgotten.

use crate::layers::sigmoid::sigmoid;

/// One step: the sums `gates` become the gates' values; c and h are written.
pub fn forward(cont: f32, gates: &mut [f32], before: &[f32], c: &mut [f32], h: &mut [f32]) {
    let (ifo, g) = gates.split_at_mut(3 * c.len());
    ifo.iter_mut().for_each(|v| *v = sigmoid(*v));
    g.iter_mut().for_each(|v| *v = v.tanh());
    let n = c.len();
    for d in 0..n {
        // Nothing of a state that is forgotten, not even a NaN.
        let kept = if cont == 0.0 { 0.0 } else { cont * ifo[n + d] * before[d] };
        c[d] = kept + ifo[d] * g[d];
        h[d] = ifo[2 * n + d] * c[d].tanh();
    }
}

/// What a step computed, for its way back.
pub struct Done<'a> {
    /// Whether the sequence went on.
    pub cont: f32,
    /// Values of the gates.
    pub gates: &'a [f32],
    /// Cell state before the step.
    pub before: &'a [f32],
    /// Cell state after it.
    pub c: &'a [f32],
}

/// The step's gradients: `dc`, by c, becomes that by the state before; the gradient by the gates'
/// sums is written to `dgates`.
pub fn backward(done: &Done<'_>, dh: &[f32], dc: &mut [f32], dgates: &mut [f32]) {
    let n = dc.len();
    for d in 0..n {
        let [i, f, o, g] = [0, 1, 2, 3].map(|gate| done.gates[gate * n + d]);
        let squashed = done.c[d].tanh();
        let dc_all = dc[d] + dh[d] * o * (1.0 - squashed * squashed);
        dgates[d] = dc_all * g * i * (1.0 - i);
        let (df, dbefore) = match done.cont {
            0.0 => (0.0, 0.0),
            cont => (dc_all * cont * done.before[d] * f * (1.0 - f), dc_all * cont * f),
        };
        dgates[n + d] = df;
        dgates[2 * n + d] = dh[d] * squashed * o * (1.0 - o);
        dgates[3 * n + d] = dc_all * i * (1.0 - g * g);
        dc[d] = dbefore;
    }
}
