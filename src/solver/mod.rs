//! Solvers: from a solver prototxt to trained weights on one device.
//!
//! [`Solver`] is one replica: a train net, its test nets and an optimizer, with one method per
//! thing that can happen to it (a batch, an update, a test batch, a snapshot); on a device it may be asked
//! for a batch before the one before it is waited for (`asking`). Who calls them in
//! which order is somebody else's affair: [`train`] is the bare loop on one thread; the actors
//! drive many replicas.

mod asking;
mod bare;
mod feeds;
mod forecast;
mod loss_scale;
mod lr_policy;
mod nets;
mod on_device;
mod optimizer;
mod replica;
pub mod rules;

pub use crate::net::Value;
pub use asking::Then;
pub use bare::{Progress, Silent, test_cursors_at, train};
pub use feeds::{DataLayers, Feeds, Source};
pub use forecast::Forecast;
pub use loss_scale::{LossScale, ScaleState, Scaler};
pub use lr_policy::{LrPolicy, Ramp};
pub use nets::{NetPlan, NetPlans};
pub use on_device::sources;
pub use optimizer::Optimizer;
pub(crate) use replica::forward_backward;
pub use replica::{Solver, SolverOptions};
