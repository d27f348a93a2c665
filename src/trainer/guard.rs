//! What one replica does about a loss or gradient that is no finite number ([`OnNan`]).
//!
//! Whoever meets one says where, drops its own update, and in `sync` gives NaN for its gradient: so
//! every replica sees it in the sum and drops the same update, without a further message. A gradient
//! that is not finite because of a dynamic loss scale takes the same way, whatever the policy; whoever
//! drops an update has a smaller scale from then on, in `sync` the same on all replicas.

use caffe_actors::{Complaint, Step};

use super::on_nan::OnNan;
use crate::net::{Net, key_text};
use crate::solver::Solver;
use crate::{Result, bail};

/// Updates dropped one after the other after which there is no hope.
const HOPELESS: u32 = 50;
/// Record keys in a message.
const KEYS: usize = 8;

/// One replica's state.
#[derive(Debug)]
pub struct Guard {
    policy: OnNan,
    /// This step's own loss or gradient is not finite.
    own: bool,
    /// And it is no fault of the loss scale.
    met: bool,
    /// The job's is not.
    job: bool,
    in_a_row: u32,
    dropped: u64,
    reloads: u32,
    complaint: Option<Complaint>,
}

impl Guard {
    /// For a replica that has met none.
    pub fn new(policy: OnNan) -> Self {
        Guard {
            policy,
            own: false,
            met: false,
            job: false,
            in_a_row: 0,
            dropped: 0,
            reloads: 0,
            complaint: None,
        }
    }

    /// Whether the first one ends the job, so that no update is ever dropped.
    pub fn stops(&self) -> bool {
        self.policy == OnNan::Stop
    }

    /// A step begins.
    pub fn begin(&mut self) {
        (self.own, self.met, self.job) = (false, false, false);
    }

    /// Whether this step's own loss or gradient is not finite.
    pub fn own(&self) -> bool {
        self.own
    }

    /// This replica's gradient is not finite, and the loss scale may be to blame.
    pub fn overflowed(&mut self) {
        self.own = true;
    }

    /// The sum over the replicas is not finite.
    pub fn of_job(&mut self) {
        self.job = true;
    }

    /// This replica's loss or gradient is not: `what` is.
    ///
    /// # Errors
    /// With `stop`, always: the text names layer, iteration and records.
    pub fn met(&mut self, net: &mut Net, step: &Step, what: &str, value: f32) -> Result<()> {
        let from = match net.first_not_finite()? {
            Some(layer) => format!("the first output that is not finite is that of {layer}"),
            None => match net.last_gradient_not_finite()? {
                Some(layer) => format!("all outputs are finite; the gradient of {layer} is not"),
                None => "all outputs are finite".to_owned(),
            },
        };
        let text = format!("iteration {}: {what} is {value}; {from}; {}", step.iter, records(net));
        if self.policy == OnNan::Stop {
            bail!("{text}; lower base_lr, set clip_gradients, or look at the data (--on-nan=stop)");
        }
        (self.own, self.met) = (true, true);
        let reload = matches!(self.policy, OnNan::Rollback(_));
        let text = format!("{text}; its update is dropped (--on-nan={})", self.policy);
        self.complaint = Some(Complaint { text, reload });
        Ok(())
    }

    /// Whether this step's update must be dropped; asked once, before the update.
    ///
    /// # Errors
    /// With `stop`; and when one update after the other had to be dropped.
    pub fn drops(&mut self, iter: u64, solver: &mut Solver) -> Result<bool> {
        if !self.own && !self.job {
            self.in_a_row = 0;
            return Ok(false);
        }
        if solver.overflowed() && !self.met {
            if self.own {
                self.say(format!(
                    "iteration {iter}: a gradient overflows; its update is dropped, the loss scale is {} \
                     from now on",
                    solver.scaler().scale()
                ));
            }
            return Ok(true);
        }
        if self.policy == OnNan::Stop {
            bail!("iteration {iter}: the replicas' gradients are finite, but their sum is not");
        }
        self.dropped += 1;
        self.in_a_row += 1;
        if self.in_a_row >= HOPELESS {
            bail!(
                "iteration {iter}: {HOPELESS} updates in succession had to be dropped \
                 (--on-nan={}); the weights are past saving: resume from an earlier snapshot with a \
                 lower base_lr",
                self.policy
            );
        }
        if !self.own && matches!(self.policy, OnNan::Rollback(_)) {
            // Another replica has said why.
            self.complaint = Some(Complaint { text: String::new(), reload: true });
        }
        Ok(true)
    }

    /// The loss scale has grown.
    pub fn grown(&mut self, iter: u64, scale: f32) {
        self.say(format!("iteration {iter}: the loss scale is {scale} from now on"));
    }

    fn say(&mut self, text: String) {
        self.complaint = Some(Complaint { text, reload: false });
    }

    /// What there is to say since the last call.
    pub fn complaint(&mut self) -> Option<Complaint> {
        let mut complaint = self.complaint.take()?;
        if self.met && !complaint.text.is_empty() {
            complaint.text.push_str(&format!("; {} so far here", self.dropped));
        }
        Some(complaint)
    }

    /// The replica is about to go back to a snapshot.
    ///
    /// # Errors
    /// When it has done so often enough.
    pub fn reload(&mut self) -> Result<()> {
        let most = match self.policy {
            OnNan::Rollback(most) => most,
            OnNan::Stop | OnNan::Skip => 0,
        };
        if self.reloads >= most {
            bail!(
                "went back to a snapshot {most} time(s) and met a loss or gradient that is not \
                 finite again (--on-nan={}); lower base_lr or look at the data",
                self.policy
            );
        }
        self.reloads += 1;
        Ok(())
    }
}

/// The batch's records, in words.
fn records(net: &Net) -> String {
    let Some(batch) = net.fed().next() else { return "the net reads no records".to_owned() };
    let keys: Vec<String> = batch.keys.iter().take(KEYS).map(|key| key_text(key)).collect();
    let more = batch.keys.len().saturating_sub(KEYS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let at = &batch.positions;
    format!("records {} to {} of the job's order, keys {}{more}", at.start, at.end, keys.join(" "))
}
