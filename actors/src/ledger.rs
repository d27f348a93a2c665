//! Rank 0's book of losses: parts come in from all nodes in any order, displays go out in order
//! of iteration.

use std::collections::VecDeque;

use crate::header::LossPart;
use crate::observe::Display;
use crate::schedule::Schedule;

/// The open pages.
#[derive(Debug)]
pub(crate) struct Ledger {
    replicas: u64,
    schedule: Schedule,
    /// The first iteration not yet closed.
    next: u64,
    /// By iteration; never many.
    open: VecDeque<LossPart>,
    /// Losses of the last `average_loss` iterations that count.
    window: VecDeque<f64>,
}

impl Ledger {
    pub(crate) fn new(schedule: Schedule, replicas: u64) -> Self {
        let next = schedule.start_iter;
        Ledger { replicas, schedule, next, open: VecDeque::new(), window: VecDeque::new() }
    }

    /// Enters a part; returns the displays that are complete now.
    pub(crate) fn add(&mut self, part: &LossPart) -> Vec<Display> {
        match self.open.binary_search_by_key(&part.iter, |page| page.iter) {
            Ok(place) => self.open[place].merge(part),
            Err(place) => self.open.insert(place, part.clone()),
        }
        let mut displays = Vec::new();
        while let Some(page) = self.open.front() {
            let iter = page.iter;
            let skipped = (self.next..iter).any(|before| self.schedule.loss_wanted(before));
            if skipped || page.count < self.replicas {
                break;
            }
            let Some(page) = self.open.pop_front() else { break };
            self.next = iter + 1;
            let loss = self.enter(page.loss / page.count as f64);
            if self.schedule.display_due(iter) {
                let mean = |sum: &f64| (sum / page.count as f64) as f32;
                let outputs = page.outputs.iter().map(mean).collect();
                displays.push(Display { outputs, ..plain(iter, loss) });
            }
        }
        displays
    }

    /// The display after the last iteration, from the loss of one more forward.
    pub(crate) fn closing(&mut self, iter: u64, loss: f32) -> Display {
        let loss = self.enter(f64::from(loss));
        Display { closing: true, ..plain(iter, loss) }
    }

    fn enter(&mut self, loss: f64) -> f32 {
        self.window.push_back(loss);
        while self.window.len() as u64 > self.schedule.average_loss.max(1) {
            self.window.pop_front();
        }
        (self.window.iter().sum::<f64>() / self.window.len() as f64) as f32
    }
}

fn plain(iter: u64, loss: f32) -> Display {
    Display {
        iter,
        loss,
        outputs: Vec::new(),
        closing: false,
        paces: Vec::new(),
        staleness: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Sample;

    #[test]
    fn displays_in_order_when_all_tickets_are_in() {
        let schedule = Schedule { display: 2, average_loss: 2, ..Schedule::default() };
        let mut ledger = Ledger::new(schedule, 2);
        let part = |iter, losses: &[f64]| {
            let mut part = LossPart { iter, ..LossPart::default() };
            for loss in losses {
                part.add(&Sample { loss: *loss, outputs: vec![*loss as f32] });
            }
            part
        };
        assert!(ledger.add(&part(0, &[1.0])).is_empty());
        assert!(ledger.add(&part(1, &[4.0, 6.0])).is_empty());
        let shown = ledger.add(&part(0, &[3.0]));
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].iter, shown[0].loss, &shown[0].outputs[..]), (0, 2.0, &[2.0][..]));
        let shown = ledger.add(&part(2, &[1.0, 1.0]));
        assert_eq!((shown[0].iter, shown[0].loss), (2, 3.0));
        assert_eq!(ledger.closing(3, 2.0).loss, 1.5);
    }
}
