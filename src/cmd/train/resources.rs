//! Flags: what a process computes with.

use crate::cmd::{emulated, host};
use crate::trainer::{DeviceSpec, Dilation, Link, Options};
use crate::{Result, ensure};

/// Replicas, threads, and devices that are emulated.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Devices and threads")]
pub struct Resources {
    /// Replicas in this process
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// CPU threads of this process, divided among its workers [default: this host's cores, divided
    /// among the ranks on it]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Threads of this process that read and decode records [default: 1, or the number of CPU
    /// threads when images have to be decoded]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..))]
    pub readers: Option<u16>,
    /// Nodes inside this process, with K replicas each, in place of ranks under mpirun
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes: u16,
    /// Emulate a link between nodes: latency=1.5us,bandwidth=56Gb/s,jitter=2%,lose=RANK@20s,seed=N
    #[arg(long, value_name = "LINK", value_parser = emulated::link)]
    pub link: Option<Link>,
    /// What replicas compute on: cpu, or emulated, which waits as long as a device of that speed
    /// would compute: emulated:FILE,total=310ms,jitter=2%,slow=REPLICA:FACTOR,seed=N. FILE is what
    /// `caffe time --profile` writes; without it times follow from operations and bytes
    #[arg(long, value_name = "DEVICE", value_parser = device, default_value = "cpu")]
    pub device: Device,
    /// With --device=emulated, multiply emulated times, so that this host's own work is small beside
    /// them: a factor, or auto (less than half of its processor)
    #[arg(long, value_name = "FACTOR", value_parser = emulated::dilation, default_value = "auto")]
    pub dilate: Dilation,
}

impl Resources {
    /// Puts what the flags say into the options.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub(super) fn apply(self, options: &mut Options) -> Result<()> {
        ensure!(
            self.device.0.is_some() || self.dilate == Dilation::Auto,
            "--dilate belongs to --device=emulated: real devices cannot be slowed down"
        );
        options.workers = self.workers.into();
        options.threads = self.threads.map_or_else(host::own_cores, usize::from);
        options.readers = self.readers.map(usize::from);
        options.nodes = self.nodes.into();
        options.link = self.link;
        options.device = self.device.0;
        options.dilate = self.dilate;
        Ok(())
    }
}

/// `--device`; clap would take an `Option` for a flag that may be left out.
#[derive(Clone, Debug)]
pub struct Device(pub Option<DeviceSpec>);

/// Reads `--device`.
pub(in crate::cmd) fn device(text: &str) -> std::result::Result<Device, String> {
    emulated::device(text).map(Device)
}
