//! A net from the command line's `-model`, `-weights`, `-level` and `-stage`: what `test` and `time`
//! have in common.

use std::path::PathBuf;

use caffe_proto::{Phase, net_from_file};

use super::gpu::GpuArgs;
use super::host;
use crate::data::{Batch, Reading};
use crate::device::Step;
use crate::device::cuda::CudaDevice;
use crate::log::Log;
use crate::net::{Net, NetOptions, Origin, Pass};
use crate::snapshot::copy_weights;
use crate::solver::{DataLayers, Forecast, NetPlan, Source};
use crate::{Result, ensure};

/// Seed of fillers and augmentation: these commands give the same answer every time.
const SEED: u64 = 1701;

/// Flags of a command that runs one net.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The net, a prototxt
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// How often it runs
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub iterations: u32,
    /// Level for the net's include and exclude rules
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub level: i32,
    /// Stages for the net's include and exclude rules
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub stage: Vec<String>,
    /// CPU threads [default: the cores this process may use]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Plain computations only, for bit-comparisons
    #[arg(long)]
    pub exact: bool,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// A net and where its records come from.
pub struct Model {
    /// The net.
    pub net: Net,
    source: Source,
    batches: Vec<Batch>,
}

impl ModelArgs {
    /// Reads and builds the net, for passes up to `last`; on a device it has the memory for them.
    ///
    /// # Errors
    /// Wrong flags, files that cannot be read, a net that cannot be built, data that are not there, a
    /// device with less memory than the net needs.
    pub fn build(&self, phase: Phase, last: Pass, log: &Log) -> Result<Model> {
        self.build_with(phase, last, false, log)
    }

    /// [`ModelArgs::build`] for whoever reads blobs in the middle of the net, after forward passes.
    ///
    /// # Errors
    /// As `build`.
    pub fn build_keeping_all(&self, phase: Phase, log: &Log) -> Result<Model> {
        self.build_with(phase, Pass::Forward, true, log)
    }

    fn build_with(&self, phase: Phase, last: Pass, keep_all: bool, log: &Log) -> Result<Model> {
        ensure!(self.iterations > 0, "-iterations must be at least 1");
        let cuda = self.device(log)?;
        let plan = self.plan(phase, log)?;
        let options = NetOptions {
            state: plan.state.clone(),
            seed: SEED,
            threads: self.threads.map_or_else(host::own_cores, usize::from),
            exact: self.exact,
            keep_all,
            cuda,
            cpu_fallback: self.gpu.allow_cpu_fallback,
            ..NetOptions::new(phase)
        };
        let raw = options.cuda.is_some();
        let reading = Reading { threads: options.threads, raw, ..Reading::new(SEED) };
        if let Some(device) = &options.cuda {
            let forecast = Forecast::of_net(&plan, &options, last)?;
            log.info("caffe.cpp:276", format!("The net needs {forecast} of its device"));
            forecast.reserve(device)?;
        }
        let net = Net::new(&plan.param, &plan.origin, &options)?;
        let layers = DataLayers::of(&plan)?;
        if raw {
            layers.forms(SEED).into_iter().for_each(|form| log.info("caffe.cpp:276", form));
        }
        let source = layers.open(reading)?;
        Ok(Model { net, source, batches: Vec::new() })
    }

    /// The device, opened; of several the first, as in Caffe.
    fn device(&self, log: &Log) -> Result<Option<CudaDevice>> {
        let choices = self.gpu.choices()?;
        let Some(choice) = choices.first() else {
            log.info("caffe.cpp:281", "Use CPU.");
            return Ok(None);
        };
        let device = choice.open(self.exact)?;
        log.info("caffe.cpp:276", format!("Use {device:?}"));
        Ok(Some(device))
    }

    /// What it computes on, in words.
    pub fn machine(&self) -> String {
        if let Ok([choice, ..]) = self.gpu.choices().as_deref() {
            return choice.to_string();
        }
        let threads = self.threads.map_or_else(host::own_cores, usize::from);
        format!("{}, {threads} thread(s)", host::processor())
    }

    /// Reads the net.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn plan(&self, phase: Phase, log: &Log) -> Result<NetPlan> {
        let file = net_from_file(&self.model)?;
        for change in &file.changes {
            log.info("upgrade_proto.cpp:66", format!("{}: {change}", self.model.display()));
        }
        let lines = (0..file.net.layer.len()).map(|i| file.line(i).unwrap_or(0)).collect();
        let mut state = file.net.state.clone().unwrap_or_default();
        state.phase = Some(phase as i32);
        if self.level != 0 {
            state.level = Some(self.level);
        }
        state.stage.extend(self.stage.iter().cloned());
        let origin = Origin { file: self.model.display().to_string(), lines };
        Ok(NetPlan { param: file.net, origin, state })
    }
}

impl Model {
    /// Copies weights, by layer name, from these files, the last one winning; tells what did not
    /// find its counterpart.
    ///
    /// # Errors
    /// Files that cannot be read, or shapes that differ.
    pub fn load(&mut self, weights: &[PathBuf], log: &Log) -> Result<()> {
        let mut missing: Vec<String> = self.layers_with_weights();
        for path in weights {
            let report = copy_weights(&mut self.net, path)?;
            for name in &report.ignored {
                log.info("net.cpp:744", format!("Ignoring source layer {name}"));
            }
            missing.retain(|name| !report.copied.contains(name));
        }
        for name in missing {
            let text =
                format!("layer `{name}` is in no weights file and keeps its filler's values");
            log.warning("net.cpp:744", text);
        }
        Ok(())
    }

    /// Hands the data layers their batches number `index`, and makes that the step of what is drawn
    /// at random.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn feed(&mut self, index: u64) -> Result<()> {
        self.source.fill(index, &mut self.batches)?;
        self.net.set_step(Step { iter: index, first_record: 0 });
        self.net.feed(&mut self.batches)
    }

    /// Names of the layers with parameters.
    pub fn layers_with_weights(&self) -> Vec<String> {
        let own = self.net.layers().iter().filter(|node| !node.params.is_empty());
        own.map(|node| node.name().to_owned()).collect()
    }
}
