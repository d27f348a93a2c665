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

// Thread after thread, until one waits: its fiber is then that thread's alone.
static void enter() {
  while (started < kThreads) {
    threadIdx.x = fibers[running].thread = started++;
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
