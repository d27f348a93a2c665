//! Who may train on which tickets: a pure function of a round's headers, evaluated by every node.

use crate::header::Header;

/// Shares the next tickets out, in order of ticket: `(rank, count)` for every node.
///
/// A node gets what it wants, and near the end of a segment no more than half its share of what
/// remains, or one ticket for each device without one: so nobody hoards tickets that idle
/// devices elsewhere could run, and a slow node does not hold up a drain by more than it must.
/// The order of the nodes turns by one each round.
pub(super) fn share(
    round: u64,
    remaining: u64,
    headers: &[Header],
    workers: &[usize],
) -> impl Iterator<Item = (usize, u64)> {
    let nodes = headers.len();
    let replicas: u64 = workers.iter().map(|count| *count as u64).sum();
    let mut left = remaining;
    (0..nodes).map(move |turn| {
        let rank = (round as usize % nodes + turn) % nodes;
        let devices = workers[rank] as u64;
        let idle = devices.saturating_sub(headers[rank].outstanding);
        let fair = remaining * devices / (2 * replicas);
        let count = headers[rank].want.min(fair.max(idle)).min(left);
        left -= count;
        (rank, count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(outstanding: u64, want: u64) -> Header {
        Header { outstanding, want, ..Header::default() }
    }

    #[test]
    fn gives_what_is_wanted_far_from_the_end() {
        let headers = [header(2, 3), header(0, 5)];
        assert!(share(0, 1000, &headers, &[1, 2]).eq([(0, 3), (1, 5)]));
        assert!(share(1, 1000, &headers, &[1, 2]).eq([(1, 5), (0, 3)]));
    }

    #[test]
    fn keeps_the_last_tickets_for_idle_devices() {
        let headers = [header(1, 9), header(0, 9)];
        assert!(share(0, 3, &headers, &[1, 2]).eq([(0, 0), (1, 2)]));
        assert!(share(0, 1, &headers, &[1, 2]).eq([(0, 0), (1, 1)]));
        assert!(share(0, 0, &headers, &[1, 2]).eq([(0, 0), (1, 0)]));
    }
}
