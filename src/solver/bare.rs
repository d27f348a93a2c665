//! The bare training loop: one replica, one thread, no actors. It is what the actors' modes must
//! equal bit for bit with one replica, and short enough to see the algorithm.

use std::collections::VecDeque;

use caffe_proto::SolverParameter;

use super::feeds::Feeds;
use super::replica::Solver;
use crate::Result;
use crate::device::Step;
use crate::net::{Unwatched, Value};

/// What the loop tells its caller.
pub trait Progress {
    /// A displayed iteration: smoothed loss, rate, outputs of the train net.
    fn display(&mut self, _iter: u64, _loss: f32, _rate: f32, _outputs: &[Value]) {}
    /// The closing loss after the last iteration.
    fn closing(&mut self, _iter: u64, _loss: f32) {}
    /// A finished test: scores averaged over its batches.
    fn tested(&mut self, _iter: u64, _net: usize, _scores: &[Value]) {}
    /// A snapshot is due.
    ///
    /// # Errors
    /// Ends the run.
    fn snapshot(&mut self, _iter: u64, _solver: &mut Solver) -> Result<()> {
        Ok(())
    }
    /// Asked before each iteration: whether to stop here.
    fn stop(&mut self) -> bool {
        false
    }
}

/// Hears nothing.
pub struct Silent;
impl Progress for Silent {}

/// Trains from `start` to max_iter.
///
/// # Errors
/// The first error of data, net or snapshot.
pub fn train(
    solver: &mut Solver,
    feeds: &mut Feeds,
    start: u64,
    progress: &mut dyn Progress,
) -> Result<()> {
    let param = solver.param().clone();
    let (max_iter, passes) = (param.max_iter() as u64, param.iter_size() as u64);
    let mut losses = VecDeque::new();
    let mut cursors = test_cursors_at(&param, start);
    let mut iter = start;
    while iter < max_iter && !progress.stop() {
        if due(iter, param.test_interval()) && (iter > 0 || param.test_initialization()) {
            test_all(solver, feeds, iter, &mut cursors, progress)?;
        }
        solver.clear_gradient();
        let mut loss = 0.0;
        for pass in 0..passes {
            let ticket = iter * passes + pass;
            let step = Step { iter, first_record: feeds.first_record(ticket) };
            let batches = feeds.train(ticket)?;
            loss += solver.forward_backward(batches, step, &mut Unwatched)?;
        }
        let smoothed = smooth(&mut losses, loss / passes as f32, param.average_loss() as usize);
        if due(iter, param.display()) {
            let outputs = solver.train_values()?;
            progress.display(iter, smoothed, solver.rate(iter), &outputs);
        }
        if !solver.scaler().is_dynamic() || !solver.overflows(iter)? {
            solver.update(iter)?;
        }
        iter += 1;
        if due(iter, param.snapshot()) {
            progress.snapshot(iter, solver)?;
        }
    }
    if param.snapshot_after_train() && !due(iter, param.snapshot()) {
        progress.snapshot(iter, solver)?;
    }
    if iter == max_iter {
        close(solver, feeds, iter, &mut cursors, &mut losses, progress)?;
    }
    Ok(())
}

/// Where each test net's records stand when a run reaches `iter`: every test before it has taken its
/// batches.
pub fn test_cursors_at(param: &SolverParameter, iter: u64) -> Vec<u64> {
    let interval = param.test_interval().max(0) as u64;
    let tests = match interval {
        0 => 0,
        _ if iter == 0 => 0,
        _ => (iter - 1) / interval + u64::from(param.test_initialization()),
    };
    param.test_iter.iter().map(|&batches| tests * batches.max(0) as u64).collect()
}

/// Loss and test after the last iteration.
fn close(
    solver: &mut Solver,
    feeds: &mut Feeds,
    iter: u64,
    cursors: &mut [u64],
    losses: &mut VecDeque<f32>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let param = solver.param().clone();
    if due(iter, param.display()) {
        let ticket = iter * param.iter_size() as u64;
        let step = Step { iter, first_record: feeds.first_record(ticket) };
        let loss = solver.evaluate(feeds.train(ticket)?, step)?;
        progress.closing(iter, smooth(losses, loss, param.average_loss() as usize));
    }
    if due(iter, param.test_interval()) {
        test_all(solver, feeds, iter, cursors, progress)?;
    }
    Ok(())
}

fn test_all(
    solver: &mut Solver,
    feeds: &mut Feeds,
    iter: u64,
    cursors: &mut [u64],
    progress: &mut dyn Progress,
) -> Result<()> {
    for (net, cursor) in cursors.iter_mut().enumerate() {
        let batches = solver.param().test_iter[net] as u64;
        let mut sums: Vec<Value> = Vec::new();
        for _ in 0..batches {
            let (values, _) = solver.test(net, feeds.test(net, *cursor)?)?;
            *cursor += 1;
            match sums.is_empty() {
                true => sums = values,
                false => sums.iter_mut().zip(values).for_each(|(s, v)| s.value += v.value),
            }
        }
        sums.iter_mut().for_each(|s| s.value /= batches as f32);
        progress.tested(iter, net, &sums);
    }
    Ok(())
}

/// Whether something that happens every `interval` iterations (0 or less: never) happens here.
fn due(iter: u64, interval: i32) -> bool {
    interval > 0 && iter.is_multiple_of(interval as u64)
}

/// Mean of the last `window` losses.
fn smooth(losses: &mut VecDeque<f32>, loss: f32, window: usize) -> f32 {
    if losses.len() == window {
        losses.pop_front();
    }
    losses.push_back(loss);
    losses.iter().sum::<f32>() / losses.len() as f32
}
