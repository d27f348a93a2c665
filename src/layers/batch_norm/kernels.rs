//! The text of BatchNorm's kernels, which do the work of a Scale and a ReLU behind it, too.
//!
//! A channel's sums are added up in parts, so that a few large channels keep a whole device busy, and the
//! parts in one fixed order. v̂ stands for the normalized value: kept, or made of x again.

use crate::device::cuda::source::Source;

pub(super) static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// Element i of channel c: outer x channels x inner values, i counts without the channels.
#define AT(i, c) ((over(i, inner) * channels + (c)) * (uint32)inner + rest(i, inner))

// For every element i of a row: part row / channels of channel row % channels.
#define PART_LOOP(i, row)                                                            \
  for (uint32 i = (int64)count * ((row) / channels) / parts + threadIdx.x,           \
              end_ = (int64)count * ((row) / channels + 1) / parts;                  \
       i < end_; i += BLOCK)

// Sums of a part and of its squares. Less the channel's first value, so that the variance keeps its
// digits where the mean is large.
extern "C" __global__ void norm_measure(int64 n, const real* x, float* sums, int channels, int count,
                                        int parts, Divisor inner) {
  for (int row = blockIdx.x; row < n; row += gridDim.x) {
    int c = row % channels;
    float shift = x[AT(0, c)], sum = 0.0f, squares = 0.0f;
    PART_LOOP(i, row) {
      float v = x[AT(i, c)] - shift;
      sum += v;
      squares += v * v;
    }
    sum = block_sum(sum);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
      sums[2 * row] = sum;
      sums[2 * row + 1] = squares;
    }
  }
}

// Mean and 1 / deviation of each channel, and into the running sums.
extern "C" __global__ void norm_moments(int64 n, const real* x, const float* sums, float* mean,
                                        float* inverse, float* means, float* variances, float* weight,
                                        int count, int parts, Divisor inner, float fraction,
                                        float eps) {
  int channels = n;
  KERNEL_LOOP(c, n) {
    float shift = x[AT(0, c)], sum = 0.0f, squares = 0.0f;
    for (int part = 0; part < parts; ++part) {
      sum += sums[2 * (part * n + c)];
      squares += sums[2 * (part * n + c) + 1];
    }
    sum /= count;
    squares /= count;
    float variance = fmaxf(squares - sum * sum, 0.0f);
    mean[c] = shift + sum;
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

// Sums of a part's gradients, and of these times v^.
extern "C" __global__ void norm_slopes(int64 n, const real* dy, const real* hat, float* sums,
                                       const float* mean, const float* inverse, const float* scale,
                                       const float* bias, int channels, int count, int parts,
                                       Divisor inner, int keeps, int scaled, int biased, int relu) {
  for (int row = blockIdx.x; row < n; row += gridDim.x) {
    int c = row % channels;
    float sum = 0.0f, product = 0.0f;
    PART_LOOP(i, row) {
      uint32 at = AT(i, c);
      float v = HAT(at, c), slope = dy[at];
      slope = PAST_RELU(v, slope, c);
      sum += slope;
      product += slope * v;
    }
    sum = block_sum(sum);
    product = block_sum(product);
    if (threadIdx.x == 0) {
      sums[2 * row] = sum;
      sums[2 * row + 1] = product;
    }
  }
}

// Each channel's means of both; the sums are the gradients of bias and scale.
extern "C" __global__ void norm_means(int64 n, const float* sums, float* a, float* b,
                                      float* scale_slope, float* bias_slope, int count, int parts,
                                      int scale_learns, int bias_learns) {
  KERNEL_LOOP(c, n) {
    float sum = 0.0f, product = 0.0f;
    for (int part = 0; part < parts; ++part) {
      sum += sums[2 * (part * n + c)];
      product += sums[2 * (part * n + c) + 1];
    }
    a[c] = sum / count;
    b[c] = product / count;
    if (scale_learns) scale_slope[c] += product;
    if (bias_learns) bias_slope[c] += sum;
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
        "norm_moments",
        "norm_recall",
        "norm_forward",
        "norm_slopes",
        "norm_means",
        "norm_backward",
    ],
};
