//! Flags: snapshots, signals, and what happens when something breaks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::TypedValueParser;

use super::one_of;
use crate::trainer::{Best, Effect, Effects, Keep, OnNan, Options};

/// What makes a run last.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Snapshots, signals and faults")]
pub struct Lasting {
    /// Go on from this .solverstate
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Go on from the newest whole snapshot under the solver's snapshot_prefix (auto), or from this
    /// .solverstate
    #[arg(long, value_name = "auto|FILE", conflicts_with = "snapshot")]
    pub resume: Option<PathBuf>,
    /// Keep the last N snapshots and delete older ones of this snapshot_prefix
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_last: Option<u64>,
    /// Keep also the snapshot with the best value of this output of a test net
    #[arg(long, value_name = "OUTPUT[:min|max]")]
    pub keep_best: Option<Best>,
    /// What SIGINT does: stop (after a snapshot), snapshot (and go on), none
    #[arg(long = "sigint_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "stop", hide_possible_values = true)]
    pub sigint_effect: Effect,
    /// What SIGHUP does: stop, snapshot or none
    #[arg(long = "sighup_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "snapshot", hide_possible_values = true)]
    pub sighup_effect: Effect,
    /// What SIGUSR1 does, which mpirun passes on to all ranks: stop, snapshot or none
    #[arg(long = "sigusr1_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "snapshot", hide_possible_values = true)]
    pub sigusr1_effect: Effect,
    /// What a loss or gradient that is no finite number does: stop, skip (drop that update) or
    /// rollback[:N] (drop it and take the newest snapshot, at most N times)
    #[arg(long, value_name = "WHAT", default_value_t = OnNan::Stop)]
    pub on_nan: OnNan,
    /// Seconds of silence after which a rank is named in a warning
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_warning: u64,
    /// Seconds of silence of a rank after which the job ends; 0: never
    #[arg(long, value_name = "S", default_value_t = 300)]
    pub stall_timeout: u64,
    /// Folder for black boxes: the last events of every actor of every rank, removed at a good end
    /// [default: caffe-blackbox in the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub blackbox: Option<PathBuf>,
}

impl Lasting {
    /// Puts what the flags say into the options.
    pub(super) fn apply(self, options: &mut Options) {
        let auto = Path::new("auto");
        options.resume_auto = self.resume.as_deref() == Some(auto);
        options.snapshot = self.snapshot.or(self.resume.filter(|resume| resume != auto));
        options.keep = Keep { last: self.keep_last.map(|n| n as usize), best: self.keep_best };
        options.effects = Effects {
            sigint: self.sigint_effect,
            sighup: self.sighup_effect,
            sigusr1: self.sigusr1_effect,
        };
        options.on_nan = self.on_nan;
        options.stall_warning = Duration::from_secs(self.stall_warning);
        options.stall_timeout = Duration::from_secs(self.stall_timeout);
        if let Some(folder) = self.blackbox {
            options.black_box = folder;
        }
    }
}

fn effect() -> impl TypedValueParser<Value = Effect> {
    one_of([("stop", Effect::Stop), ("snapshot", Effect::Snapshot), ("none", Effect::None)])
}
