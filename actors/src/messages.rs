//! Every message of the machine, and who sends it to whom.
//!
//! ```text
//!            Feed                                     Order, Cue
//!  reader ◄─────────────── communicator ─────────────────────────► device (one per replica)
//!    │  ▲                   ▲   │    ▲                               │   │  ▲
//!    │  │ Feed::Returned    │   │    │ Note::News                    │   │  │
//!    │  └───────────────────┼───┼────┼───────────────────────────────┘   │  │
//!    │                      │   │    │             Note                  │  │
//!    │                      └───┼────┼───────────────────────────────────┘  │
//!    │        Note (Opened)     │ops │dones                                 │
//!    │                          ▼    │                                      │
//!    │                        MPI pump (plain thread)                       │
//!    └──────────────────── Load, TestLoad (batches) ────────────────────────┘
//! ```
//!
//! Rank 0's first device gives a snapshot's copy to the writer (`Write`), which tells the
//! communicator when the files are there ([`Note::Written`]).
//!
//! * **Mailboxes** carry what is small, by value: actix's carry [`Order`], a few between segments,
//!   and an [`Inbox`](crate::inbox::Inbox), which allocates nothing, carries [`Note`] and [`Feed`].
//! * **Bounded channels** (crossbeam) carry bulk: batches from reader to device and back, bucket
//!   gradients from device to communicator ([`Gradient`]) and back ([`Cue::Mean`]), exchange
//!   buffers between communicator and pump. Each channel is as deep as there are buffers in its
//!   circle, so a send never waits.
//! * A device that runs a segment does not look into its mailbox; what it must hear meanwhile
//!   comes as a [`Cue`].

use std::sync::Arc;

use actix::Message;
use crossbeam_channel::{Receiver, Sender};

use crate::header::Sample;
use crate::mode::Then;
use crate::replica::{Complaint, Plan};

/// Train batches on their way from reader to device, and empty on their way back.
#[derive(Debug)]
pub(crate) struct Load<B> {
    /// The reader whose buffer this is.
    pub(crate) reader: usize,
    /// Batch ticket of the first batch; the others follow it.
    pub(crate) ticket: u64,
    pub(crate) batches: Vec<B>,
}

/// A test batch on its way.
#[derive(Debug)]
pub(crate) struct TestLoad<B> {
    /// Which batch of the test, 0-based: the row of its scores.
    pub(crate) row: u64,
    pub(crate) batch: B,
}

/// A bucket's gradient on its way from device to communicator.
#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) bucket: usize,
    pub(crate) part: Part,
}

/// What a device has given of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) data: Vec<f32>,
    /// Another device's data has this one's in it; these are a buffer and nothing else.
    pub(crate) elsewhere: bool,
}

/// Communicator → device, while it runs a segment.
#[derive(Debug)]
pub(crate) enum Cue {
    /// The mean gradient of a bucket (or the sum of the nodes' parts of its average), and the
    /// device's own buffer back.
    Mean { bucket: usize, mean: Arc<Vec<f32>>, spare: Vec<f32> },
    /// All buckets have been sent: update, then do this.
    Next(Then),
    /// No ticket is left: park.
    Park,
}

/// Communicator → device, between segments.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum Order {
    /// Build the replica.
    Build,
    /// Lay your opening words on the board: all others hear them.
    Speak,
    /// Hear them.
    Hear,
    /// Copy your weights and statistics to the board: all others start from them.
    Publish,
    /// Take the board's weights and statistics.
    Load,
    /// Train from `from` (a device that takes tickets from its reader learns the end by a cue).
    Run { from: u64, to: u64 },
    /// Take the board's statistics and the node's weights.
    Settle,
    /// Run your share of a test: `count` batches.
    Test { net: usize, count: u64 },
    /// Copy your history to the board.
    History,
    /// Copy a snapshot out and hand it to the writer.
    Snapshot(Box<SnapshotOrder>),
    /// Forward only, on one train batch.
    Evaluate { iter: u64, ticket: u64 },
    /// Go back to an earlier state.
    Reload,
    /// Hash your weights.
    Verify,
    /// Drop the replica and end.
    Leave,
}

/// What the writer of a snapshot is told.
#[derive(Debug)]
pub(crate) struct SnapshotOrder {
    pub(crate) iter: u64,
    pub(crate) ticket: u64,
    pub(crate) cursors: Vec<u64>,
    /// Histories, one after the other, on request ([`Note::WantHistory`]); `None` when all
    /// replicas share one.
    pub(crate) histories: Option<HistoryStream>,
}

/// The two ends of the circle in which one history buffer travels.
#[derive(Debug)]
pub(crate) struct HistoryStream {
    pub(crate) full: Receiver<Option<(usize, Vec<f32>)>>,
    pub(crate) empty: Sender<Vec<f32>>,
}

/// Device, reader, writer or pump → communicator.
#[derive(Debug)]
pub(crate) enum Note {
    /// Something lies in the channel of finished operations.
    News,
    /// A reader has opened its source.
    Opened,
    /// A device has built its replica.
    Built { local: usize, plan: Box<Plan> },
    /// [`Order::Speak`] done.
    Spoke,
    /// [`Order::Hear`] done.
    Heard,
    /// [`Order::Publish`] done.
    Published,
    /// [`Order::Load`] done.
    Loaded,
    /// A gradient lies in the device's channel.
    Gradient { local: usize, bucket: usize },
    /// Forward and backward of an iteration are done (not in hogwild).
    Computed { local: usize, iter: u64, sample: Option<Sample> },
    /// A step ticket's update is in the node's weights (hogwild).
    Finished { local: usize, ticket: u64, sample: Option<Sample> },
    /// A device has left its segment, having done all iterations below `iter`; its statistics
    /// are on the board.
    Parked { iter: u64 },
    /// [`Order::Settle`] done.
    Settled,
    /// [`Order::Test`] done; the scores are on the board.
    Tested,
    /// [`Order::History`] done.
    HistoryRead,
    /// The writer is ready for the next history.
    WantHistory,
    /// [`Order::Snapshot`] done: the copy is with the writer.
    Snapshotted,
    /// A replica has dropped an update.
    Complaint(Complaint),
    /// [`Order::Reload`] done: this is the state.
    Reloaded { local: usize, state: String },
    /// The writer has written it.
    Written,
    /// [`Order::Evaluate`] done.
    Evaluated { loss: f32 },
    /// [`Order::Verify`] done.
    Verified { local: usize, checksum: u64 },
    /// A device has waited for long.
    Slow { local: usize, what: &'static str, seconds: u64 },
    /// A device or reader has ended in order.
    Left,
}

/// Anybody → reader.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    /// Open the source.
    Open,
    /// Fill train batches for the step tickets `first`, `first + stride`, … for queue `queue`.
    Train { queue: usize, first: u64, stride: u64, count: u64 },
    /// Fill test batches `cursor + row` for rows `first`, `first + stride`, … below `rows`.
    Test { net: usize, cursor: u64, queue: usize, first: u64, stride: u64, rows: u64 },
    /// A device has given a buffer back.
    Returned,
    /// End.
    Leave,
}
