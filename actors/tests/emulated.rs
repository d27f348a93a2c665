//! The whole machine over an emulated link: every mode ends with equal weights, and a rank that
//! the link loses is found.

#![allow(clippy::unwrap_used)]

mod quadratic;

use std::time::Duration;

use caffe_actors::{
    Config, Fault, InProcess, Launch, Link, Loss, Mode, RunReport, Schedule, Silent, run,
};
use quadratic::{Behaviour, factories};

fn job(mode: Mode, iters: u64, link: &Link, timeout: Duration) -> Vec<Result<RunReport, Fault>> {
    // Updates pushed during backward, as real replicas do; `tests/machine` pushes them after it.
    let behaviour = Behaviour { early: true, ..Behaviour::default() };
    let threads: Vec<_> = InProcess::nodes(3)
        .into_iter()
        .map(|node| {
            let schedule = Schedule { max_iter: iters, ..Schedule::default() };
            let config = Config {
                launch: Launch::InProcess(node),
                link: Some(link.clone()),
                owns_process: false,
                threads: vec![1; 2],
                stall_timeout: timeout,
                ..Config::new(mode, schedule)
            };
            let factories = factories(&behaviour);
            std::thread::spawn(move || run(config, factories, Box::new(Silent)))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn all_modes_end_with_equal_weights() {
    let link = Link {
        latency: Duration::from_micros(200),
        bandwidth: 1e8,
        jitter: 0.3,
        ..Link::default()
    };
    for mode in [Mode::Sync, Mode::Hogwild, Mode::Ssp { staleness: 1 }, Mode::LocalSgd { every: 4 }]
    {
        let reports = job(mode, 20, &link, Duration::from_secs(60));
        let reports: Vec<RunReport> = reports.into_iter().map(Result::unwrap).collect();
        assert!(reports.iter().all(|r| r.iter == 20 && r.checksum == reports[0].checksum));
        assert_eq!(reports.iter().flat_map(|r| &r.steps).sum::<u64>(), 120, "{mode}");
    }
}

#[test]
fn a_lost_rank_is_named_after_the_stall_timeout() {
    let lose = Some(Loss { rank: 2, at: Duration::from_millis(500) });
    let link = Link { lose, ..Link::default() };
    let reports = job(Mode::Sync, 1_000_000, &link, Duration::from_secs(2));
    for (rank, report) in reports.iter().enumerate() {
        let fault = report.as_ref().unwrap_err();
        // The lost rank hears nobody, either, and blames one of the others.
        assert_eq!(fault.rank == 2, rank != 2, "{fault}");
        assert!(fault.to_string().contains("has not been heard"), "{fault}");
    }
}
