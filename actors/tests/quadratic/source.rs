//! Batches: a target for each ticket.

use std::time::Duration;

use caffe_actors::{BatchSource, Cause};

use super::{Behaviour, PARAMS, Trouble};

#[derive(Debug, Default)]
pub struct Batch {
    pub(super) ticket: u64,
    pub(super) x: Vec<f32>,
}

/// Element `i` of batch q's target.
pub fn target(ticket: u64, i: usize) -> f32 {
    let mix =
        (ticket.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) ^ ((i as u64 * 2_654_435_761) >> 7);
    (mix % 1024) as f32 / 1024.0 + 1.0
}

pub struct Source {
    pub(super) rank: usize,
    pub(super) behaviour: Behaviour,
}

impl BatchSource for Source {
    type Batch = Batch;

    fn describe(&self) -> String {
        "LevelDB made_up".into()
    }

    fn batch_bytes(&self) -> usize {
        4 * PARAMS
    }

    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), Cause> {
        for trouble in &self.behaviour.troubles {
            if let Trouble::Reader { rank, ticket: at } = trouble
                && *rank == self.rank
                && ticket >= *at
            {
                return Err(format!("records.ldb: checksum mismatch at byte {ticket}").into());
            }
        }
        for trouble in &self.behaviour.troubles {
            if let Trouble::SlowReader { rank, millis } = trouble
                && *rank == self.rank
            {
                std::thread::sleep(Duration::from_millis(*millis));
            }
        }
        batch.ticket = ticket;
        batch.x.clear();
        batch.x.extend((0..PARAMS).map(|i| target(ticket, i)));
        Ok(())
    }

    fn fill_test(&mut self, net: usize, index: u64, batch: &mut Batch) -> Result<(), Cause> {
        batch.ticket = index + 1000 * net as u64;
        batch.x.clear();
        Ok(())
    }
}
