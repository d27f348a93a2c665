//! What the machine needs of a record source: [`BatchSource`].
//!
//! A source is `!Send`: it is built by a `Send` factory on its reader's thread. It is told which
//! batch to make; which records that means is its own rule (ticket q covers record positions
//! `q·b … q·b + b − 1`), so every reader of a job can make any batch and nothing is dealt out.

use crate::replica::Cause;
use crate::trace::Tracer;

/// Where a reader lives: given to its source's factory.
#[derive(Clone, Debug)]
pub struct ReaderPlace {
    /// Rank of the node.
    pub rank: usize,
    /// Number of nodes in the job.
    pub nodes: usize,
    /// Index of the reader on its node.
    pub reader: usize,
    /// Number of readers on this node.
    pub readers: usize,
    /// R: number of replicas in the job.
    pub replicas: usize,
    /// The tracer of the reader's thread.
    pub tracer: Tracer,
}

/// Makes batches: reads, decodes, transforms.
pub trait BatchSource: 'static {
    /// The batch type of the replicas it feeds.
    type Batch: Send + Default + 'static;

    /// What it reads train records from, as in "LevelDB train_leveldb": for those who read a trace.
    fn describe(&self) -> String {
        "records".into()
    }

    /// Bytes of one train batch in memory: bounds the prefetch. An estimate is enough.
    fn batch_bytes(&self) -> usize;

    /// Fills `batch` with train batch `ticket`. Tickets come in any order.
    ///
    /// # Errors
    /// File, offset and what was wrong. Ends the job.
    fn fill(&mut self, ticket: u64, batch: &mut Self::Batch) -> Result<(), Cause>;

    /// Fills `batch` with batch `index` of test net `net`. `index` grows for ever: the cursor of
    /// a test net continues from one test to the next.
    ///
    /// # Errors
    /// As [`fill`](BatchSource::fill).
    fn fill_test(&mut self, net: usize, index: u64, batch: &mut Self::Batch) -> Result<(), Cause>;
}
