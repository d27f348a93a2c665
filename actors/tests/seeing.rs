//! What a run shows of itself: clocks on one axis, and where the replicas' time went.

#![allow(clippy::unwrap_used)]

mod quadratic;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caffe_actors::{
    Clock, Config, Display, InProcess, Launch, Mode, Observer, Pace, Schedule, Started, run,
};
use quadratic::{Behaviour, Trouble, factories};
use serde_json::Value;

/// A clock that starts at another time than the others and gains on them.
struct Shifted {
    start: Instant,
    ahead: Duration,
    rate: f64,
}

impl Clock for Shifted {
    fn now(&self) -> Duration {
        self.ahead + self.start.elapsed().mul_f64(self.rate)
    }
}

/// What rank 0's observer heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(Vec<Started>, Vec<Display>)>>);

impl Observer for Heard {
    fn started(&mut self, started: &Started) {
        self.0.lock().unwrap().0.push(started.clone());
    }

    fn display(&mut self, display: &Display) {
        self.0.lock().unwrap().1.push(display.clone());
    }
}

/// Runs one node per configuration; what was heard.
fn job(configs: Vec<Config>, behaviour: &Behaviour) -> Heard {
    let heard = Heard::default();
    let threads: Vec<_> = InProcess::nodes(configs.len())
        .into_iter()
        .zip(configs)
        .map(|(node, config)| {
            let config = Config { launch: Launch::InProcess(node), ..config };
            let (factories, heard) = (factories(behaviour), heard.clone());
            std::thread::spawn(move || run(config, factories, Box::new(heard)).unwrap())
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    heard
}

fn config(mode: Mode, iters: u64) -> Config {
    let schedule = Schedule { max_iter: iters, display: 10, ..Schedule::default() };
    Config { owns_process: false, ..Config::new(mode, schedule) }
}

#[test]
fn clocks_that_differ_are_measured_within_their_bounds() {
    let ahead = [0u64, 3_600_000, 250];
    let rate = [1.0, 1.0, 1.000_5];
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let configs = ahead.iter().zip(rate).map(|(ahead, rate)| Config {
        clock: Arc::new(Shifted { start, ahead: Duration::from_millis(*ahead), rate }),
        trace: Some(folder.path().to_owned()),
        ..config(Mode::Sync, 40)
    });
    let behaviour = Behaviour { compute: 5, ..Behaviour::default() };
    let heard = job(configs.collect(), &behaviour);
    let started = heard.0.lock().unwrap().0.clone();
    assert!(started.iter().all(|one| one.clocks.len() == 3));

    let mut offsets = Vec::new();
    for (rank, (ahead, rate)) in ahead.iter().zip(rate).enumerate() {
        let path = folder.path().join(format!("trace-rank-{rank}.json"));
        let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let clocks = trace["otherData"]["clocks"].as_array().unwrap().clone();
        assert_eq!(clocks.len(), 2, "at the start and at the end");
        for clock in &clocks {
            let [at, offset, error] = ["ts", "offset", "error"].map(|k| clock[k].as_f64().unwrap());
            // Microseconds, by the clock's own definition.
            let true_time = (at - *ahead as f64 * 1e3) / rate;
            let truth = at - true_time;
            println!(
                "rank {rank}: offset {offset} µs, truth {truth:.1} µs, error at most {error} µs"
            );
            // What the clock gains while it is measured is no error of the method.
            assert!((offset - truth).abs() <= error + 50.0, "rank {rank}: {clock}");
            assert!(error < 20_000.0, "rank {rank}: {clock}");
        }
        offsets.push(clocks);
    }
    let drift = |rank: usize| {
        let at = |place: usize| offsets[rank][place]["offset"].as_f64().unwrap();
        at(1) - at(0)
    };
    // 40 iterations of 5 ms and more: the third clock has gained at least 100 µs.
    println!("drift {} µs and {} µs", drift(1), drift(2));
}

#[test]
fn displays_say_what_all_replicas_did_in_every_mode() {
    let modes =
        [Mode::Sync, Mode::Hogwild, Mode::Ssp { staleness: 1 }, Mode::LocalSgd { every: 5 }];
    for mode in modes {
        let slow = Trouble::Slow { replica: 2, millis: 6 };
        let behaviour = Behaviour { compute: 2, troubles: vec![slow], ..Behaviour::default() };
        let two = Config { threads: vec![1; 2], ..config(mode, 40) };
        let heard = job(vec![two, config(mode, 40)], &behaviour);
        let displays = heard.0.lock().unwrap().1.clone();
        assert!(displays.len() >= 4, "{mode}");
        let mut batches = [0; 3];
        let mut compute = [0.0; 3];
        for display in displays.iter().filter(|display| !display.closing) {
            let places: Vec<(usize, usize)> =
                display.paces.iter().map(|Pace { rank, device, .. }| (*rank, *device)).collect();
            assert_eq!(places, [(0, 0), (0, 1), (1, 0)], "{mode}");
            for (replica, pace) in display.paces.iter().enumerate() {
                batches[replica] += pace.spent.batches;
                compute[replica] += pace.spent.compute as f64;
            }
        }
        // Iterations 0 to 30 are displayed; what they took is in.
        assert!(batches.iter().sum::<u64>() >= 3 * 28, "{mode}: {batches:?}");
        let each = |replica: usize| compute[replica] / batches[replica] as f64;
        assert!(each(2) > 1.5 * each(0), "{mode}: {compute:?} {batches:?}");
        if mode == Mode::Sync {
            let waits = |d: &Display| d.paces[0].spent.exposed > d.paces[2].spent.exposed;
            assert!(displays[1..4].iter().all(waits), "the fast ones wait for the slow one");
        }
    }
}
