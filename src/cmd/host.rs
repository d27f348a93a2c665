//! The host: its processor, and how many of its cores this process may keep busy.

use std::collections::BTreeSet;
use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity};

/// Where launchers say how many ranks run on this host: Open MPI; MPICH and Intel MPI; MVAPICH.
const LOCAL_RANKS: [&str; 3] =
    ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"];

/// Ranks of the job on this host; 1 without a launcher.
pub fn local_ranks() -> usize {
    let number = |name: &&str| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    LOCAL_RANKS.iter().find_map(number).unwrap_or(1).max(1)
}

/// Whether the launcher gave this rank cores of its own, so that its affinity mask is its share.
pub fn bound_at_launch() -> bool {
    // Open MPI 4 and 5 tell their ranks so.
    ["OMPI_MCA_orte_bound_at_launch", "PRTE_MCA_prte_bound_at_launch", "PMIX_MCA_bound_at_launch"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

/// Cores that this process may keep busy without taking any from the other ranks of this host.
pub fn own_cores() -> usize {
    let ranks = if bound_at_launch() { 1 } else { local_ranks() };
    (cores() / ranks).max(1)
}

/// Cores open to this process: hyperthreads of one core count once (two of them compute no faster
/// than one), cores outside of the affinity mask not at all, and a container's CPU quota holds.
pub fn cores() -> usize {
    bound_cores().map_or(logical(), |cores| cores.clamp(1, logical()))
}

/// Cores in this process's affinity mask; `None` where the kernel does not say.
pub fn bound_cores() -> Option<usize> {
    let mask = sched_getaffinity(None).ok()?;
    Some(distinct((0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu))))
}

/// Cores of the host, whatever this process may use of them.
pub fn all_cores() -> usize {
    distinct(online().into_iter()).max(1)
}

/// Numbers of the host's hardware threads.
pub fn online() -> Vec<usize> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let number = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "processor").then(|| value.trim().parse().ok())?
    };
    info.lines().filter_map(number).collect()
}

/// How many cores these hardware threads belong to.
fn distinct(threads: impl Iterator<Item = usize>) -> usize {
    let siblings = |cpu: usize| {
        let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        fs::read_to_string(file).unwrap_or_else(|_| cpu.to_string())
    };
    threads.map(siblings).collect::<BTreeSet<String>>().len()
}

/// Hardware threads open to this process.
pub fn logical() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Name of the processor, as the kernel tells it.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Vector extensions that matter for speed, weakest first.
#[cfg(target_arch = "x86_64")]
pub fn vector_extensions() -> Vec<&'static str> {
    let all = [
        ("SSE4.2", is_x86_feature_detected!("sse4.2")),
        ("AVX", is_x86_feature_detected!("avx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX512F", is_x86_feature_detected!("avx512f")),
        ("AVX512BW", is_x86_feature_detected!("avx512bw")),
        ("AVX512_VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX512_BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

/// Vector extensions that matter for speed, weakest first.
#[cfg(target_arch = "aarch64")]
pub fn vector_extensions() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let all = [
        ("NEON", is_aarch64_feature_detected!("neon")),
        ("SVE", is_aarch64_feature_detected!("sve")),
        ("BF16", is_aarch64_feature_detected!("bf16")),
    ];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

/// Vector extensions that matter for speed: none is known for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn vector_extensions() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_core_and_no_more_than_there_are() {
        assert!((1..=logical()).contains(&cores()));
        assert!((1..=cores()).contains(&own_cores()));
        assert!(bound_cores().unwrap() <= all_cores() && all_cores() <= online().len());
        assert!(!processor().is_empty());
    }
}
