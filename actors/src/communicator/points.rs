//! Drained points: which duties a node takes on when its machine has drained, a pure function of
//! the schedule and of the wishes in the headers.

use super::Communicator;
use super::duties::Duty;

impl Communicator {
    /// What is due after `iter` iterations, in Caffe's order.
    pub(super) fn point(&mut self, stop: bool, snapshot: bool) {
        let schedule = &self.parts.schedule;
        let iter = self.iter;
        let over = stop || iter >= schedule.max_iter;
        let stopped = stop && iter < schedule.max_iter;
        // A wish that arrives during a test comes back to the same iteration.
        let again = self.visited.replace(iter) == Some(iter);
        let parting = stopped && schedule.snapshot_after_train && iter > schedule.start_iter;
        let due = snapshot || parting || schedule.snapshot_due(iter);
        if due && self.snapshotted.replace(iter) != Some(iter) {
            self.duties.push_back(Duty::Written);
            if self.private_histories() {
                self.duties.extend([Duty::History, Duty::MeanHistory]);
            }
            self.duties.push_back(Duty::Snapshot);
        }
        if !stopped {
            if over && schedule.display_due(iter) {
                self.duties.push_back(Duty::Evaluate);
            }
            if schedule.test_due(iter) && !again {
                for net in 0..schedule.test_batches.len() {
                    self.duties.extend([Duty::Test { net }, Duty::Scores { net }]);
                }
            }
        }
        if over {
            self.stopped_early = stopped;
            // Before the nodes compare: while rank 0 writes, the others still send heartbeats.
            self.duties.extend([Duty::Written, Duty::Verify, Duty::Compare, Duty::Leave]);
        } else {
            self.duties.push_back(Duty::Train { to: schedule.next_stop(iter) });
        }
    }

    /// The machine has drained.
    pub(super) fn drained_at(&mut self, iter: u64, stop: bool, snapshot: bool) {
        self.iter = iter;
        if snapshot {
            self.parts.requests.take_snapshot();
        }
        let statistics = self.plan.as_ref().is_some_and(|plan| plan.statistics > 0);
        if self.replicas() > 1 {
            if statistics {
                self.duties.push_back(Duty::Statistics);
            }
            if statistics || self.draws() {
                self.duties.push_back(Duty::Settle);
            }
        }
        self.duties.push_back(match snapshot {
            true => Duty::Agree { stop },
            false => Duty::Point { stop, snapshot },
        });
        if stop && iter < self.parts.schedule.max_iter {
            self.tell(|observer| observer.stopped_early(iter));
        }
    }

    /// All nodes know what the wish was for.
    pub(super) fn agreed_on(&mut self, stop: bool) {
        let reload = std::mem::take(&mut self.reload);
        if reload {
            self.duties.extend([Duty::Written, Duty::Reload]);
            if self.replicas() > 1 {
                self.duties.extend([Duty::Publish, Duty::Spread, Duty::Load]);
            }
        }
        self.duties.push_back(Duty::Point { stop, snapshot: !reload });
    }
}
