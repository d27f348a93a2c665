// What a kernel finds on a device, on the host: a block's threads are fibers of one host thread, which
// take turns at every barrier.
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>

// For texts that tell a device something in its own assembler.
#define SIMULATED

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static thread_local
#define __syncthreads() host::barrier()

struct Place {
  unsigned x, y, z;
};
static thread_local Place threadIdx, blockIdx, blockDim, gridDim;

template <class T>
static inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
static inline T max(T a, T b) { return a < b ? b : a; }

static inline float __uint_as_float(unsigned int bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline unsigned int __float_as_uint(float x) {
  unsigned int bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline unsigned int __umulhi(unsigned int a, unsigned int b) {
  return (unsigned long long)a * b >> 32;
}

static inline int __clz(int bits) { return bits ? __builtin_clz((unsigned int)bits) : 32; }

namespace host {

// Half precision as a float.
static inline float from_half(unsigned short half) {
  unsigned int sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, rest = half & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | rest << 13);
  if (exponent > 0) return __uint_as_float(sign | (exponent + 112) << 23 | rest << 13);
  float size = rest / 16777216.0f;
  return sign ? -size : size;
}

// A float as half precision: the nearest, of two the even one; beyond 65504 infinity.
static inline unsigned short to_half(float x) {
  unsigned int bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return sign | 0x7e00u | (size >> 13 & 0x3ffu);
  // 65520 lies in the middle between the largest and what would be the next.
  if (size >= 0x477ff000u) return sign | 0x7c00u;
  if (size < 0x38800000u) {
    // Below 2^-14, in units of 2^-24.
    unsigned int shift = 126 - (size >> 23), digits = (size & 0x7fffffu) | 0x800000u;
    if (shift > 25) return sign;
    unsigned int units = digits >> shift, rest = digits & ((1u << shift) - 1);
    unsigned int middle = 1u << (shift - 1);
    units += rest > middle || (rest == middle && (units & 1));
    return sign | units;
  }
  size += 0xfffu + (size >> 13 & 1u);
  return sign | (size - 0x38000000u) >> 13;
}

const int kThreads = 256;
const size_t kStack = 64 * 1024;

struct Fiber {
  // Where it goes on.
  jmp_buf place;
  int thread;
  bool done;
};

static thread_local Fiber fibers[kThreads];
static thread_local jmp_buf scheduler;
static thread_local int running;
static thread_local int started;
static thread_local char* stacks;
static thread_local void (*body)(void**);
static thread_local void** arguments;

// The i-th of n when every second one comes first, and then those between: whoever relies on neighbours
// that are done, or are not, is wrong about one of them.
static unsigned turn(unsigned i, unsigned n) { return i < n / 2 ? 2 * i + 1 : 2 * (i - n / 2); }

// Thread after thread, until one waits: its fiber is then that thread's alone.
static void enter() {
  while (started < kThreads) {
    threadIdx.x = fibers[running].thread = turn(started++, kThreads);
    body(arguments);
  }
  fibers[running].done = true;
  _longjmp(scheduler, 1);
}

// Jumps, and not swapcontext: that asks the system for the signal mask each time.
static void barrier() {
  if (!_setjmp(fibers[running].place)) _longjmp(scheduler, 1);
}

// Lets a fiber run until it waits or ends.
static void go_on(int f, bool first) {
  running = f;
  if (_setjmp(scheduler)) return;
  if (!first) _longjmp(fibers[f].place, 1);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks + f * kStack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = 0;
  makecontext(&context, enter, 0);
  fibers[f].done = false;
  setcontext(&context);
}

// One block; false if some threads ended where others waited.
static bool block() {
  started = 0;
  int waiting = 0;
  while (started < kThreads) {
    const int f = waiting;
    go_on(f, true);
    waiting += !fibers[f].done;
  }
  while (waiting > 0) {
    if (waiting != kThreads) return false;
    waiting = 0;
    for (int f = 0; f < kThreads; ++f) {
      threadIdx.x = fibers[f].thread;
      go_on(f, false);
      waiting += !fibers[f].done;
    }
  }
  return true;
}

// 0, or 1 for a barrier that not all threads reach, or 2 without memory.
static int run(unsigned blocks, void (*kernel)(void**), void** args) {
  if (!stacks) stacks = (char*)malloc(kThreads * kStack);
  if (!stacks) return 2;
  body = kernel;
  arguments = args;
  blockDim = {kThreads, 1, 1};
  gridDim = {blocks, 1, 1};
  threadIdx = {0, 0, 0};
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx = {turn(b, blocks), 0, 0};
    if (!block()) return 1;
  }
  return 0;
}

template <class... A, size_t... I>
static void apply(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
  kernel(*(A*)args[I]...);
}

// Calls a kernel with its arguments behind pointers, as the driver does.
template <class... A>
static void call(void (*kernel)(A...), void** args) {
  apply(kernel, args, std::index_sequence_for<A...>());
}

}  // namespace host
