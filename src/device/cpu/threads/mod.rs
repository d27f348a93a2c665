//! A replica's team of threads, and loops over it.
//!
//! The team is **libgomp's own**: oneDNN runs its primitives on OpenMP threads, and a second pool
//! beside them would oversubscribe the cores (an OpenMP team spins at its barriers, so one thread
//! too many costs a scheduler tick per primitive). So our loops enter the same team through
//! libgomp's entry point `GOMP_parallel`: the threads are already there and still awake from the
//! last primitive. libgomp keeps one team per calling thread; replicas on different threads do not
//! share one. Where libgomp is missing, scoped std threads do the same work, tens of microseconds
//! slower per loop.
//!
//! Work is divided statically into one run of neighbouring tasks per thread, so that a thread finds
//! in its cache what it wrote there in the loop before. Results must not depend on the division:
//! a task writes its own elements and nothing else.
//!
//! This is not a task scheduler: no nesting (an inner loop runs on its own thread alone), no
//! stealing, no futures.
//!
//! ```
//! use caffe::device::cpu::threads::Threads;
//! let mut squares = vec![0; 1000];
//! Threads::new(2).par_chunks_mut(&mut squares, 100, |index, chunk| {
//!     for (i, v) in chunk.iter_mut().enumerate() {
//!         *v = (index * 100 + i).pow(2);
//!     }
//! });
//! assert_eq!(squares[31], 961);
//! ```

mod environment;
mod gomp;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use environment::{Waiting, set_openmp_defaults};

/// How many threads a replica uses, and through what.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    count: usize,
    gomp: Option<&'static gomp::Gomp>,
}

impl Threads {
    /// `count` threads (at least one), OpenMP's where libgomp can be opened.
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1), gomp: gomp::Gomp::get() }
    }

    /// `count` std threads, spawned per loop: what [`Threads::new`] gives without libgomp.
    pub fn without_openmp(count: usize) -> Self {
        Self { count: count.max(1), gomp: None }
    }

    /// The calling thread alone.
    pub fn one() -> Self {
        Self::without_openmp(1)
    }

    /// Threads in the team.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether loops run on libgomp's threads.
    pub fn uses_openmp(self) -> bool {
        self.gomp.is_some()
    }

    /// As many of these threads as `work` units keep busy with at least `grain` units each. Waking
    /// a thread costs what some ten thousand additions cost; a smaller loop is faster alone.
    #[must_use]
    pub fn limited(self, work: usize, grain: usize) -> Self {
        Self { count: self.count.min(work / grain.max(1)).max(1), ..self }
    }

    /// Calls `task(i)` once for every `i` below `tasks`. A panic in a task is raised again here,
    /// after all threads have ended.
    pub fn parallel_for(self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.parallel_ranges(tasks, |range| range.for_each(&task));
    }

    /// Divides `0..len` into at most one range per thread, of nearly equal lengths and in order,
    /// and calls `body` with each.
    pub fn parallel_ranges(self, len: usize, body: impl Fn(Range<usize>) + Sync) {
        let count = self.count.min(len);
        if count <= 1 {
            if len > 0 {
                body(0..len);
            }
            return;
        }
        match self.gomp {
            Some(gomp) => gomp.run(count, &|member, of| body(share(len, of, member))),
            None => std::thread::scope(|scope| {
                let body = &body;
                for member in 1..count {
                    scope.spawn(move || body(share(len, count, member)));
                }
                body(share(len, count, 0));
            }),
        }
    }

    /// Calls `task(index, chunk)` for each chunk of `chunk` elements (the last may be shorter).
    pub fn par_chunks_mut<T: Send>(
        self,
        data: &mut [T],
        chunk: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let data = Chunks::new(data, chunk);
        self.parallel_for(data.count(), |i| {
            // SAFETY: parallel_for gives every index to one task only.
            task(i, unsafe { data.get(i) });
        });
    }

    /// As [`Threads::par_chunks_mut`] over two slices at once: task `i` gets chunk `i` of both.
    /// Ends with the slice that has fewer chunks, as `Iterator::zip` does.
    pub fn par_zip2_mut<A: Send, B: Send>(
        self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        task: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Chunks::new(a.0, a.1), Chunks::new(b.0, b.1));
        self.parallel_for(a.count().min(b.count()), |i| {
            // SAFETY: parallel_for gives every index to one task only.
            let (a, b) = unsafe { (a.get(i), b.get(i)) };
            task(i, a, b);
        });
    }

    /// As [`Threads::par_zip2_mut`] over three slices.
    pub fn par_zip3_mut<A: Send, B: Send, C: Send>(
        self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        c: (&mut [C], usize),
        task: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
    ) {
        let (a, b) = (Chunks::new(a.0, a.1), Chunks::new(b.0, b.1));
        let c = Chunks::new(c.0, c.1);
        self.parallel_for(a.count().min(b.count()).min(c.count()), |i| {
            // SAFETY: parallel_for gives every index to one task only.
            let (a, b, c) = unsafe { (a.get(i), b.get(i), c.get(i)) };
            task(i, a, b, c);
        });
    }

    /// Calls `task` for every `i` below `tasks`, each thread taking the next one when it is done
    /// with the last: for tasks of very different lengths.
    pub fn parallel_for_uneven(self, tasks: usize, task: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        self.parallel_ranges(self.count.min(tasks), |_| {
            loop {
                // Relaxed is enough: only the number must be unique, the team's end publishes data.
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    break;
                }
                task(i);
            }
        });
    }
}

/// The `member`-th of `of` nearly equal ranges of `0..len`; the first ones are one longer.
fn share(len: usize, of: usize, member: usize) -> Range<usize> {
    let (each, more) = (len / of, len % of);
    let start = member * each + member.min(more);
    start..start + each + usize::from(member < more)
}

/// A mutable slice that several threads take disjoint chunks from.
struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: chunks are disjoint and each is handed to one thread (see `get`), so sharing `Chunks`
// amounts to sending `&mut [T]`, which needs `T: Send`.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    fn new(data: &'a mut [T], chunk: usize) -> Self {
        let (start, len) = (data.as_mut_ptr(), data.len());
        Self { start, len, chunk: chunk.max(1), slice: PhantomData }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// # Safety
    /// `i < self.count()`, and no two live results may come from the same `i`.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, i: usize) -> &'a mut [T] {
        let from = i * self.chunk;
        let len = self.chunk.min(self.len - from);
        // SAFETY: from + len ≤ self.len of the slice borrowed for 'a; disjoint for distinct i.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

#[cfg(test)]
mod tests;
