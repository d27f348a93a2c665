//! What [`Trouble::NotFinite`](super::Trouble) does to a replica: a gradient of NaN, an update that is
//! dropped, the way back to a snapshot.

use caffe_actors::{Complaint, ReplicaPlace};

use super::Trouble;

/// One replica's state.
#[derive(Debug, Default)]
pub struct Guard {
    /// The trouble has happened; it does so once.
    met: bool,
    /// This step's own gradient is not finite, or the job's.
    own: bool,
    job: bool,
    back: bool,
    complaint: Option<Complaint>,
    /// The weights that have to come after going back.
    expected: Option<Vec<f32>>,
}

impl Guard {
    /// A step begins: whether its gradient is to be NaN.
    pub fn meets(&mut self, troubles: &[Trouble], place: &ReplicaPlace, iter: u64) -> bool {
        (self.own, self.job) = (false, false);
        for trouble in troubles {
            if let Trouble::NotFinite { replica, iter: at, back } = *trouble {
                self.back = back;
                self.own |= !self.met && replica == place.replica && iter >= at;
            }
        }
        self.met |= self.own;
        self.own
    }

    /// Looks at a mean gradient.
    pub fn look(&mut self, gradient: &[f32]) {
        self.job |= gradient.iter().any(|g| !g.is_finite());
    }

    /// Whether the update is to be dropped.
    pub fn drops(&mut self) -> bool {
        if self.own || self.job {
            let text = if self.own { "a made-up NaN".into() } else { String::new() };
            self.complaint = Some(Complaint { text, reload: self.back });
        }
        self.own || self.job
    }

    pub fn complaint(&mut self) -> Option<Complaint> {
        self.complaint.take()
    }

    /// The weights that the replica is given next have to be these.
    pub fn expect(&mut self, weights: Vec<f32>) {
        self.expected = Some(weights);
    }

    /// It is given a part of them.
    pub fn given(&mut self, range: std::ops::Range<usize>, weights: &[f32]) {
        if let Some(expected) = &self.expected {
            assert!(expected[range.clone()] == *weights, "other weights than the snapshot's");
        }
        if range.start == 0 {
            // The last bucket.
            self.expected = None;
        }
    }
}
