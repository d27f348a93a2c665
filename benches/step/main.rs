//! Whole training steps (forward, backward, update) of the example nets on random data that lies in
//! memory, beside the same nets in PyTorch, in one run: `scripts/bench/step.sh`.
//!
//! ```text
//! cargo bench --bench step -- cifar10_quick googlenet --rounds 3 --peer "python3 peer_torch.py"
//! ```
//! Ours and theirs take turns for some rounds, so that whatever else the machine does meets both.
//! The figure of a side is the median of its rounds' medians. The table tells milliseconds and
//! GFLOP/s (of the direct algorithm) per layer type, `--layers` per layer, from steps of their own:
//! looking at the clock after every layer is not part of the figure.

mod machine;
mod nets;
mod peer;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use caffe::Result;
use caffe::device::Step;
use caffe::device::cpu::threads::{Waiting, set_openmp_defaults};
use caffe::net::Unwatched;
use caffe::solver::Solver;
use clap::Parser;
use serde_json::json;
use table::Count;

/// Arguments.
#[derive(Parser)]
struct Args {
    /// Nets to measure: cifar10_quick, googlenet, alexnet, resnet50.
    #[arg(num_args = 0.., default_values = ["cifar10_quick", "googlenet"])]
    nets: Vec<String>,
    /// Records in a batch, instead of the net's own number.
    #[arg(long)]
    batch: Option<usize>,
    /// CPU threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Turns of each side.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Steps timed in a turn.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Command of the peer, to which net, batch, threads and steps are added; without it only ours.
    #[arg(long)]
    peer: Option<String>,
    /// Folder for the results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Every layer in the table.
    #[arg(long)]
    layers: bool,
    /// Count the processor's time in the table, not the wall's: for busy machines; with --sleep.
    #[arg(long)]
    worked: bool,
    /// Let OpenMP threads sleep as soon as they wait.
    #[arg(long)]
    sleep: bool,
    /// The plain path.
    #[arg(long)]
    exact: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    set_openmp_defaults(if args.sleep { Waiting::Sleep } else { Waiting::Spin });
    for name in &args.nets {
        if let Err(error) = measure(name, &args) {
            eprintln!("{name}: {error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

/// Measures one net and prints what it finds.
fn measure(name: &str, args: &Args) -> Result<()> {
    let net = nets::find(name)?;
    let batch = args.batch.unwrap_or(net.batch);
    let solver = nets::solver(net, batch, args.threads, args.exact)?;
    let mut bench = Bench { solver, iter: 0, best: f64::MAX };
    bench.steps(3)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let load = machine::load();
    for round in 1..=args.rounds {
        ours.push(bench.steps(args.steps)?);
        print!("{name} b{batch} round {round}: ours {:.2} ms", ours[ours.len() - 1]);
        if let Some(command) = &args.peer {
            let step = peer::run(command, name, batch, args.threads, args.steps)?;
            print!(", theirs {:.2} ms ({})", step.step_ms, step.layout);
            theirs.push(step.step_ms);
        }
        println!();
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!("{name} b{batch}: {:.2} ms the best step", bench.best);
    println!("{name} b{batch}: {ours:.2} ms a step, {:.1} images/s", batch as f64 * 1e3 / ours);
    if theirs > 0.0 {
        println!("{name} b{batch}: PyTorch {theirs:.2} ms, ratio {:.3}", ours / theirs);
    }
    let reorders = bench.reorders()?;
    println!("{name}: {reorders} activations change their layout in a step");
    let count = if args.worked { Count::Worked(args.threads) } else { Count::Wall };
    let (table, types) = table::measure(&mut bench, count, args.steps.min(10), args.layers)?;
    println!("{table}");
    if let Some(folder) = &args.out {
        let result = json!({
            "net": name, "batch": batch, "threads": args.threads, "precision": "f32",
            "step_ms": ours, "best_step_ms": bench.best, "images_per_s": batch as f64 * 1e3 / ours,
            "peer_step_ms": (theirs > 0.0).then_some(theirs),
            "ratio": (theirs > 0.0).then_some(ours / theirs),
            "layout_changes": reorders, "types": types,
            "machine": machine::describe(), "load_before": load,
        });
        machine::write(folder, name, &result)?;
    }
    Ok(())
}

/// A solver that is driven step by step.
pub struct Bench {
    solver: Solver,
    iter: u64,
    /// Milliseconds of the fastest step.
    best: f64,
}

impl Bench {
    /// One whole step under observation.
    fn step(&mut self, watch: &mut dyn caffe::net::Watch) -> Result<()> {
        let step = Step { iter: self.iter, first_record: self.iter * 1000 };
        self.solver.clear_gradient();
        self.solver.forward_backward(&mut [], step, watch)?;
        self.solver.update(self.iter)?;
        self.iter += 1;
        Ok(())
    }

    /// Median milliseconds of some steps.
    fn steps(&mut self, count: usize) -> Result<f64> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.step(&mut Unwatched)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        self.best = times.iter().fold(self.best, |best, &t| best.min(t));
        Ok(median(&mut times))
    }

    /// Changes of layout in one step.
    fn reorders(&mut self) -> Result<u64> {
        let before = self.solver.train_net().store().reorders();
        self.step(&mut Unwatched)?;
        Ok(self.solver.train_net().store().reorders() - before)
    }
}

/// The middle value; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
