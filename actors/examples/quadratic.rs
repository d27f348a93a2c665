//! Trains a quadratic bowl under MPI: what `tests/mpi.rs` starts with `mpirun`.
//!
//! ```text
//! mpirun -n 2 --bind-to none target/release/examples/quadratic hogwild iters=50 workers=2
//! ```
//!
//! Arguments: `sync`, `hogwild`, `ssp` or `local-sgd`; `iters=N`, `workers=K`, `compute=MS`, `trace=DIR`, and
//! trouble: `panic=RANK@ITER`, `error=RANK@ITER`, `reader=RANK@TICKET`, `stuck=RANK@ITER`, `slow=REPLICA@MS`,
//! `othernet=RANK`, `case=NAME` (of `tests/suite`; nothing else then), `count` (allocations; nothing else but mode and wire then), `launch=mpi`, `wire=bf16`, `stall=SECONDS` (warning; the job ends after three times that).

#[path = "../tests/counting/mod.rs"]
mod counting;
#[path = "../tests/quadratic/mod.rs"]
mod quadratic;
#[path = "../tests/suite/mod.rs"]
mod suite;

use std::process::ExitCode;
use std::time::Duration;

use caffe_actors::{
    Config, Display, Fault, Launch, Mode, Observer, RunReport, Schedule, Tested, Wire,
};
use quadratic::{Behaviour, Trouble, factories};

/// Prints what happens, in one line each.
struct Print {
    rank: usize,
}

impl Observer for Print {
    fn started(&mut self, started: &caffe_actors::Started) {
        println!("rank {} started on {}", started.rank, started.transport);
    }

    fn display(&mut self, display: &Display) {
        println!("iteration {} loss {:.6}", display.iter, display.loss);
    }

    fn tested(&mut self, tested: &Tested) {
        println!("iteration {} scores {:?}", tested.iter, tested.scores);
    }

    fn warning(&mut self, text: &str) {
        eprintln!("warning: {text}");
    }

    fn fault(&mut self, fault: &Fault) {
        eprintln!("rank {} ends because of: {fault}", self.rank);
    }
}

fn at(value: &str) -> (usize, u64) {
    let (rank, at) = value.split_once('@').unwrap_or((value, "0"));
    (rank.parse().unwrap_or(0), at.parse().unwrap_or(0))
}

fn configure(arguments: impl Iterator<Item = String>) -> (Config, Behaviour) {
    let schedule = Schedule {
        max_iter: 40,
        display: 10,
        test_interval: 20,
        test_batches: vec![5],
        test_cursors: vec![0],
        snapshot: 15,
        ..Schedule::default()
    };
    let mut config = Config::new(Mode::Sync, schedule);
    let mut behaviour = Behaviour { tests: 1, ..Behaviour::default() };
    for argument in arguments {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        let (rank, iter) = at(value);
        match name {
            "hogwild" => config.mode = Mode::Hogwild,
            "ssp" => config.mode = Mode::Ssp { staleness: 1 },
            "local-sgd" => config.mode = Mode::LocalSgd { every: 3 },
            "iters" => config.schedule.max_iter = iter_of(value),
            "workers" => config.threads = vec![1; rank.max(1)],
            "compute" => behaviour.compute = iter_of(value),
            "trace" => config.trace = Some(value.into()),
            "stall" => {
                config.stall_warning = Duration::from_secs(iter_of(value));
                config.stall_timeout = 3 * config.stall_warning;
            }
            "wire" => {
                config.wire = match value {
                    "bf16" => Wire::Bf16,
                    "fp16" => Wire::Fp16,
                    _ => Wire::F32,
                }
            }
            "launch" => config.launch = Launch::Mpi,
            "panic" => behaviour.troubles.push(Trouble::Panic { rank, iter }),
            "error" => behaviour.troubles.push(Trouble::Error { rank, iter }),
            "slow" => behaviour.troubles.push(Trouble::Slow { replica: rank, millis: iter }),
            "stuck" => behaviour.troubles.push(Trouble::Stuck { rank, iter }),
            "reader" => behaviour.troubles.push(Trouble::Reader { rank, ticket: iter }),
            "othernet" => behaviour.troubles.push(Trouble::OtherNet { rank }),
            _ => {}
        }
    }
    (config, behaviour)
}

fn iter_of(value: &str) -> u64 {
    value.parse().unwrap_or(1)
}

/// This rank's part of a case of the suite.
fn case(name: &str, rank: usize) -> ExitCode {
    let Some(case) = suite::cases().into_iter().find(|case| case.name == name) else {
        eprintln!("no case {name}");
        return ExitCode::FAILURE;
    };
    let config = case.config(rank);
    let behaviour = case.behaviour(rank, &config);
    let log = behaviour.log.clone();
    match caffe_actors::run(config, factories(&behaviour), Box::new(Print { rank })) {
        Ok(report) => {
            let tickets = log.with(|seen| seen.tickets.clone());
            println!("{}", suite::Ended::new(&report, tickets).line(rank));
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    let rank = caffe_actors::launched().map_or(0, |(rank, _)| rank);
    let named =
        std::env::args().find_map(|argument| Some(argument.strip_prefix("case=")?.to_owned()));
    if let Some(name) = named {
        return case(&name, rank);
    }
    let (config, behaviour) = configure(std::env::args().skip(1));
    if std::env::args().any(|argument| argument == "count") {
        let (marks, counted) = std::sync::mpsc::channel();
        counting::train(config.mode, config.wire, config.launch, marks);
        let marks: Vec<_> = counted.into_iter().collect();
        // Rank 0 alone hears of progress.
        if rank == 0 {
            let [count, bytes] = counting::per_iteration(&marks);
            println!("{count:.2} allocations, {bytes:.0} bytes an iteration");
        }
        return ExitCode::SUCCESS;
    }
    match caffe_actors::run(config, factories(&behaviour), Box::new(Print { rank })) {
        Ok(RunReport { rank, iter, checksum, steps, rounds, .. }) => {
            println!(
                "rank {rank} finished {iter} checksum {checksum:016x} steps {steps:?} rounds {rounds}"
            );
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}
