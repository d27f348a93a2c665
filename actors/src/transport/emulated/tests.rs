//! Completion times against the model, with time that the test lets pass; sums; loss.

use super::*;
use crate::transport::{InProcess, Lane};
use crate::wire::Wire;

const MIB: usize = 1 << 20;

fn nodes(count: usize, link: &Link) -> Vec<Emulated> {
    let connect = |node: InProcess| Emulated::new(Box::new(node.connect()), link.clone());
    InProcess::nodes(count).into_iter().map(connect).collect()
}

/// 100 ms a message, a MiB in 64 ms: far more than a test takes between two looks.
fn slow() -> Link {
    let latency = Duration::from_millis(100);
    Link { latency, bandwidth: MIB as f64 / 0.064, ..Link::default() }
}

fn floats_of(id: usize, data: Vec<f32>) -> Op {
    Op::Sum { lane: Lane::Data, id, data, wire: Wire::F32, rest: Vec::new() }
}

fn sum(id: usize, floats: usize) -> Op {
    floats_of(id, vec![1.0; floats])
}

#[test]
fn operations_queue_on_the_link_and_headers_pass_them() {
    let mut nodes = nodes(2, &slow());
    for node in &mut nodes {
        node.post(sum(0, MIB / 4)).unwrap();
        node.post(sum(1, MIB / 2)).unwrap();
        node.post(Op::Header { words: vec![7] }).unwrap();
    }
    let before = Instant::now();
    let mut done = Vec::new();
    nodes[0].poll(&mut done).unwrap();
    let spent = before.elapsed();
    assert!(done.is_empty() && nodes[0].open());
    let mut due: Vec<Duration> = nodes[0].held.iter().map(|(due, _)| *due - before).collect();
    due.sort();
    // Two nodes: the whole bytes, two messages a sum.
    let model = [100, 264, 264 + 328].map(Duration::from_millis);
    for (due, model) in due.into_iter().zip(model) {
        assert!(due >= model && due <= model + spent, "{due:?}, by the model {model:?}");
    }
}

#[test]
fn nothing_comes_early_and_sums_are_exact() {
    let link = Link { latency: Duration::from_millis(3), jitter: 0.0, ..Link::default() };
    let mut nodes = nodes(3, &link);
    let begun = Instant::now();
    for (rank, node) in nodes.iter_mut().enumerate() {
        let data = vec![0.1 * (rank as f32 + 1.0); 5];
        node.post(floats_of(4, data)).unwrap();
    }
    let mut done = Vec::new();
    while done.is_empty() {
        nodes[2].poll(&mut done).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(begun.elapsed() >= Duration::from_millis(12));
    match &done[..] {
        [Done::Sum { id: 4, data, .. }] => {
            assert!(data.iter().all(|v| *v == 0.1f32 * 1.0 + 0.1f32 * 2.0 + 0.1f32 * 3.0));
        }
        other => panic!("unexpected {other:?}"),
    }
    assert!(!nodes[2].open());
}

#[test]
fn jitter_varies_times_around_the_model() {
    let mut node = nodes(2, &Link { jitter: 0.1, seed: 5, ..slow() }).remove(0);
    let done = Done::Headers { words: vec![] };
    let now = Instant::now();
    let times: Vec<f64> =
        (0..1000).map(|_| (node.due(&done, now) - now).as_secs_f64() / 0.1 - 1.0).collect();
    let mean = times.iter().sum::<f64>() / 1e3;
    let deviation = (times.iter().map(|t| t * t).sum::<f64>() / 1e3).sqrt();
    assert!(mean.abs() < 0.02 && (deviation - 0.1).abs() < 0.02, "{mean} {deviation}");
}

#[test]
fn a_lost_rank_is_silent_from_its_moment_on() {
    let lose = Some(Loss { rank: 1, at: Duration::ZERO });
    let mut nodes = nodes(2, &Link { lose, ..Link::default() });
    for node in &mut nodes {
        node.beat(&Beat::Alive).unwrap();
        node.post(Op::Header { words: vec![1] }).unwrap();
    }
    let (mut done, mut heard) = (Vec::new(), Vec::new());
    for node in &mut nodes {
        node.poll(&mut done).unwrap();
        node.heard(&mut heard).unwrap();
    }
    assert!(done.is_empty() && heard.is_empty());
    assert!(nodes[0].open());
}
