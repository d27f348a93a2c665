//! `caffe time`: how long each layer of a net takes.

use std::rc::Rc;
use std::time::{Duration, Instant};

use caffe_proto::Phase;
use clap::ValueEnum;

use super::model::{Model, ModelArgs};
use crate::Result;
use crate::device::cuda::backend::Backend;
use crate::log::{G, Log};
use crate::net::{Net, Pass, Unwatched, Watch};
use crate::params::ParamArena;
use crate::tools::cost::{Cost, cost};
use crate::tools::profile::{LayerTime, Profile, own_parameters};

const EXAMPLES: &str = "\
Examples:
  caffe time -model train_val.prototxt
  caffe time -model train_val.prototxt -phase TEST -iterations 10
  caffe time -model deploy.prototxt --threads=1
  caffe time -model train_val.prototxt --profile=layers.json

Data layers take one batch from their database, before the clock starts. A GPU is waited for after each
layer; `Average Forward-Backward` is that of passes as training makes them, with one wait for each.";

/// Time a net's layers, forward and backward
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TimeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Phase of the net
    #[arg(long, value_enum, default_value_t = PhaseArg::Train, ignore_case = true)]
    phase: PhaseArg,
    /// Trained weights, one .caffemodel or several; left out: the fillers' values
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    weights: Vec<std::path::PathBuf>,
    /// Write the layers' times into this file, for --device=emulated:FILE and `caffe plan`
    #[arg(long, value_name = "FILE")]
    profile: Option<std::path::PathBuf>,
}

/// `-phase`.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(super) enum PhaseArg {
    /// The training net.
    Train,
    /// The test net.
    Test,
}

impl From<PhaseArg> for Phase {
    fn from(phase: PhaseArg) -> Phase {
        match phase {
            PhaseArg::Train => Phase::Train,
            PhaseArg::Test => Phase::Test,
        }
    }
}

impl TimeArgs {
    /// Runs the benchmark.
    ///
    /// # Errors
    /// Anything wrong with flags, files, net or data.
    pub fn run(self, log: &Log) -> Result<()> {
        let mut model = self.model.build(self.phase.into(), Pass::Backward, log)?;
        if !self.weights.is_empty() {
            model.load(&self.weights, log)?;
        }
        model.feed(0)?;
        log.info("caffe.cpp:360", "Performing Forward");
        log.info("caffe.cpp:365", format!("Initial loss: {}", G(model.net.forward()?)));
        log.info("caffe.cpp:366", "Performing Backward");
        model.net.backward()?;
        log.info("caffe.cpp:374", "*** Benchmark begins ***");
        let iterations = self.model.iterations;
        log.info("caffe.cpp:375", format!("Testing for {iterations} iterations."));
        let clock = measure(&mut model, iterations, log)?;
        clock.report(&model, iterations, log);
        if let Some(about) = model.net.about_graphs() {
            log.info("time.rs:226", format!("Forward-Backward: {about}"));
        }
        if let Some(path) = &self.profile {
            clock.profile(&model.net, iterations, self.model.machine()).write(path)?;
        }
        log.info("caffe.cpp:424", "*** Benchmark ends ***");
        Ok(())
    }
}

/// What was measured, summed over the iterations.
pub(super) struct Clock {
    begun: Instant,
    /// What computes, where layers are only asked for: it is waited for after each.
    device: Option<Rc<dyn Backend>>,
    /// Of each layer, forward and backward.
    layers: [Vec<Duration>; 2],
    /// Of all layers, forward and backward, and of both with what lies between.
    passes: [Duration; 2],
    total: Duration,
}

fn index(pass: Pass) -> usize {
    match pass {
        Pass::Forward => 0,
        Pass::Backward => 1,
    }
}

impl Watch for Clock {
    fn before(&mut self, _pass: Pass, _layer: usize) {
        self.begun = Instant::now();
    }

    fn after(&mut self, pass: Pass, layer: usize, _params: &mut ParamArena) -> Result<()> {
        if let Some(device) = &self.device {
            device.finish()?;
        }
        // In the backward pass a layer without work has no `before`: what passes is next to nothing.
        self.layers[index(pass)][layer] += self.begun.elapsed();
        self.begun = Instant::now();
        Ok(())
    }
}

pub(super) fn measure(model: &mut Model, iterations: u32, log: &Log) -> Result<Clock> {
    let net = &mut model.net;
    let none = vec![Duration::ZERO; net.layers().len()];
    let device = net.run().cuda().map(|cuda| cuda.device.clone());
    let mut clock = Clock {
        begun: Instant::now(),
        device,
        layers: [none.clone(), none],
        passes: Default::default(),
        total: Duration::ZERO,
    };
    for iteration in 0..iterations {
        // Gradients add up; without this they would grow from iteration to iteration.
        net.clear_param_diffs();
        let begun = Instant::now();
        net.forward_watched(&mut clock)?;
        let between = Instant::now();
        net.backward_watched(&mut clock)?;
        let end = Instant::now();
        clock.passes[0] += between - begun;
        clock.passes[1] += end - between;
        clock.total += end - begun;
        let text = format!(
            "Iteration: {} forward-backward time: {} ms.",
            iteration + 1,
            ms(end - begun, 1)
        );
        log.info("caffe.cpp:403", text);
    }
    if clock.device.is_some() {
        clock.total = whole(net, iterations)?;
    }
    Ok(clock)
}

/// Passes before a device's time is taken: what repeats has become a graph by then.
const WARM: u32 = 4;

/// The time of passes that a device is asked for as in training, with one wait for each.
fn whole(net: &mut Net, iterations: u32) -> Result<Duration> {
    net.set_graphs(true);
    let mut begun = Instant::now();
    for iteration in 0..WARM + iterations {
        if iteration == WARM {
            begun = Instant::now();
        }
        net.clear_param_diffs();
        net.pass_watched(&mut Unwatched)?;
        net.ask_report()?;
        net.see_loss()?;
        if let Some(cuda) = net.run().cuda() {
            cuda.device.finish()?;
        }
    }
    Ok(begun.elapsed())
}

/// Mean milliseconds.
fn ms(sum: Duration, of: u32) -> G {
    G((sum.as_secs_f64() * 1e3 / f64::from(of)) as f32)
}

impl Clock {
    /// The layers' mean times.
    pub(super) fn profile(&self, net: &Net, n: u32, machine: String) -> Profile {
        let mean = |sum: Duration| 1e3 * sum.as_secs_f64() / f64::from(n);
        let layers = net.layers().iter().enumerate().map(|(index, node)| LayerTime {
            name: node.name().to_owned(),
            forward_ms: mean(self.layers[0][index]),
            backward_ms: mean(self.layers[1][index]),
            parameters: own_parameters(net, index),
        });
        Profile { net: net.name().to_owned(), machine, layers: layers.collect() }
    }

    fn report(&self, model: &Model, n: u32, log: &Log) {
        log.info("caffe.cpp:406", "Average time per layer: ");
        for (i, node) in model.net.layers().iter().enumerate() {
            for (pass, place) in [("forward", "caffe.cpp:409"), ("backward", "caffe.cpp:412")] {
                let sum = self.layers[usize::from(pass == "backward")][i];
                log.info(place, format!("{:>10}\t{pass}: {} ms.", node.name(), ms(sum, n)));
            }
        }
        self.rates(model, n, log);
        let [forward, backward] = self.passes;
        log.info("caffe.cpp:417", format!("Average Forward pass: {} ms.", ms(forward, n)));
        log.info("caffe.cpp:419", format!("Average Backward pass: {} ms.", ms(backward, n)));
        log.info("caffe.cpp:421", format!("Average Forward-Backward: {} ms.", ms(self.total, n)));
        log.info("caffe.cpp:423", format!("Total Time: {} ms.", ms(self.total, 1)));
    }

    /// What each layer makes of the machine. Lines of our own: Caffe's stay as parsers know them.
    fn rates(&self, model: &Model, n: u32, log: &Log) {
        let place = concat!("time.rs:", line!());
        log.info(place, "Average rates per layer (operations of the definition, ideal cache): ");
        for (i, node) in model.net.layers().iter().enumerate() {
            for (name, pass) in [("forward", Pass::Forward), ("backward", Pass::Backward)] {
                let Cost { flops, bytes } = cost(&model.net, i, pass);
                let seconds = self.layers[index(pass)][i].as_secs_f64() / f64::from(n);
                if (flops, bytes) != (0, 0) && seconds > 0.0 {
                    let rate = |work: u64| G((work as f64 / seconds / 1e9) as f32);
                    let (flops, bytes) = (rate(flops), rate(bytes));
                    let text =
                        format!("{:>10}\t{name}: {flops} GFLOP/s, {bytes} GB/s", node.name());
                    log.info(place, text);
                }
            }
        }
    }
}
