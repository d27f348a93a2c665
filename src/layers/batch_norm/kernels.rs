//! The text of BatchNorm's kernels, which do the work of a Scale and a ReLU behind it, too.
//!
//! v̂ stands for the normalized value: kept, or made of x again.

use crate::device::cuda::source::Source;

pub(super) static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// What is known of a channel.
struct Channel { float mean, inverse, scale, bias; };
#define CHANNEL [=](int64 c) {                                                     \
  return Channel{mean[c], inverse[c], scaled ? scale[c] : 1.0f, biased ? bias[c] : 0.0f}; \
}

// Two sums over a part of channel c, to whose element at `at` `each` adds: by a block.
#define SUMS_BY_BLOCK(c, each)                                                    \
  {                                                                               \
    float sums_of[2] = {};                                                        \
    PART_LOOP(i, count, part % parts, parts) {                                    \
      uint32 at = channel_element(i, c, channels, inner);                         \
      each;                                                                       \
    }                                                                             \
    for (int s = 0; s < 2; ++s) {                                                 \
      float sum = block_sum(sums_of[s]);                                          \
      if (threadIdx.x == 0) put_sum(sums + s * n + part, factor * sum, accumulate); \
    }                                                                             \
  }

// Of a channel's values and of their squares. Less the channel's first value, so that the variance keeps its
// digits where the mean is large.
static __device__ __forceinline__ void measure(float shift, float* sums, float x) {
  float v = x - shift;
  sums[0] += v;
  sums[1] += v * v;
}

extern "C" __global__ void norm_measure(int64 n, const real* x, int64 channels, int64 count,
                                        Divisor inner, int64 parts, float* sums, float factor,
                                        int accumulate) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    int c = part / parts;
    float shift = x[channel_element(0, c, channels, inner)];
    SUMS_BY_BLOCK(c, measure(shift, sums_of, x[at]))
  }
}
// The same where a channel's elements lie far apart.
extern "C" __global__ void norm_measure_columns(int64 n, const real* x, int64 channels, int64 count,
                                                Divisor inner, int64 parts, float* sums,
                                                float factor, int accumulate) {
  column_sums_of<2>(n, channels, count, parts, sums, factor, accumulate,
                    [=](int64 c) -> float { return x[c]; },
                    [](float shift, float* to, float v) { measure(shift, to, v); }, x);
}

// Mean and 1 / deviation of each channel out of the means of both, and into the running sums.
extern "C" __global__ void norm_moments(int64 n, const real* x, const float* measured, float* mean,
                                        float* inverse, float* means, float* variances, float* weight,
                                        int count, Divisor inner, float fraction, float eps) {
  KERNEL_LOOP(c, n) {
    float sum = measured[c];
    float variance = fmaxf(measured[n + c] - sum * sum, 0.0f);
    mean[c] = x[channel_element(0, c, n, inner)] + sum;
    inverse[c] = 1 / sqrtf(variance + eps);
    means[c] = means[c] * fraction + mean[c];
    float unbiased = count > 1 ? (float)count / (count - 1) : 1.0f;
    variances[c] = variances[c] * fraction + unbiased * variance;
    if (c == 0) weight[0] = weight[0] * fraction + 1;
  }
}

extern "C" __global__ void norm_recall(int64 n, const float* means, const float* variances,
                                       const float* weight, float* mean, float* inverse, float eps) {
  KERNEL_LOOP(c, n) {
    float factor = weight[0] == 0 ? 0.0f : 1 / weight[0];
    mean[c] = factor * means[c];
    inverse[c] = 1 / sqrtf(factor * variances[c] + eps);
  }
}

extern "C" __global__ void norm_forward(int64 n, const real* x, real* y, real* kept,
                                        const float* mean, const float* inverse, const float* scale,
                                        const float* bias, Divisor channels, Divisor inner, int keeps,
                                        int scaled, int biased, int relu) {
  auto behind = [=](const Channel& of, float v) -> float {
    float value = scaled ? fmaf(of.scale, v, of.bias) : v;
    return relu ? RELU(value) : value;
  };
  auto normal = [](const Channel& of, float v) -> float { return (v - of.mean) * of.inverse; };
  if (keeps) {
    // What is behind works with what backward will see.
    keep_of_channels(n, x, kept, y, channels, inner, CHANNEL, normal, behind);
  } else {
    each_of_channels(n, y, channels, inner, CHANNEL,
                     [=](const Channel& of, float v) -> float { return behind(of, normal(of, v)); },
                     x);
  }
}

// v^ of what is kept of an element, or of the element; and its gradient behind scale and ReLU.
#define HAT(of, v) (keeps ? (v) : ((v) - of.mean) * of.inverse)
#define PAST_RELU(of, v, slope) (relu && !((scaled ? fmaf(of.scale, v, of.bias) : (v)) > 0) ? 0.0f : (slope))

// Of a channel's gradients, and of these times v^.
#define ADD_SLOPE(of, sums, x, dy)            \
  {                                           \
    float v = HAT(of, x);                     \
    float slope = PAST_RELU(of, v, dy);       \
    sums[0] += slope;                         \
    sums[1] += slope * v;                     \
  }

extern "C" __global__ void norm_slopes(int64 n, const real* dy, const real* hat, const float* mean,
                                       const float* inverse, const float* scale, const float* bias,
                                       int64 channels, int64 count, Divisor inner, int keeps,
                                       int scaled, int biased, int relu, int64 parts, float* sums,
                                       float factor, int accumulate) {
  auto channel = CHANNEL;
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    int c = part / parts;
    Channel of = channel(c);
    SUMS_BY_BLOCK(c, ADD_SLOPE(of, sums_of, (float)hat[at], (float)dy[at]))
  }
}
// The same where a channel's elements lie far apart.
extern "C" __global__ void norm_slopes_columns(int64 n, const real* dy, const real* hat,
                                               const float* mean, const float* inverse,
                                               const float* scale, const float* bias,
                                               int64 channels, int64 count, Divisor inner, int keeps,
                                               int scaled, int biased, int relu, int64 parts,
                                               float* sums, float factor, int accumulate) {
  column_sums_of<2>(n, channels, count, parts, sums, factor, accumulate, CHANNEL,
                    [=](const Channel& of, float* sums, float x, float dy) {
    ADD_SLOPE(of, sums, x, dy)
  }, hat, dy);
}

// Out of the means of both the gradients of bias and scale, which are sums.
extern "C" __global__ void norm_learn(int64 n, const float* means, float* scale_slope,
                                      float* bias_slope, int count, int scale_learns,
                                      int bias_learns) {
  KERNEL_LOOP(c, n) {
    if (bias_learns) bias_slope[c] += count * means[c];
    if (scale_learns) scale_slope[c] += count * means[n + c];
  }
}

struct Slopes { Channel of; float sum, product; };

// fixed: mean and deviation do not depend on x.
extern "C" __global__ void norm_backward(int64 n, const real* dy, const real* hat, real* dx,
                                         const float* mean, const float* inverse, const float* scale,
                                         const float* bias, const float* a, const float* b,
                                         Divisor channels, Divisor inner, int keeps, int scaled,
                                         int biased, int relu, int fixed) {
  auto channel = CHANNEL;
  each_of_channels(n, dx, channels, inner, [=](int64 c) {
    return Slopes{channel(c), fixed ? 0.0f : a[c], fixed ? 0.0f : b[c]};
  }, [=](const Slopes& k, float x, float dy) -> float {
    float v = HAT(k.of, x), slope = PAST_RELU(k.of, v, dy);
    if (!fixed) slope -= k.sum + v * k.product;
    return slope * k.of.inverse * k.of.scale;
  }, hat, dy);
}
"#,
    functions: &[
        "norm_measure",
        "norm_measure_columns",
        "norm_moments",
        "norm_recall",
        "norm_forward",
        "norm_slopes",
        "norm_slopes_columns",
        "norm_learn",
        "norm_backward",
    ],
};
