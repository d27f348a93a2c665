//! Arithmetic over long runs of floats for the communicator: on its own thread, and with a few more
//! of the node's where cores are left over by the devices.
//!
//! Work is cut into chunks of 64 KiB for the threads, and these into blocks that stay in the
//! first-level cache; memory is what limits it (`scripts/bench/communication.sh` compares with `memcpy`). Which thread does a
//! chunk changes no bit: every element is computed from the same operands in the same order.

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::messages::Part;

/// Floats in a chunk: 64 KiB.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Floats that one thread adds at a time: 1 KiB of sums, which stay in the first-level cache while all
/// parts are added. (Measured: twice as fast as 64 KiB at a time, for four parts.)
const BLOCK: usize = 256;

/// From so many floats on a sum is written around the caches, as `memcpy` does with long copies: it
/// would push out what lies there, and a line need not be read before it is overwritten. 1 MiB.
const AROUND: usize = 256 * 1024;

/// From here on waking other threads (some 10 µs) pays: 1 MiB.
const WORTH: usize = 256 * 1024;

/// The threads.
#[derive(Debug)]
pub(crate) struct Hands {
    pool: Option<ThreadPool>,
}

impl Hands {
    /// `threads` in all; with one the caller does everything.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub(crate) fn new(threads: usize) -> Result<Self, String> {
        if threads <= 1 {
            return Ok(Hands { pool: None });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("hand {index}"))
            .build()
            .map_err(|error| format!("cannot start {threads} threads that add: {error}"))?;
        Ok(Hands { pool: Some(pool) })
    }

    /// Calls `body` with every chunk of `data` and its index, side by side when the work is worth it:
    /// `floats` are read or written in all. The caller waits.
    pub(crate) fn over(
        &self,
        data: &mut [f32],
        floats: usize,
        body: impl Fn(usize, &mut [f32]) + Send + Sync,
    ) {
        match &self.pool {
            Some(pool) if floats >= WORTH => pool.install(|| {
                let chunks = data.par_chunks_mut(CHUNK).enumerate();
                chunks.for_each(|(index, chunk)| body(index, chunk));
            }),
            _ => {
                let chunks = data.chunks_mut(CHUNK).enumerate();
                chunks.for_each(|(index, chunk)| body(index, chunk));
            }
        }
    }

    /// As [`over`](Hands::over), for chunks that `body` finds by their index.
    pub(crate) fn times(&self, count: usize, body: impl Fn(usize) + Send + Sync) {
        match &self.pool {
            Some(pool) if count * CHUNK >= WORTH => {
                pool.install(|| (0..count).into_par_iter().for_each(&body));
            }
            _ => (0..count).for_each(body),
        }
    }

    /// `out` = `scale` × the sum of all parts, added in their order.
    pub(crate) fn add_all(&self, parts: &[Option<Part>], scale: f32, out: &mut [f32]) {
        let around = out.len() >= AROUND;
        let parts = || parts.iter().flatten().filter(|part| !part.elsewhere);
        let floats = out.len() * (parts().count() + 1);
        self.over(out, floats, |index, out| {
            let mut block = Block([0.0; BLOCK]);
            for (place, out) in out.chunks_mut(BLOCK).enumerate() {
                let from = index * CHUNK + place * BLOCK;
                let range = from..from + out.len();
                let sums = &mut block.0[..out.len()];
                sum_up(parts().map(|part| &part.data[range.clone()]), scale, sums);
                if around { stream(sums, out) } else { out.copy_from_slice(sums) }
            }
            if around {
                fence();
            }
        });
    }

    /// Multiplies all of `data`.
    pub(crate) fn scale(&self, data: &mut [f32], scale: f32) {
        if scale != 1.0 {
            let floats = data.len();
            self.over(data, floats, |_, chunk| multiply(chunk, scale));
        }
    }
}

/// Sums of a block, on a cache line.
#[repr(align(64))]
struct Block([f32; BLOCK]);

/// `sums` = `scale` × the sum of the parts, in their order.
fn sum_up<'a>(mut parts: impl Iterator<Item = &'a [f32]>, scale: f32, sums: &mut [f32]) {
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => {
            for ((sum, first), second) in sums.iter_mut().zip(first).zip(second) {
                *sum = first + second;
            }
        }
        (Some(first), None) => sums.copy_from_slice(first),
        (None, _) => sums.fill(0.0),
    }
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    multiply(sums, scale);
}

/// Copies `from`, which is as long, to `to` around the caches where the processor can.
fn stream(from: &[f32], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if to.as_ptr().cast::<std::arch::x86_64::__m128>().is_aligned() {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        let (fours, rest) = from.as_chunks::<4>();
        let (places, tail) = to.as_chunks_mut::<4>();
        for (four, place) in fours.iter().zip(places) {
            // SAFETY: every x86-64 has SSE; both are four floats, and the first place is aligned, so
            // all are.
            unsafe { _mm_stream_ps(place.as_mut_ptr(), _mm_loadu_ps(four.as_ptr())) };
        }
        tail.copy_from_slice(rest);
        return;
    }
    to.copy_from_slice(from);
}

/// Orders what was written around the caches before what is written next: whoever is told that a sum
/// is there must see it.
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    };
}

fn multiply(data: &mut [f32], scale: f32) {
    if scale != 1.0 {
        data.iter_mut().for_each(|value| *value *= scale);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn parts(count: usize, len: usize) -> Vec<Option<Part>> {
        let part = |p: usize| (0..len).map(|i| (i * (p + 1)) as f32 * 0.1).collect();
        (0..count).map(|p| Some(Part { data: part(p), elsewhere: false })).collect()
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let len = 40 * CHUNK + 7;
        let parts = parts(3, len);
        let mut sums = Vec::new();
        for threads in [1, 2, 3] {
            let hands = Hands::new(threads).unwrap();
            let mut out = vec![9.0; len];
            hands.add_all(&parts, 0.5, &mut out);
            hands.scale(&mut out, 3.0);
            sums.push(out);
        }
        assert!(sums[0] == sums[1] && sums[0] == sums[2]);
        let part = |p: usize, i: usize| parts[p].as_ref().unwrap().data[i];
        for i in [0, 1, CHUNK - 1, CHUNK, len - 1] {
            assert_eq!(sums[0][i], (part(0, i) + part(1, i) + part(2, i)) * 0.5 * 3.0);
        }
    }

    /// GB/s of one run.
    fn speed(bytes: usize, body: impl FnOnce()) -> f64 {
        let start = Instant::now();
        body();
        bytes as f64 / start.elapsed().as_secs_f64() / 1e9
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Bytes read and written per second, against a plain copy by as many threads: in turns, as
    /// other work on the machine comes and goes.
    #[test]
    #[ignore = "a measurement: scripts/bench/communication.sh"]
    fn bandwidth() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let len = 7 << 20;
        for threads in [1, 2, 4].into_iter().filter(|threads| *threads <= cores) {
            let hands = Hands::new(threads).unwrap();
            let (source, mut target) = (vec![1.0f32; len], vec![0.0f32; len]);
            // One long copy a thread, as `memcpy` likes it best.
            let share = len.div_ceil(threads);
            let mut copy = || match &hands.pool {
                Some(pool) => pool.install(|| {
                    let shares = target.par_chunks_mut(share).zip(source.par_chunks(share));
                    shares.for_each(|(target, source)| target.copy_from_slice(source));
                }),
                None => target.copy_from_slice(&source),
            };
            for count in [2, 4] {
                let (parts, mut sum) = (parts(count, len), vec![0.0f32; len]);
                let bytes = 4 * (count + 1) * len;
                let (mut copies, mut adds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..25 {
                    let copied = speed(8 * len, &mut copy);
                    let added = speed(bytes, || hands.add_all(&parts, 0.25, &mut sum));
                    copies.push(copied);
                    adds.push(added);
                    ratios.push(added / copied);
                }
                let (copied, added) = (median(copies), median(adds));
                println!(
                    "{threads} thread(s), {count} gradients of 28 MB: memcpy {copied:.1} GB/s, \
                     sum and mean {added:.1} GB/s, {:.0} %, {:.1} ms",
                    100.0 * median(ratios),
                    bytes as f64 / added / 1e6
                );
            }
        }
    }
}
