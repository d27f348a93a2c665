//! One replica in the job: the bare solver loop. No rounds, no averaging, no copies; the device
//! runs its segment by itself and looks at the wishes between iterations.

use super::{Action, Event, Machine, Moment};
use crate::header::LossPart;

/// The machine; it only watches.
#[derive(Debug)]
pub(super) struct Single;

impl Single {
    pub(super) fn new() -> Self {
        Single
    }
}

impl Machine for Single {
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Begin { from, to } => actions.push(Action::Run { from, to }),
            Event::Computed { iter, sample, .. } => {
                if let Some(sample) = sample {
                    let mut part = LossPart { iter, ..LossPart::default() };
                    part.add(&sample);
                    actions.push(Action::Loss(part));
                }
                actions.push(Action::Progress(iter + 1));
            }
            Event::Parked { iter } => {
                let (stop, snapshot) = (moment.stop, moment.snapshot);
                actions.push(Action::Drained { iter, stop, snapshot });
            }
            _ => {}
        }
    }
}
