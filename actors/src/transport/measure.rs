//! The ranks of this job and what lies between them: hosts, clocks, and the link, from timed sums of
//! several sizes.

use std::time::{Duration, Instant};

use super::{ClockOffset, Done, Lane, Link, Op, Transport};
use crate::config::Launch;
use crate::wire::Wire;

/// Floats in a sum, and how often each is timed.
const SIZES: [(usize, usize); 6] =
    [(256, 40), (4 << 10, 40), (64 << 10, 20), (256 << 10, 10), (1 << 20, 6), (4 << 20, 4)];
/// How often an open sum is looked after.
const LOOK: Duration = Duration::from_micros(20);

/// What was measured.
#[derive(Clone, Debug)]
pub struct MeasuredLink {
    /// This process's rank.
    pub rank: usize,
    /// Number of ranks; with one there is nothing to measure and `times` is empty.
    pub nodes: usize,
    /// Host of each rank.
    pub hosts: Vec<String>,
    /// Name of the transport.
    pub transport: String,
    /// What the MPI library lets threads do, in MPI's word; `None` without MPI.
    pub threads: Option<String>,
    /// Each rank's clock beside rank 0's, both since they joined the job.
    pub clocks: Vec<ClockOffset>,
    /// Bytes of a sum, and the fastest of its repetitions in seconds.
    pub times: Vec<(usize, f64)>,
    /// The model that fits best; `None` with one rank.
    pub link: Option<Link>,
}

/// Joins the job as [`run`](crate::run) would, times sums over all its ranks for some seconds, and
/// leaves it. To be called once, in a process that does not call [`run`](crate::run): MPI is
/// finalised.
///
/// # Errors
/// What the MPI library reports.
pub fn measure_link() -> Result<MeasuredLink, String> {
    let mut transport: Box<dyn Transport> = super::pump::connect(Launch::Auto, None)?;
    let meeting = super::pump::introduce(transport.as_mut())?;
    let threads = super::thread_level();
    let (rank, nodes) = (transport.rank(), transport.size());
    let mut times = Vec::new();
    if nodes > 1 {
        for (floats, repeat) in SIZES {
            let mut fastest = f64::INFINITY;
            let mut data = vec![0.0f32; floats];
            for _ in 0..=repeat {
                let begun = Instant::now();
                data = sum(transport.as_mut(), data)?;
                fastest = fastest.min(begun.elapsed().as_secs_f64());
            }
            times.push((floats * size_of::<f32>(), fastest));
        }
    }
    transport.finish()?;
    let link = (nodes > 1).then(|| fit(&times, nodes));
    let (hosts, clocks, transport) = (meeting.hosts, meeting.clocks, meeting.transport);
    Ok(MeasuredLink { rank, nodes, hosts, transport, threads, clocks, times, link })
}

fn sum(transport: &mut dyn Transport, data: Vec<f32>) -> Result<Vec<f32>, String> {
    let (wire, rest) = (Wire::F32, Vec::new());
    transport.post(Op::Sum { lane: Lane::Data, id: 0, data, wire, rest })?;
    let mut done = Vec::new();
    loop {
        transport.poll(&mut done)?;
        if let Some(Done::Sum { data, .. }) = done.pop() {
            return Ok(data);
        }
        std::thread::sleep(LOOK);
    }
}

/// Least squares of a + b·bytes with relative errors, so that small sums count as much as large
/// ones; then α and β of a ring. Times that grow faster than their bytes give no line with a start,
/// and times that do not grow none with a slope: then the smallest sum is all start, the largest all
/// bytes.
fn fit(times: &[(usize, f64)], nodes: usize) -> Link {
    let (mut w, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (bytes, seconds) in times {
        let (bytes, weight) = (*bytes as f64, seconds.powi(-2));
        w += weight;
        x += weight * bytes;
        y += weight * seconds;
        xx += weight * bytes * bytes;
        xy += weight * bytes * seconds;
    }
    let mut slope = (w * xy - x * y) / (w * xx - x * x);
    let mut start = (y - slope * x) / w;
    if let (Some(smallest), Some(largest)) = (times.first(), times.last())
        && !(slope > 0.0 && start > 0.0)
    {
        (start, slope) = (smallest.1, largest.1 / largest.0 as f64);
    }
    let steps = 2.0 * (nodes - 1) as f64;
    Link {
        latency: Duration::from_secs_f64(start / steps),
        bandwidth: steps / (nodes as f64 * slope),
        ..Link::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_finds_the_link_that_made_the_times() {
        let link = Link { latency: Duration::from_micros(30), bandwidth: 3e9, ..Link::default() };
        for nodes in [2, 5] {
            let times: Vec<(usize, f64)> =
                SIZES.iter().map(|(n, _)| (4 * n, link.sum(4 * n, nodes))).collect();
            let found = fit(&times, nodes);
            assert!((found.bandwidth / 3e9 - 1.0).abs() < 1e-6, "{found:?}");
            assert!((found.latency.as_secs_f64() / 30e-6 - 1.0).abs() < 1e-3, "{found:?}");
        }
    }

    #[test]
    fn times_that_fit_no_line_give_a_link_all_the_same() {
        let odd: [&[f64]; 2] =
            [&[2e-6, 8e-5, 4e-4, 3e-3, 2e-2, 1e-1], &[1e-3, 1e-3, 9e-4, 9e-4, 8e-4, 8e-4]];
        for seconds in odd {
            let sizes = SIZES.iter().map(|(floats, _)| 4 * floats);
            let times: Vec<(usize, f64)> = sizes.zip(seconds.iter().copied()).collect();
            let found = fit(&times, 2);
            assert!(found.latency > Duration::ZERO && found.latency <= Duration::from_millis(1));
            assert!((1e8..1e11).contains(&found.bandwidth), "{found:?}");
        }
    }
}
