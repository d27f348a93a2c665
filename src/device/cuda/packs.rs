//! What kernels that are bound by memory have in common: numbers that lie side by side go through a thread
//! [`PACK`] at a time, so that one of 16 bits costs no instruction to read and one to write of its own.

/// Numbers of a pack: 16 bytes of f32, 8 of 16 bits.
pub const PACK: usize = 4;

/// What stands behind the prelude. A kernel gives a function of numbers (`f`), perhaps one of a channel that
/// fetches what `f` wants to know of it (`of`), and arrays; where these do not begin or end with whole packs,
/// numbers go one by one. An array may be read and written in the same place.
pub const PACKS: &str = r#"#define PACK 4

template <int W, typename T = real> struct alignas(W * sizeof(T)) Pack { T at[W]; };

// W numbers of an array.
template <int W, typename T>
static __device__ __forceinline__ Pack<W, T> pack(const T* x, int64 at) {
  return *(const Pack<W, T>*)(x + at);
}
template <int W, typename T>
static __device__ __forceinline__ void put(T* x, int64 at, const Pack<W, T>& numbers) {
  *(Pack<W, T>*)(x + at) = numbers;
}

// Whether arrays begin where packs may.
template <typename... X>
static __device__ __forceinline__ bool packed(const X*... x) {
  return ((0 | ... | (uint64)x) & (sizeof(Pack<PACK>) - 1)) == 0;
}

template <int W, typename F, typename... P>
static __device__ __forceinline__ void put_pack(real* y, int64 at, F f, P... x) {
  Pack<W> to;
#pragma unroll
  for (int j = 0; j < W; ++j) to.at[j] = f((float)x.at[j]...);
  put(y, at, to);
}

// y = f(x, ...) over n numbers of each.
template <typename F, typename... X>
static __device__ __forceinline__ void each_number(int64 n, real* y, F f, const X*... x) {
  int64 whole = packed(y, x...) ? n / PACK : 0;
  KERNEL_LOOP(i, whole) put_pack<PACK>(y, PACK * i, f, pack<PACK>(x, PACK * i)...);
  KERNEL_LOOP(i, n - PACK * whole) {
    put_pack<1>(y, PACK * whole + i, f, pack<1>(x, PACK * whole + i)...);
  }
}

// A number of numbers as a type.
template <int W> struct Width { static constexpr int value = W; };

// Calls visit(width, at, k) for every pack below n where packs are whole, else for every number, with what
// of(c) says of the channel c = i / inner mod channels of each of its numbers. Where channels are last a
// thread stays with its own, and asks once.
template <typename Of, typename V>
static __device__ __forceinline__ void visit_channels(int64 n, bool whole, Divisor channels,
                                                      Divisor inner, Of of, V visit) {
  typedef decltype(of(0u)) K;
  uint32 count = NUMBER(channels), place = NUMBER(inner);
  if (whole && place == 1 && count % PACK == 0 && count / PACK <= gridDim.x * BLOCK) {
    uint32 groups = count / PACK, all = gridDim.x * BLOCK, i = blockIdx.x * BLOCK + threadIdx.x;
    uint32 row = i / groups, rows = all / groups, c = PACK * (i - row * groups);
    K k[PACK];
#pragma unroll
    for (int j = 0; j < PACK; ++j) k[j] = of(c + j);
    if (row < rows)
      for (int64 at = (int64)row * count + c; at < n; at += (int64)rows * count)
        visit(Width<PACK>(), at, k);
  } else if (whole && place % PACK == 0) {
    KERNEL_LOOP(i, n / PACK) {
      K one = of(rest(over(PACK * i, inner), channels)), k[PACK];
#pragma unroll
      for (int j = 0; j < PACK; ++j) k[j] = one;
      visit(Width<PACK>(), PACK * i, k);
    }
  } else {
    KERNEL_LOOP(i, n) {
      K k[1] = {of(rest(over(i, inner), channels))};
      visit(Width<1>(), i, k);
    }
  }
}

template <int W, typename K, typename F, typename... P>
static __device__ __forceinline__ void put_channels(real* y, int64 at, const K* k, F f, P... x) {
  Pack<W> to;
#pragma unroll
  for (int j = 0; j < W; ++j) to.at[j] = f(k[j], (float)x.at[j]...);
  put(y, at, to);
}

// y = f(of(c), x, ...) over n numbers, of channels c.
template <typename Of, typename F, typename... X>
static __device__ __forceinline__ void each_of_channels(int64 n, real* y, Divisor channels,
                                                        Divisor inner, Of of, F f, const X*... x) {
  visit_channels(n, packed(y, x...), channels, inner, of, [=](auto width, int64 at, const auto* k) {
    constexpr int W = decltype(width)::value;
    put_channels<W>(y, at, k, f, pack<W>(x, at)...);
  });
}

// kept = first(of(c), x), y = then(of(c), what was kept), in one pass.
template <typename Of, typename F, typename G>
static __device__ __forceinline__ void keep_of_channels(int64 n, const real* x, real* kept, real* y,
                                                        Divisor channels, Divisor inner, Of of,
                                                        F first, G then) {
  visit_channels(n, packed(x, kept, y), channels, inner, of,
                 [=](auto width, int64 at, const auto* k) {
    constexpr int W = decltype(width)::value;
    Pack<W> from = pack<W>(x, at), keep, to;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      keep.at[j] = first(k[j], (float)from.at[j]);
      to.at[j] = then(k[j], (float)keep.at[j]);
    }
    put(kept, at, keep);
    put(y, at, to);
  });
}

template <int W, int N, typename K, typename F, typename... P>
static __device__ __forceinline__ void add_channels(float (*sums)[N], const K* k, F f, P... x) {
#pragma unroll
  for (int j = 0; j < W; ++j) f(k[j], sums[j], (float)x.at[j]...);
}

template <int W, int N, typename Of, typename F, typename... X>
static __device__ __forceinline__ void columns_of(int64 n, int64 channels, int64 count, int64 parts,
                                                  float* to, float factor, int accumulate, Of of,
                                                  F f, const X*... x) {
  int64 rows = (count + parts - 1) / parts, groups = channels / W;
  KERNEL_LOOP(i, n / W) {
    int64 part = i / groups, c = W * (i - part * groups), end = min((part + 1) * rows, count);
    decltype(of(c)) k[W];
    float sums[W][N] = {};
#pragma unroll
    for (int j = 0; j < W; ++j) k[j] = of(c + j);
#pragma unroll 4
    for (int64 r = part * rows; r < end; ++r)
      add_channels<W, N>(sums, k, f, pack<W>(x, r * channels + c)...);
#pragma unroll
    for (int j = 0; j < W; ++j)
      for (int s = 0; s < N; ++s)
        put_sum(to + s * n + (c + j) * parts + part, factor * sums[j][s], accumulate);
  }
}

// N sums over `parts` parts of each channel's `count` numbers, where channels are last: f(of(c), sums, x, ...)
// adds a number to them. n = channels * parts; threads side by side read channels side by side.
template <int N, typename Of, typename F, typename... X>
static __device__ __forceinline__ void column_sums_of(int64 n, int64 channels, int64 count,
                                                      int64 parts, float* to, float factor,
                                                      int accumulate, Of of, F f, const X*... x) {
  if (packed(x...) && channels % PACK == 0)
    columns_of<PACK, N>(n, channels, count, parts, to, factor, accumulate, of, f, x...);
  else
    columns_of<1, N>(n, channels, count, parts, to, factor, accumulate, of, f, x...);
}
"#;
