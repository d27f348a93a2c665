//! Update rules on a CUDA device: what stands around a rule in its kernel.
//!
//! One kernel does the whole update of a value: clip and divide, decay, the rule, subtract. The
//! multipliers of rate and decay come from a table in device memory with a row for every
//! [`GRAIN`](crate::params::GRAIN) floats, where parameters start: no search for a value's parameter, no
//! launch for each parameter, 4 % more bytes than the update moves anyway.

use crate::device::cuda::source::Source;

/// A rule's kernel with the numbers of an iteration.
pub struct OnDevice {
    /// Made by `update_kernels`.
    pub kernels: &'static Source,
    /// Factor on the rate.
    pub factor: f32,
    /// What the kernel calls a, b and c.
    pub numbers: [f32; 3],
}

/// The kernel `update_NAME` around statements that turn a gradient `g` into the update, with `rate`,
/// the rule's numbers `a`, `b`, `c`, and its histories `h0[i]` and `h1[i]`.
///
/// `norm` holds the gradient's norm and the factor that clips it; where the norm is not finite, nothing
/// changes. A row of `runs` holds lr_mult, decay_mult, and how many of its floats are a parameter's.
macro_rules! update_kernels {
    ($name:literal, $rule:literal) => {
        $crate::device::cuda::source::Source {
            name: concat!("update_", $name),
            text: concat!(
                "\nextern \"C\" __global__ void update_",
                $name,
                r#"(int64 n, float* w, const float* diff, float* h0, float* h1, const float* runs,
    const float* norm, float base, float iter_size, float l1, float l2, float a, float b, float c) {
  if (!(norm[0] <= FLOAT_MAX)) return;
  float scale = norm[1] / iter_size;
  KERNEL_LOOP(i, n) {
    const float* run = runs + 3 * (i / 16);
    if (i % 16 >= run[2]) continue;
    float rate = base * run[0], x = w[i];
    float sign = (x > 0 ? 1.0f : 0.0f) - (x < 0 ? 1.0f : 0.0f);
    float g = diff[i] * scale + run[1] * (l1 * sign + l2 * x);"#,
                $rule,
                "    w[i] = x - g;\n  }\n}\n"
            ),
            functions: &[concat!("update_", $name)],
        }
    };
}
pub(super) use update_kernels;

#[cfg(test)]
mod tests {
    use crate::params::GRAIN;

    #[test]
    fn the_kernels_and_the_arena_agree_on_the_grain() {
        for source in crate::solver::rules::sources() {
            let row = format!("runs + 3 * (i / {GRAIN});");
            let used = format!("(i % {GRAIN} >= run[2])");
            assert!(source.text.contains(&row) && source.text.contains(&used), "{}", source.name);
        }
    }
}
