//! The text of CUDA kernels, as layers hold it.
//!
//! A [`Source`] is a constant beside the code that launches its kernels. It is text only: the
//! compiler and the cache on disk are their own modules, and no device is needed to hold one.
//!
//! ```
//! use caffe::device::cuda::Kind;
//! use caffe::device::cuda::source::Source;
//!
//! const SQUARE: Source = Source {
//!     name: "square",
//!     text: r#"
//! extern "C" __global__ void square(int64 n, real* y, const real* x) {
//!   KERNEL_LOOP(i, n) { y[i] = x[i] * x[i]; }
//! }
//! "#,
//!     functions: &["square"],
//! };
//! assert!(SQUARE.assembled(Kind::F32).contains("KERNEL_LOOP"));
//! ```
//!
//! `real` is the type of activations and their gradients: `float`, or 16 bits that become a `float`
//! when they are read and are rounded when they are assigned. A text that says `real*` compiles for
//! all kinds; all arithmetic is in `float`.

use super::kind::Kind;
use super::step_record::TEXT as STEP;

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

// x where it is positive, else zero; a NaN stays one.
#define RELU(x) ((x) > 0 ? (x) : (x) * 0.0f)

// n / d and n % d for n and d below 2^31, without a division: the host has made a Divisor of d, which
// still has d in its lower half.
typedef uint64 Divisor;
static __device__ __forceinline__ uint32 over(uint32 n, Divisor d) {
  return (__umulhi(n, (uint32)(d >> 32)) + n) >> (32 - __clz((int)((uint32)d - 1)));
}
#define NUMBER(d) ((int)(uint32)(d))
static __device__ __forceinline__ uint32 rest(uint32 n, Divisor d) {
  return n - over(n, d) * (uint32)d;
}

// The elements of part `part` of the `parts` of a row of `len`, over the threads of a block.
#define PART_LOOP(i, len, part, parts)                                      \
  for (long long i##_each = ((len) + (parts)-1) / (parts),                  \
                 i = (part)*i##_each + threadIdx.x,                         \
                 i##_next = ((part) + 1) * i##_each,                        \
                 i##_end = i##_next < (len) ? i##_next : (long long)(len); \
       i < i##_end; i += blockDim.x)

// Where element i of a channel lies among arrays of channels x inner: in array i / inner, at place
// i mod inner.
static __device__ __forceinline__ uint32 channel_element(uint32 i, uint32 channel, uint32 channels,
                                                         Divisor inner) {
  return (over(i, inner) * channels + channel) * NUMBER(inner) + rest(i, inner);
}

// The class that a label names, of so many; where it names none, the first: kernels rely on no label.
static __device__ __forceinline__ int class_of(float label, int64 classes) {
  int named = (int)label;
  return named >= 0 && named < classes ? named : 0;
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

/// `real` as 32 bits.
const REAL_F32: &str = "typedef float real;\n";

/// `real` as bfloat16. No constructor from `float`: it would make `c ? x[i] : 0.0f` ambiguous.
const REAL_BF16: &str = r#"struct real {
  unsigned short bits;
  __device__ __forceinline__ operator float() const {
    return __uint_as_float((unsigned int)bits << 16);
  }
  // To the nearest, of two to the even one; a NaN stays one.
  __device__ __forceinline__ real& operator=(float x) {
    unsigned int u = __float_as_uint(x);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u
                                           : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return *this;
  }
  __device__ __forceinline__ real& operator+=(float x) { return *this = *this + x; }
};
"#;

/// `real` as half precision: the device's own conversions; those of the host where a test simulates one.
const REAL_F16: &str = r#"struct real {
  unsigned short bits;
  __device__ __forceinline__ operator float() const {
#ifdef SIMULATED
    return host::from_half(bits);
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
  }
  // To the nearest, of two to the even one; beyond 65504 to infinity.
  __device__ __forceinline__ real& operator=(float x) {
#ifdef SIMULATED
    bits = host::to_half(x);
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#endif
    return *this;
  }
  __device__ __forceinline__ real& operator+=(float x) { return *this = *this + x; }
};
"#;

impl Source {
    /// What the compiler gets: `real` in this kind, the prelude and the text, each with lines of its
    /// own.
    pub fn assembled(&self, kind: Kind) -> String {
        // A text usually begins with a line break, after the quote of its literal; without that break
        // the compiler's line 1 is the first line of code.
        let text = self.text.strip_prefix('\n').unwrap_or(self.text);
        let real = match kind {
            Kind::F32 => REAL_F32,
            Kind::Bf16 => REAL_BF16,
            Kind::F16 => REAL_F16,
        };
        let name = self.name;
        format!(
            "#line 1 \"real.cu\"\n{real}#line 1 \"prelude.cu\"\n{PRELUDE}{STEP}#line 1 \"{name}.cu\"\n\
             {text}\n"
        )
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

/// Between the kinds: compiled in the one of 16 bits.
pub static CONVERT: Source = Source {
    name: "convert",
    text: r#"
extern "C" __global__ void to_real(int64 n, const float* x, real* y) {
  KERNEL_LOOP(i, n) { y[i] = x[i]; }
}
extern "C" __global__ void to_float(int64 n, const real* x, float* y) {
  KERNEL_LOOP(i, n) { y[i] = x[i]; }
}
extern "C" __global__ void add_to_float(int64 n, const real* x, float* y) {
  KERNEL_LOOP(i, n) { y[i] += x[i]; }
}
"#,
    functions: &["to_real", "to_float", "add_to_float"],
};

/// x ← factor · x over n floats, NaN where the loss is not finite.
pub static MULTIPLY: Source = Source {
    name: "multiply",
    text: r#"
extern "C" __global__ void multiply(int64 n, float* x, float factor, const float* loss) {
  // Infinity times zero, and NaN times anything, are NaN.
  float poison = *loss * 0.0f;
  KERNEL_LOOP(i, n) { x[i] = x[i] * factor + poison; }
}
"#,
    functions: &["multiply"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_follows_the_prelude_with_lines_of_its_own() {
        for kind in Kind::ALL {
            let text = AXPY.assembled(kind);
            let (before, after) = text.split_once("#line 1 \"axpy.cu\"\n").unwrap();
            assert!(before.starts_with("#line 1 \"real.cu\"\n"));
            assert!(before.ends_with(&format!("#line 1 \"prelude.cu\"\n{PRELUDE}{STEP}")));
            assert!(after.starts_with("extern \"C\" __global__ void axpy("), "{after}");
            assert!(after.ends_with("}\n\n"), "{after:?}");
        }
    }

    #[test]
    fn the_prelude_and_the_host_agree_on_the_block() {
        assert!(PRELUDE.contains(&format!("#define BLOCK {BLOCK}\n")));
        assert!(!PRELUDE.contains("#include"));
    }
}
