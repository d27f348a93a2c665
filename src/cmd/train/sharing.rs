//! Flags: what replicas share, and how.

use clap::builder::TypedValueParser;

use super::one_of;
use crate::trainer::{BatchMeaning, LrScaling, Mode, Options, Tuning, Wire};

/// How replicas learn together.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Several replicas")]
pub struct Sharing {
    /// How replicas share what they learn: sync, hogwild, ssp or local-sgd
    #[arg(long, value_parser = mode(), default_value = "hogwild", hide_possible_values = true)]
    pub mode: ModeName,
    /// In ssp: by how many iterations replicas may be apart
    #[arg(long, value_name = "S", default_value_t = 3)]
    pub staleness: u64,
    /// In local-sgd: iterations from one average of the nodes' weights to the next
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub exchange_every: u64,
    /// In hogwild, compute at where the weights will be, allowing for what the other replicas push
    /// meanwhile: 1 for all of it, 0 for nothing
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = look_ahead)]
    pub look_ahead: f32,
    /// Number format of what ranks send each other: f32, bf16 or fp16 (half the bytes; what rounding
    /// takes is sent later)
    #[arg(long, value_name = "FORMAT", value_parser = wire())]
    #[arg(default_value = "f32", hide_possible_values = true)]
    pub wire: Wire,
    /// How the learning rate grows with the number of replicas: none, linear or sqrt
    #[arg(long, value_parser = scaling(), default_value = "none", hide_possible_values = true)]
    pub lr_scaling: LrScaling,
    /// Iterations over which the rate rises to its full height
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_iters: u64,
    /// Momentum of replicas in hogwild and ssp [default: the solver's]
    #[arg(long, value_name = "M")]
    pub async_momentum: Option<f32>,
    /// Whose the net's batch_size is: each replica's, as in Caffe, or the whole job's (global)
    #[arg(long, value_name = "WHOSE", value_parser = batch())]
    #[arg(default_value = "replica", hide_possible_values = true)]
    pub batch: BatchMeaning,
}

impl Sharing {
    /// Puts what the flags say into the options.
    pub(super) fn apply(self, options: &mut Options) {
        options.mode = match self.mode {
            ModeName::Sync => Mode::Sync,
            ModeName::Hogwild => Mode::Hogwild,
            ModeName::Ssp => Mode::Ssp { staleness: self.staleness },
            ModeName::LocalSgd => Mode::LocalSgd { every: self.exchange_every },
        };
        options.look_ahead = self.look_ahead;
        options.wire = self.wire;
        options.tuning = Tuning {
            scaling: self.lr_scaling,
            warmup: self.warmup_iters,
            async_momentum: self.async_momentum,
        };
        options.batch = self.batch;
    }
}

/// A mode without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeName {
    /// [`Mode::Sync`]
    Sync,
    /// [`Mode::Hogwild`]
    Hogwild,
    /// [`Mode::Ssp`]
    Ssp,
    /// [`Mode::LocalSgd`]
    LocalSgd,
}

fn mode() -> impl TypedValueParser<Value = ModeName> {
    use ModeName::{Hogwild, LocalSgd, Ssp, Sync};
    one_of([("sync", Sync), ("hogwild", Hogwild), ("ssp", Ssp), ("local-sgd", LocalSgd)])
}

fn scaling() -> impl TypedValueParser<Value = LrScaling> {
    use LrScaling::{Linear, None, Sqrt};
    one_of([("none", None), ("linear", Linear), ("sqrt", Sqrt)])
}

fn look_ahead(text: &str) -> Result<f32, String> {
    let part: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=4.0).contains(&part) { Ok(part) } else { Err("must lie in 0..4".to_owned()) }
}

fn wire() -> impl TypedValueParser<Value = Wire> {
    one_of([("f32", Wire::F32), ("bf16", Wire::Bf16), ("fp16", Wire::Fp16)])
}

fn batch() -> impl TypedValueParser<Value = BatchMeaning> {
    one_of([("replica", BatchMeaning::Replica), ("global", BatchMeaning::Global)])
}
