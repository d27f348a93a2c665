//! `local-sgd`: the device's part in averaging the weights of all nodes.
//!
//! All devices of a node hold the same weights w, and all devices of the job the same z. The
//! first device of each node gives f · share, f = w − z, share = the node's replicas / all
//! replicas; everybody gets the sum over the nodes and takes z ← z + Σ, w ← z: the same bits
//! everywhere, as the same numbers are added in the same order.

use super::{Device, Own};
use crate::fault::Halt;
use crate::messages::{Cue, Gradient, Note, Part};
use crate::mode::Then;
use crate::replica::Replica;
use crate::trace::Kind;

impl<R: Replica> Device<R> {
    /// Takes part in an average; what comes then.
    pub(super) fn average(&self, own: &mut Own<R>) -> Result<Then, Halt> {
        if self.place.local == 0 {
            self.give_change(own)?;
        }
        loop {
            match self.wait(&self.ends.cues, Kind::WaitGradient)? {
                Cue::Mean { bucket, mean: sum, spare } => {
                    if self.place.local == 0 {
                        own.buffers[bucket] = spare;
                    }
                    let agreed = &mut own.agreed[bucket];
                    for (z, sum) in agreed.iter_mut().zip(sum.iter()) {
                        *z += sum;
                    }
                    own.replica.write_weights(bucket, agreed)?;
                }
                Cue::Next(then) => return Ok(then),
                Cue::Park => return Err("told to park inside an average".to_owned().into()),
            }
        }
    }

    fn give_change(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let share = self.place.workers as f32 / self.place.replicas as f32;
        for (bucket, agreed) in own.agreed.iter().enumerate() {
            let mut data = std::mem::take(&mut own.buffers[bucket]);
            own.replica.read_weights(bucket, &mut data)?;
            for (w, z) in data.iter_mut().zip(agreed) {
                *w = share * (*w - z);
            }
            // As deep as there are buckets; closed only when the node stops.
            let part = Part { data, elsewhere: false };
            if self.ends.gradients.try_send(Gradient { bucket, part }).is_ok() {
                self.note(Note::Gradient { local: 0, bucket });
            }
        }
        Ok(())
    }
}
