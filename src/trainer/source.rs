//! The data layers' sources as the actors' batch source.

use std::sync::Arc;

use caffe_actors::{BatchSource, Cause};

use super::job::Job;
use crate::Result;
use crate::data::Batch;
use crate::solver::Source;

/// Reads the batches of the train net and the test nets on a reader's thread.
pub struct Records {
    train: Source,
    tests: Vec<Source>,
    /// Added to every train ticket: a run that resumes with another batch size or number of
    /// replicas goes on where the old one stood in the records.
    offset: i64,
    about: String,
}

impl Records {
    /// Opens all databases of the job, to be decoded by so many threads.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn open(job: &Arc<Job>, replicas: usize, threads: usize) -> Result<Self> {
        let (train, tests) = job.data(replicas)?;
        let reading = job.reading(threads);
        let about = train.describe();
        let train = train.open(reading)?;
        let offset = job.ticket_offset(replicas, train.batch_size());
        let tests = tests.iter().map(|d| d.open(reading)).collect::<Result<_>>()?;
        Ok(Records { train, tests, offset, about })
    }
}

impl BatchSource for Records {
    type Batch = Vec<Batch>;

    fn batch_bytes(&self) -> usize {
        self.train.batch_bytes()
    }

    fn describe(&self) -> String {
        self.about.clone()
    }

    fn fill(&mut self, ticket: u64, batch: &mut Vec<Batch>) -> Result<(), Cause> {
        Ok(self.train.fill(ticket.saturating_add_signed(self.offset), batch)?)
    }

    fn fill_test(&mut self, net: usize, index: u64, batch: &mut Vec<Batch>) -> Result<(), Cause> {
        Ok(self.tests[net].fill(index, batch)?)
    }
}
