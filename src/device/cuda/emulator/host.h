// What a kernel finds on a device, on the host: a block's threads are fibers of one host thread, which
// take turns at every barrier.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>

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

namespace host {

const int kThreads = 256;
const size_t kStack = 64 * 1024;

struct Fiber {
  ucontext_t context;
  bool done;
};

static thread_local Fiber fibers[kThreads];
static thread_local ucontext_t scheduler;
static thread_local int running;
static thread_local char* stacks;
static thread_local void (*body)(void**);
static thread_local void** arguments;

static void enter() {
  body(arguments);
  fibers[running].done = true;
}

static void barrier() { swapcontext(&fibers[running].context, &scheduler); }

// One block; false if some threads ended where others waited.
static bool block() {
  for (int t = 0; t < kThreads; ++t) {
    ucontext_t& context = fibers[t].context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + t * kStack;
    context.uc_stack.ss_size = kStack;
    context.uc_link = &scheduler;
    makecontext(&context, enter, 0);
    fibers[t].done = false;
  }
  for (int waiting = kThreads; waiting > 0;) {
    if (waiting != kThreads) return false;
    waiting = 0;
    for (int t = 0; t < kThreads; ++t) {
      running = t;
      threadIdx.x = t;
      swapcontext(&scheduler, &fibers[t].context);
      waiting += !fibers[t].done;
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
    blockIdx = {b, 0, 0};
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
