//! The text of CUDA kernels, as layers hold it.
//!
//! A [`Source`] is a constant beside the code that launches its kernels. It is text only: the
//! compiler and the cache on disk are their own modules, and no device is needed to hold one.
//!
//! ```
//! use caffe::device::cuda::source::Source;
//!
//! const SQUARE: Source = Source {
//!     name: "square",
//!     text: r#"
//! extern "C" __global__ void square(float* y, const float* x, int64 n) {
//!   KERNEL_LOOP(i, n) { y[i] = x[i] * x[i]; }
//! }
//! "#,
//!     functions: &["square"],
//! };
//! assert!(SQUARE.assembled().contains("KERNEL_LOOP"));
//! ```

/// Threads of every block that calls the prelude's reductions; a launch uses this size.
pub const BLOCK: usize = 256;

/// What stands before every source: types of fixed width, the loop over elements, and reductions
/// over a block.
///
/// The reductions use shared memory and `__syncthreads` only, and sum in one fixed order: the same
/// input gives the same bits on every device. All [`BLOCK`] threads of a one-dimensional block have
/// to call them, and all get the result. Nothing is included, so that no header has to be found.
pub const PRELUDE: &str = r#"typedef unsigned char uint8;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;

#define BLOCK 256
#define FLOAT_MAX 3.402823466e+38f

// Every element below n once, whatever the size of the grid.
#define KERNEL_LOOP(i, n)                                             \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; \
       i < (long long)(n); i += (long long)gridDim.x * blockDim.x)

// The elements of part `part` of the `parts` of a row of `len`, over the threads of a block.
#define PART_LOOP(i, len, part, parts)                                      \
  for (long long i##_each = ((len) + (parts)-1) / (parts),                  \
                 i = (part)*i##_each + threadIdx.x,                         \
                 i##_next = ((part) + 1) * i##_each,                        \
                 i##_end = i##_next < (len) ? i##_next : (long long)(len); \
       i < i##_end; i += blockDim.x)

// Where element i of a channel lies among arrays of channels x inner: in array i / inner, at place
// i mod inner. A device divides 32 bits several times faster than 64.
static __device__ __forceinline__ int64 channel_element(int64 i, int64 channel, int64 channels,
                                                        int64 inner) {
  int64 array = (i | inner) >> 32 ? i / inner : (uint32)i / (uint32)inner;
  return (array * channels + channel) * inner + (i - array * inner);
}

// The sum of x over the block, for every thread.
static __device__ __forceinline__ float block_sum(float x) {
  __shared__ float partial[BLOCK];
  partial[threadIdx.x] = x;
  __syncthreads();
  for (int half = BLOCK / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  float sum = partial[0];
  // The next call writes the same memory.
  __syncthreads();
  return sum;
}

// A sum to where sums go.
static __device__ __forceinline__ void put_sum(float* to, float sum, int accumulate) {
  *to = accumulate ? *to + sum : sum;
}

// The largest x over the block, for every thread; a NaN counts only where all are NaN.
static __device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[BLOCK];
  partial[threadIdx.x] = x;
  __syncthreads();
  for (int half = BLOCK / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
    __syncthreads();
  }
  float largest = partial[0];
  __syncthreads();
  return largest;
}
"#;

/// Kernels that are compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name, unique in the program, as in `relu`; the compiler's messages call the text `relu.cu`.
    pub name: &'static str,
    /// CUDA C++ with `extern "C" __global__` functions; [`PRELUDE`] stands before it.
    pub text: &'static str,
    /// Names of its kernels.
    pub functions: &'static [&'static str],
}

impl Source {
    /// What the compiler gets: the prelude and the text, each with lines of its own.
    pub fn assembled(&self) -> String {
        // A text usually begins with a line break, after the quote of its literal; without that break
        // the compiler's line 1 is the first line of code.
        let text = self.text.strip_prefix('\n').unwrap_or(self.text);
        format!("#line 1 \"prelude.cu\"\n{PRELUDE}#line 1 \"{}.cu\"\n{text}\n", self.name)
    }
}

/// y ← y + α·x over n floats.
pub const AXPY: Source = Source {
    name: "axpy",
    text: r#"
extern "C" __global__ void axpy(float* y, const float* x, float alpha, int64 n) {
  KERNEL_LOOP(i, n) { y[i] += alpha * x[i]; }
}
"#,
    functions: &["axpy"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_follows_the_prelude_with_lines_of_its_own() {
        let text = AXPY.assembled();
        let (before, after) = text.split_once("#line 1 \"axpy.cu\"\n").unwrap();
        assert!(before.starts_with("#line 1 \"prelude.cu\"\n") && before.ends_with(PRELUDE));
        assert!(after.starts_with("extern \"C\" __global__ void axpy("), "{after}");
        assert!(after.ends_with("}\n\n"), "{after:?}");
    }

    #[test]
    fn the_prelude_and_the_host_agree_on_the_block() {
        assert!(PRELUDE.contains(&format!("#define BLOCK {BLOCK}\n")));
        assert!(!PRELUDE.contains("#include"));
    }
}
