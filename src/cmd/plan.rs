//! `caffe plan`: what a job of many nodes would do, before there is one. Measures or reads what the
//! model in [`crate::tools::plan`] starts from, and prints what it says.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use caffe_actors::launched;
use caffe_proto::Phase;
use serde::Serialize;

use super::emulated;
use super::model::ModelArgs;
use super::print;
use super::time;
use super::train::{Device, device};
use crate::log::Log;
use crate::net::Pass;
use crate::tools::plan::{Bucket, Inputs, Mode, Prediction};
use crate::trainer::{Blueprint, Link, measure_link};
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  caffe plan -model train_val.prototxt --link=latency=1.5us,bandwidth=56Gb/s --workers=4
  caffe plan -model train_val.prototxt --device=emulated:layers.json --link=bandwidth=10Gb/s --json
  mpirun -n 2 --map-by node caffe plan -model train_val.prototxt

Takes at most about 20 s. Compute is the net's own, measured here on its data, or with
--device=emulated what such a device would take (`caffe train --help` says how to write it). The link
is measured where mpirun has started several ranks.";

/// Longest time for which the net is timed.
const COMPUTE: Duration = Duration::from_secs(8);
/// Floats of the arrays whose copying tells the memory's speed: larger than caches.
const COPIED: usize = 16 << 20;
const COPIES: usize = 8;
/// Latency that is assumed where there is no network to measure.
const ASSUMED: Duration = Duration::from_micros(5);

/// Predict speed and efficiency of a net on 1 to 512 nodes, in every mode
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Whose compute times: cpu, measured here, or emulated:FILE,total=310ms,jitter=2%
    #[arg(long, value_name = "DEVICE", value_parser = device, default_value = "cpu")]
    device: Device,
    /// The link between nodes: latency=1.5us,bandwidth=56Gb/s [default: measured]
    #[arg(long, value_name = "LINK", value_parser = emulated::link)]
    link: Option<Link>,
    /// Bytes per second that a node's memory moves, such as 20GB/s [default: measured]
    #[arg(long, value_name = "RATE", value_parser = emulated::bandwidth)]
    memory: Option<f64>,
    /// Replicas on each node
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    /// Numbers of nodes
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    #[arg(default_value = "1,2,4,8,16,32,64,128,256,512")]
    nodes: Vec<u32>,
    /// In ssp: by how many iterations replicas may be apart
    #[arg(long, value_name = "S", default_value_t = 3)]
    staleness: u64,
    /// In local-sgd: iterations from one average of the nodes' weights to the next
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    exchange_every: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is printed.
#[derive(Serialize)]
struct Plan {
    net: String,
    compute: String,
    link: String,
    latency_us: f64,
    /// `null` where the link that was given has no limit.
    bandwidth_gb_s: f64,
    memory: String,
    memory_gb_s: f64,
    compute_ms: f64,
    gradient_mb: f64,
    buckets: usize,
    workers: usize,
    modes: Vec<ModePlan>,
}

#[derive(Serialize)]
struct ModePlan {
    mode: String,
    predictions: Vec<Prediction>,
}

impl PlanArgs {
    /// Measures, computes, prints.
    ///
    /// # Errors
    /// Wrong flags, a net that cannot be built, a link that cannot be measured.
    pub fn run(self, log: &Log) -> Result<()> {
        let rank = launched().map_or(0, |(rank, _)| rank);
        if self.link.is_some() && rank != 0 {
            // Nothing is measured together, and one rank prints.
            return Ok(());
        }
        let blueprint = self.blueprint(log)?;
        let (memory, memory_text) = match self.memory {
            Some(rate) => (rate, format!("{:.1} GB/s, as given", rate / 1e9)),
            None => {
                let rate = memory_rate();
                (rate, format!("{:.1} GB/s, measured here by copying", rate / 1e9))
            }
        };
        let Some((link, link_text)) = self.link(memory)? else { return Ok(()) };
        let inputs = self.inputs(&blueprint, &link, memory);
        let plan = self.plan(&blueprint, &inputs, link_text, memory_text);
        if !self.json {
            return print(&table(&plan));
        }
        match serde_json::to_string_pretty(&plan) {
            Ok(text) => print(&(text + "\n")),
            Err(e) => Err(Error::Invalid(format!("cannot write the plan as JSON: {e}"))),
        }
    }

    /// The link and where it is from; `None` on ranks that have nothing to print.
    fn link(&self, memory: f64) -> Result<Option<(Link, String)>> {
        if let Some(link) = &self.link {
            return Ok(Some((link.clone(), format!("{link}, as given"))));
        }
        let measured = measure_link().map_err(Error::Invalid)?;
        if measured.rank != 0 {
            return Ok(None);
        }
        if let Some(link) = measured.link {
            let text = format!("{link}, measured between {} ranks", measured.nodes);
            return Ok(Some((link, text)));
        }
        let link = Link { latency: ASSUMED, bandwidth: memory / 2.0, ..Link::default() };
        let text = format!(
            "{link}, which is this host's memory: there is no other rank to measure; give --link or \
             start with mpirun"
        );
        Ok(Some((link, text)))
    }

    fn blueprint(&self, log: &Log) -> Result<Blueprint> {
        if let Some(spec) = &self.device.0 {
            return Blueprint::new(&self.model.plan(Phase::Train, log)?, spec);
        }
        let mut model = self.model.build(Phase::Train, Pass::Backward, log)?;
        model.feed(0)?;
        // The first pass makes what later ones find made.
        time::measure(&mut model, 1, &Log::quiet())?;
        let begun = Instant::now();
        time::measure(&mut model, 1, &Log::quiet())?;
        let fit = COMPUTE.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-6);
        let times = (fit as u32).clamp(1, self.model.iterations);
        let clock = time::measure(&mut model, times, &Log::quiet())?;
        Blueprint::of(&model.net, &clock.profile(&model.net, times, self.model.machine()))
    }

    fn inputs(&self, blueprint: &Blueprint, link: &Link, memory: f64) -> Inputs {
        let buckets = blueprint.buckets.iter().zip(&blueprint.ready);
        let bytes = |range: &std::ops::Range<usize>| (range.len() * size_of::<f32>()) as f64;
        Inputs {
            buckets: buckets.map(|(b, ready)| Bucket { ready: *ready, bytes: bytes(b) }).collect(),
            compute: blueprint.total,
            jitter: self.device.0.as_ref().map_or(0.0, |spec| spec.jitter),
            workers: self.workers.into(),
            latency: link.latency.as_secs_f64(),
            bandwidth: link.bandwidth,
            memory,
        }
    }

    fn plan(&self, blueprint: &Blueprint, inputs: &Inputs, link: String, memory: String) -> Plan {
        let modes = [
            ("sync".to_owned(), Mode::Sync),
            ("hogwild".to_owned(), Mode::Hogwild),
            (format!("ssp (staleness {})", self.staleness), Mode::Ssp(self.staleness)),
            (
                format!("local-sgd (exchange every {})", self.exchange_every),
                Mode::LocalSgd(self.exchange_every),
            ),
        ];
        let predict = |mode| self.nodes.iter().map(|&n| inputs.predict(mode, n as usize)).collect();
        Plan {
            net: blueprint.net.clone(),
            compute: blueprint.source.clone(),
            link,
            latency_us: 1e6 * inputs.latency,
            bandwidth_gb_s: 1e-9 * inputs.bandwidth,
            memory,
            memory_gb_s: 1e-9 * inputs.memory,
            compute_ms: 1e3 * inputs.compute,
            gradient_mb: 1e-6 * blueprint.bytes() as f64,
            buckets: inputs.buckets.len(),
            workers: inputs.workers,
            modes: modes
                .into_iter()
                .map(|(mode, m)| ModePlan { mode, predictions: predict(m) })
                .collect(),
        }
    }
}

/// Bytes read and written per second while one thread copies.
fn memory_rate() -> f64 {
    let from = vec![1.0f32; COPIED];
    let mut to = vec![0.0f32; COPIED];
    let mut fastest = f64::INFINITY;
    for _ in 0..COPIES {
        let begun = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        fastest = fastest.min(begun.elapsed().as_secs_f64());
    }
    2.0 * size_of_val(&from[..]) as f64 / fastest
}

fn table(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "net {}: {:.1} ms an iteration ({}), {:.1} MB of gradients in {} buckets, {} replica(s) a \
         node\nlink: {}\nmemory: {}",
        plan.net,
        plan.compute_ms,
        plan.compute,
        plan.gradient_mb,
        plan.buckets,
        plan.workers,
        plan.link,
        plan.memory
    );
    for mode in &plan.modes {
        let _ = writeln!(
            out,
            "\n{}\n{:>7} {:>8} {:>12} {:>10} {:>8} {:>9} {:>10}",
            mode.mode,
            "nodes",
            "replicas",
            "iteration ms",
            "exposed ms",
            "host ms",
            "speed-up",
            "efficiency"
        );
        for p in &mode.predictions {
            let _ = writeln!(
                out,
                "{:>7} {:>8} {:>12.1} {:>10.1} {:>8.1} {:>9.2} {:>8.1} %",
                p.nodes,
                p.replicas,
                1e3 * p.iteration,
                1e3 * p.exposed,
                1e3 * p.host,
                p.speedup,
                100.0 * p.efficiency
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_and_emulated_link_use_the_same_formulas() {
        let link = emulated::link("latency=3us,bandwidth=10Gb/s").unwrap();
        let inputs = Inputs {
            buckets: Vec::new(),
            compute: 1.0,
            jitter: 0.0,
            workers: 1,
            latency: link.latency.as_secs_f64(),
            bandwidth: link.bandwidth,
            memory: f64::INFINITY,
        };
        for nodes in [1, 2, 3, 16, 100] {
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
            assert!(near(inputs.sum_time(1e6, nodes), link.sum(1_000_000, nodes)));
            assert!(near(inputs.header_time(nodes), link.header(nodes)));
        }
    }
}
