//! The text of BatchNorm's kernels, which do the work of a Scale and a ReLU behind it, too.
//!
//! v̂ stands for the normalized value: kept, or made of x again.

use crate::device::cuda::source::Source;

pub(super) static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// Two sums over parts of channels, `each` for the element at `at` of channel c: a block a part, or where
// elements of different channels lie side by side a thread a part.
#define SUMS_BY_BLOCK(c, a, b, each)                                              \
  {                                                                               \
    float a = 0.0f, b = 0.0f;                                                     \
    PART_LOOP(i, count, part % parts, parts) {                                    \
      uint32 at = channel_element(i, c, channels, inner);                         \
      each;                                                                       \
    }                                                                             \
    a = block_sum(a);                                                             \
    b = block_sum(b);                                                             \
    if (threadIdx.x == 0) {                                                       \
      put_sum(sums + part, factor * a, accumulate);                               \
      put_sum(sums + n + part, factor * b, accumulate);                           \
    }                                                                             \
  }
#define SUMS_BY_THREAD(c, a, b, each)                                             \
  {                                                                               \
    float a = 0.0f, b = 0.0f;                                                     \
    int64 rows = (count + parts - 1) / parts, end = (part + 1) * rows;            \
    for (int64 r = part * rows; r < (end < count ? end : count); ++r) {           \
      uint32 at = r * channels + c;                                               \
      each;                                                                       \
    }                                                                             \
    put_sum(sums + c * parts + part, factor * a, accumulate);                     \
    put_sum(sums + n + c * parts + part, factor * b, accumulate);                 \
  }

// Of a channel's values and of their squares. Less the channel's first value, so that the variance keeps its
// digits where the mean is large.
#define MEASURE               \
  float v = x[at] - shift;    \
  sum += v;                   \
  squares += v * v

extern "C" __global__ void norm_measure(int64 n, const real* x, int64 channels, int64 count,
                                        Divisor inner, int64 parts, float* sums, float factor,
                                        int accumulate) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    int c = part / parts;
    float shift = x[channel_element(0, c, channels, inner)];
    SUMS_BY_BLOCK(c, sum, squares, MEASURE)
  }
}
extern "C" __global__ void norm_measure_columns(int64 n, const real* x, int64 channels, int64 count,
                                                Divisor inner, int64 parts, float* sums,
                                                float factor, int accumulate) {
  KERNEL_LOOP(i, n) {
    int64 part = i / channels, c = i - part * channels;
    float shift = x[c];
    SUMS_BY_THREAD(c, sum, squares, MEASURE)
  }
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

// What happens to v^ of a channel: scale and bias, where there are some.
#define SCALED(v, c) (scaled ? fmaf(scale[c], v, biased ? bias[c] : 0.0f) : (v))

extern "C" __global__ void norm_forward(int64 n, const real* x, real* y, real* kept,
                                        const float* mean, const float* inverse, const float* scale,
                                        const float* bias, Divisor channels, Divisor inner, int keeps,
                                        int scaled, int biased, int relu) {
  KERNEL_LOOP(i, n) {
    uint32 c = rest(over(i, inner), channels);
    float value = (x[i] - mean[c]) * inverse[c];
    if (keeps) {
      kept[i] = value;
      // As backward will see it.
      value = kept[i];
    }
    value = SCALED(value, c);
    y[i] = relu ? RELU(value) : value;
  }
}

// v^ of element i, and the gradient behind the scale.
#define HAT(i, c) (keeps ? (float)hat[i] : (hat[i] - mean[c]) * inverse[c])
#define PAST_RELU(v, slope, c) (relu && !(SCALED(v, c) > 0) ? 0.0f : (slope))

// Of a channel's gradients, and of these times v^.
#define SLOPES                          \
  float v = HAT(at, c), slope = dy[at]; \
  slope = PAST_RELU(v, slope, c);       \
  sum += slope;                         \
  product += slope * v

extern "C" __global__ void norm_slopes(int64 n, const real* dy, const real* hat, const float* mean,
                                       const float* inverse, const float* scale, const float* bias,
                                       int64 channels, int64 count, Divisor inner, int keeps,
                                       int scaled, int biased, int relu, int64 parts, float* sums,
                                       float factor, int accumulate) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    int c = part / parts;
    SUMS_BY_BLOCK(c, sum, product, SLOPES)
  }
}
extern "C" __global__ void norm_slopes_columns(int64 n, const real* dy, const real* hat,
                                               const float* mean, const float* inverse,
                                               const float* scale, const float* bias,
                                               int64 channels, int64 count, Divisor inner, int keeps,
                                               int scaled, int biased, int relu, int64 parts,
                                               float* sums, float factor, int accumulate) {
  KERNEL_LOOP(i, n) {
    int64 part = i / channels, c = i - part * channels;
    SUMS_BY_THREAD(c, sum, product, SLOPES)
  }
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

// fixed: mean and deviation do not depend on x.
extern "C" __global__ void norm_backward(int64 n, const real* dy, const real* hat, real* dx,
                                         const float* mean, const float* inverse, const float* scale,
                                         const float* bias, const float* a, const float* b,
                                         Divisor channels, Divisor inner, int keeps, int scaled,
                                         int biased, int relu, int fixed) {
  KERNEL_LOOP(i, n) {
    uint32 c = rest(over(i, inner), channels);
    float v = HAT(i, c), slope = dy[i];
    slope = PAST_RELU(v, slope, c);
    if (!fixed) slope -= a[c] + v * b[c];
    dx[i] = slope * inverse[c] * (scaled ? scale[c] : 1.0f);
  }
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
