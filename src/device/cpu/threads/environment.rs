//! OpenMP's settings, which libgomp reads once, when it is loaded.
//!
//! The one that matters is what a thread does between two parallel regions. libgomp's own default
//! spins a few milliseconds and then sleeps: right for a process that owns its cores, where the
//! next region follows in microseconds. Where several processes or replicas share cores, a spinning
//! thread takes the core from one that has work; there a thread must sleep at once.
//!
//! Measured with `cargo bench --bench primitives -- team` on two cores that other processes kept
//! busy, microseconds per empty loop: asleep (`passive`, or `GOMP_SPINCOUNT=100`) 12 to 20,
//! `GOMP_SPINCOUNT=10000` 1,000, libgomp's default 1,900, `active` 4,400. A GoogLeNet step has some
//! five hundred loops: sleeping costs it a few milliseconds when it is alone, spinning costs it a
//! second when it is not. Readers and communicators share the cores too, so prefer
//! [`Waiting::Sleep`] unless the threads have cores to themselves.

/// What OpenMP threads do while they wait for the next parallel region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Spin for some milliseconds, then sleep (libgomp's default): the process owns its cores.
    Spin,
    /// Sleep at once: cores are shared with other processes.
    Sleep,
}

/// Sets the OpenMP environment for this process where the user has not set it.
///
/// Call it first thing in `main`: libgomp reads the variables when it is loaded (with the first
/// [`Threads`](super::Threads) or with oneDNN), and the environment may only be changed while the
/// process has a single thread. Returns whether the environment now says what was asked for; `false`
/// (nothing is changed) where other threads run already or this cannot be known. Variables that the
/// user has set are left alone and count as asked for.
pub fn set_openmp_defaults(waiting: Waiting) -> bool {
    const POLICY: &str = "OMP_WAIT_POLICY";
    let chosen = ["GOMP_SPINCOUNT", POLICY].iter().any(|name| std::env::var_os(name).is_some());
    if chosen || waiting == Waiting::Spin {
        return true;
    }
    if !is_single_threaded() {
        return false;
    }
    // SAFETY: no other thread exists (checked above), so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(POLICY, "passive") };
    true
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_keeps_its_environment() {
        let before = std::env::var_os("OMP_WAIT_POLICY");
        std::thread::scope(|scope| {
            scope.spawn(|| std::thread::sleep(std::time::Duration::from_millis(50)));
            assert_eq!(set_openmp_defaults(Waiting::Sleep), before.is_some());
        });
        assert_eq!(std::env::var_os("OMP_WAIT_POLICY"), before);
        assert!(set_openmp_defaults(Waiting::Spin));
    }
}
