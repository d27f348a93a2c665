//! Headers over MPI: one small gather at a time, on a communicator of its own.

use super::calls::{Comm, Request};
use crate::transport::Done;

/// Headers: one gather at a time.
pub(super) struct Headers {
    comm: Comm,
    size: usize,
    under_way: Option<Gather>,
    /// The words of the last header: memory for the next.
    spare: Vec<u64>,
}

struct Gather {
    request: Request,
    /// Lent to MPI until the request is done.
    own: Vec<u64>,
    all: Vec<u64>,
}

impl Headers {
    pub(super) fn new(comm: Comm, size: usize) -> Self {
        Headers { comm, size, under_way: None, spare: Vec::new() }
    }

    pub(super) fn open(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn post(&mut self, words: Vec<u64>) -> Result<(), String> {
        if self.under_way.is_some() {
            return Err("a header was posted before the last had come".into());
        }
        let mut all = std::mem::take(&mut self.spare);
        all.resize(words.len() * self.size, 0);
        // SAFETY: both vectors are kept, untouched, in `under_way` until the request is done;
        // `all` has `size` times as many words.
        let request = unsafe { self.comm.gather(words.as_ptr(), all.as_mut_ptr(), words.len())? };
        self.under_way = Some(Gather { request, own: words, all });
        Ok(())
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        if let Some(gather) = &mut self.under_way
            && gather.request.test()?
            && let Some(gather) = self.under_way.take()
        {
            self.spare = gather.own;
            done.push(Done::Headers { words: gather.all });
        }
        Ok(())
    }
}
