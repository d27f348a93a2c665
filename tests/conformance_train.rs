//! Whole training runs against runs recorded from BVLC Caffe: every folder of
//! `$CAFFE_CONFORMANCE_TRAIN` (default `../shared/conformance/train`), by the bare loop, each on the
//! exact and on the default path.
//!
//! A case passes when every displayed loss and rate, every test score and every weight agrees:
//! |loss − theirs| ≤ 2e-4 · max(1, |theirs|); ‖ours − theirs‖ ≤ 1e-4 · ‖theirs‖ per blob.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caffe::data::Reading;
use caffe::net::Value;
use caffe::snapshot;
use caffe::solver::{Feeds, NetPlans, Progress, Solver, SolverOptions, train};
use caffe_proto::{NetParameter, model_from_file, solver_from_file};

const LOSS: f32 = 2e-4;
const WEIGHTS: f64 = 1e-4;

/// Cases that do NOT agree with the reference to their end on the fast path: the first iteration that
/// is not compared, and the reason. Everything before it must agree, as everything else must.
const FORKS: [(&str, u64, &str); 1] = [(
    "mean_file",
    7,
    "values before a ReLU are zero but for rounding; with the reference's order of summation \
     (--exact) the run agrees to its end, with another order it forks",
)];

/// `expect.json`.
#[derive(serde::Deserialize)]
struct Expected {
    loss: BTreeMap<u64, f32>,
    lr: BTreeMap<u64, f32>,
    test: BTreeMap<u64, BTreeMap<String, f32>>,
}

/// Compares as the run goes on; keeps the worst disagreement.
struct Compare<'a> {
    expected: &'a Expected,
    wrong: Vec<String>,
    seen: usize,
    /// First iteration that is not compared.
    until: u64,
    /// Weights at the closing snapshot: the closing loss still moves BatchNorm's statistics.
    last: NetParameter,
}

impl Compare<'_> {
    fn check(&mut self, what: &str, iter: u64, ours: f32, theirs: Option<&f32>, tolerance: f32) {
        let Some(&theirs) = theirs.filter(|_| iter < self.until) else { return };
        self.seen += 1;
        let fits = (ours - theirs).abs() <= tolerance * theirs.abs().max(1.0);
        if !fits {
            self.wrong.push(format!("{what} at {iter}: {ours}, theirs {theirs}"));
        }
    }
}

impl Progress for Compare<'_> {
    fn display(&mut self, iter: u64, loss: f32, rate: f32, _outputs: &[Value]) {
        let expected = self.expected;
        self.check("loss", iter, loss, expected.loss.get(&iter), LOSS);
        // Rates are recorded with six digits.
        let theirs = expected.lr.get(&iter);
        let relative = theirs.map_or(0.0, |t| 1e-5 * t.abs() / t.abs().max(1.0));
        self.check("lr", iter, rate, theirs, relative);
    }

    fn closing(&mut self, iter: u64, loss: f32) {
        self.check("closing loss", iter, loss, self.expected.loss.get(&iter), LOSS);
    }

    fn snapshot(&mut self, _iter: u64, solver: &mut Solver) -> caffe::Result<()> {
        self.last = solver.net().to_proto()?;
        Ok(())
    }

    fn tested(&mut self, iter: u64, _net: usize, scores: &[Value]) {
        let Some(theirs) = self.expected.test.get(&iter) else { return };
        for score in scores {
            self.check(&score.name, iter, score.value, theirs.get(&score.name), LOSS);
        }
    }
}

fn train_case(case: &Path, exact: bool, start: Start) -> Result<(), String> {
    let fail = |e: caffe::Error| e.to_string();
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(case.join("expect.json")).unwrap()).unwrap();
    let file = solver_from_file("solver.prototxt").map_err(|e| e.to_string())?;
    let nets = NetPlans::read(&file.solver, 0, &[]).map_err(fail)?;
    let options = SolverOptions { exact, ..SolverOptions::new(2, 1) };
    let mut solver = Solver::new(&file.solver, &nets, &options).map_err(fail)?;
    let mut feeds = Feeds::open(&nets, Reading::new(1)).map_err(fail)?;
    let from = match start {
        Start::Weights => {
            let model = model_from_file("init.caffemodel").map_err(|e| e.to_string())?;
            solver.net().copy_trained_from(&model.0).map_err(fail)?;
            0
        }
        Start::State => {
            snapshot::restore(&mut solver, Path::new("at_10.solverstate")).map_err(fail)?.iter
        }
    };
    let name = case.file_name().unwrap_or_default();
    let fork = FORKS.iter().find(|(case, ..)| !exact && name == *case);
    let until = fork.map_or(u64::MAX, |(_, from, _)| *from);
    let mut compare = Compare {
        expected: &expected,
        wrong: Vec::new(),
        seen: 0,
        until,
        last: NetParameter::default(),
    };
    train(&mut solver, &mut feeds, from, &mut compare).map_err(fail)?;
    if compare.seen == 0 {
        return Err("nothing was compared".into());
    }
    let theirs = model_from_file("final.caffemodel").map_err(|e| e.to_string())?.0;
    let apart = weights_apart(&compare.last, &theirs);
    if fork.is_none() {
        compare.wrong.extend(apart);
    }
    match compare.wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{} disagreements, first: {first}; all: {:?}",
            compare.wrong.len(),
            compare.wrong
        )),
    }
}

#[derive(Clone, Copy)]
enum Start {
    Weights,
    State,
}

fn weights_apart(ours: &NetParameter, theirs: &NetParameter) -> Vec<String> {
    let mut wrong = Vec::new();
    for layer in theirs.layer.iter().filter(|l| !l.blobs.is_empty()) {
        let mine = ours.layer.iter().find(|l| l.name() == layer.name());
        let Some(mine) = mine else {
            wrong.push(format!("layer {} is missing", layer.name()));
            continue;
        };
        for (k, (a, b)) in mine.blobs.iter().zip(&layer.blobs).enumerate() {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let apart =
                norm(&mut a.data.iter().zip(&b.data).map(|(x, y)| f64::from(*x) - f64::from(*y)));
            let size = norm(&mut b.data.iter().map(|y| f64::from(*y)));
            if apart.is_nan() || apart > WEIGHTS * size.max(1e-12) {
                wrong.push(format!(
                    "{}[{k}]: apart by {:.2e} of its size",
                    layer.name(),
                    apart / size
                ));
            }
        }
    }
    wrong
}

/// One test, since the cases set the working directory of the process.
#[test]
fn training_runs_agree_with_the_reference() {
    let folder = std::env::var("CAFFE_CONFORMANCE_TRAIN").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/train"),
        PathBuf::from,
    );
    if !folder.is_dir() {
        println!("skipped: no recorded runs at {}", folder.display());
        return;
    }
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expect.json").exists())
        .collect();
    cases.sort();
    let (mut passed, mut failed) = (0, 0);
    for case in &cases {
        std::env::set_current_dir(case).unwrap();
        let name = case.file_name().unwrap().to_string_lossy();
        let mut starts = vec![("", Start::Weights)];
        if case.join("at_10.solverstate").exists() {
            starts.push((", resumed at 10", Start::State));
        }
        for (exact, path) in [(true, "exact"), (false, "fast")] {
            for (how, start) in &starts {
                match train_case(case, exact, *start) {
                    Ok(()) => {
                        passed += 1;
                        println!("pass  {name} ({path}{how})");
                    }
                    Err(why) => {
                        failed += 1;
                        println!("FAIL  {name} ({path}{how}): {why}");
                    }
                }
            }
        }
    }
    for (case, from, reason) in FORKS {
        println!("{case} is compared up to iteration {from} only: {reason}");
    }
    println!("{passed} passed, {failed} failed");
    assert_eq!(failed, 0);
    assert!(passed > 0, "no case under {}", folder.display());
}
