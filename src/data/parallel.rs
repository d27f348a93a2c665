//! Independent jobs on a few threads.

use std::thread;

use parking_lot::Mutex;

/// Does `work` on every job, on this thread and `threads` − 1 others, which live as long as the
/// call: for work beside which starting a thread is nothing, such as a batch of images to decode.
/// Jobs are taken one by one, so unequal ones even out.
///
/// # Errors
/// One of the errors of `work`; jobs not begun by then are dropped.
pub(super) fn for_each<J: Send, E: Send>(
    threads: usize,
    jobs: Vec<J>,
    work: impl Fn(J) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = threads.min(jobs.len());
    if threads <= 1 {
        return jobs.into_iter().try_for_each(work);
    }
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().next();
    let run = || {
        while let Some(job) = next() {
            if let Err(error) = work(job) {
                queue.lock().by_ref().for_each(drop);
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        others.into_iter().fold(own, |all, other| {
            all.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_once_and_an_error_ends_the_rest() {
        for threads in [0, 1, 2, 5] {
            let sum = AtomicU64::new(0);
            let add = |n| {
                sum.fetch_add(n, Ordering::Relaxed);
                if n == 1_000 { Err(n) } else { Ok(()) }
            };
            assert_eq!(for_each(threads, (0..100).collect(), add), Ok(()));
            assert_eq!(sum.load(Ordering::Relaxed), 4950);
            assert_eq!(for_each(threads, vec![1, 1_000, 1], add), Err(1_000));
        }
    }
}
