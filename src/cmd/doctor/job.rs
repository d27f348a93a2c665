//! The job: MPI, ranks and hosts, their clocks, and the link between them.

use caffe_actors::{MeasuredLink, launched, measure_link};

use super::Finding;

/// This process's rank, and what it found.
pub(super) fn findings() -> (usize, Vec<Finding>) {
    if cfg!(not(feature = "mpi")) {
        let text = "built without: one process only";
        let fix = "install an MPI library and build with the cargo feature `mpi`";
        return (0, vec![Finding::warn("MPI", text, fix)]);
    }
    let rank = launched().map_or(0, |(rank, _)| rank);
    match measure_link() {
        Ok(job) => (job.rank, of(&job)),
        Err(error) => {
            let fix = "all ranks must run the same program under the mpirun of the library it is \
                       linked with (`ldd caffe | grep mpi`)";
            (rank, vec![Finding::bad("MPI", error, fix)])
        }
    }
}

fn of(job: &MeasuredLink) -> Vec<Finding> {
    let threads = job.threads.as_deref().map(|level| format!(", threads: {level}"));
    let mut all = vec![match launched() {
        Some(_) => Finding::ok("MPI", format!("{}{}", job.transport, threads.unwrap_or_default())),
        None => Finding::ok("MPI", "not started by mpirun: one process, links not looked at"),
    }];
    if job.nodes < 2 {
        return all;
    }
    let mut hosts: Vec<(&str, usize)> = Vec::new();
    for host in &job.hosts {
        match hosts.iter_mut().find(|(name, _)| name == host) {
            Some((_, ranks)) => *ranks += 1,
            None => hosts.push((host, 1)),
        }
    }
    let list: Vec<String> = hosts.iter().map(|(host, ranks)| format!("{host} × {ranks}")).collect();
    all.push(Finding::ok("ranks", format!("{} on {}", job.nodes, list.join(", "))));
    let offsets: Vec<String> = job
        .clocks
        .iter()
        .enumerate()
        .skip(1)
        .map(|(rank, clock)| {
            let (offset, error) = (clock.nanos as f64 / 1e6, clock.error as f64 / 1e3);
            format!("rank {rank} {offset:+.3} ms ± {error:.0} µs")
        })
        .collect();
    // Traces use the processes' own clocks, which start with them: an offset is no fault.
    all.push(Finding::ok("clocks", format!("since their starts: {}", offsets.join(", "))));
    if let Some(link) = &job.link {
        let text = format!(
            "{:.1} µs a message, {:.2} GB/s (sums over all ranks)",
            1e6 * link.latency.as_secs_f64(),
            link.bandwidth / 1e9
        );
        let fix = "check which network MPI uses (Open MPI: --mca btl_base_verbose 30); ranks on one \
                   host use shared memory";
        all.push(match link.bandwidth < 1e8 || link.latency.as_secs_f64() > 1e-3 {
            true => Finding::warn("link", text, fix),
            false => Finding::ok("link", text),
        });
    }
    all
}
