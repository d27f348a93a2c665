//! The command line: `caffe train | test | time | …`, one file per command.
//!
//! A command is a struct of arguments with a `run` method; what it does is in the library. Words go
//! through four stages: [`original_names`] takes the program's own name for a command where it is that
//! of one of Caffe's tools, [`spelling`] brings Caffe's ways of writing flags into one, clap fills the
//! structs, and `complaints` turns clap's refusals into the one line every error gets: a glog E-line
//! on standard error, and exit code 1.
//!
//! Results (`layers`, `device_query`) go to standard output, all else to the log. A reader that
//! closes the pipe (`| head`) has seen enough: that is no error.

mod blackbox;
mod classification;
mod complaints;
mod compute_image_mean;
mod convert_cifar_data;
mod convert_imageset;
mod convert_mnist_data;
mod convert_mnist_siamese_data;
mod db;
mod device_query;
mod doctor;
mod emulated;
mod export;
mod extract_features;
mod generate_data;
mod gpu;
mod host;
mod import;
mod layers;
mod model;
mod net;
pub mod original_names;
mod parse_log;
mod plan;
mod plot;
pub mod spelling;
mod test;
mod time;
mod trace;
mod train;
mod upgrade_proto;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::device::cpu::threads::{Waiting, set_openmp_defaults};
use crate::log::Log;
use crate::{Error, Result};

pub use train::TrainArgs;

const ABOUT: &str = "Caffe-MPI in Rust: trains Caffe models, asynchronously, on one node or many";

const AFTER: &str = "\
Flags are written as in Caffe: -solver x, -solver=x, --solver x and --solver=x are the same, and so
are --trace-layers and --trace_layers. The log goes to standard error.

Examples:
  caffe train -solver solver.prototxt
  mpirun -n 4 caffe train --solver=solver.prototxt --mode=sync
  caffe test -model net.prototxt -weights net.caffemodel -iterations 100
  caffe train --help";

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "caffe",
    version = VERSION,
    about = ABOUT,
    after_help = AFTER,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[cfg(feature = "mpi")]
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (Caffe-MPI in Rust, with MPI)");
#[cfg(not(feature = "mpi"))]
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (Caffe-MPI in Rust, without MPI)");

#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
enum Command {
    Train(Box<TrainArgs>),
    Test(test::TestArgs),
    Time(time::TimeArgs),
    Plan(plan::PlanArgs),
    DeviceQuery(device_query::DeviceQueryArgs),
    Doctor(doctor::DoctorArgs),
    Layers(layers::LayersArgs),
    ConvertImageset(Box<convert_imageset::ConvertImagesetArgs>),
    ConvertCifarData(convert_cifar_data::ConvertCifarArgs),
    ConvertMnistData(convert_mnist_data::ConvertMnistArgs),
    ConvertMnistSiameseData(convert_mnist_siamese_data::ConvertSiameseArgs),
    ComputeImageMean(compute_image_mean::ComputeMeanArgs),
    ExtractFeatures(extract_features::ExtractArgs),
    Classification(classification::ClassificationArgs),
    Net(net::NetArgs),
    ParseLog(parse_log::ParseLogArgs),
    Blackbox(blackbox::BlackboxArgs),
    Plot(plot::PlotArgs),
    Trace(trace::TraceArgs),
    Db(db::DbArgs),
    GenerateData(generate_data::GenerateArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    UpgradeNetProtoText(upgrade_proto::NetTextArgs),
    UpgradeNetProtoBinary(upgrade_proto::NetBinaryArgs),
    UpgradeSolverProtoText(upgrade_proto::SolverTextArgs),
}

/// The program: reads the process's arguments, does what they say, tells errors.
///
/// To be called first thing in `main`, while the process has a single thread.
pub fn main() -> ExitCode {
    // Readers, communicator and other processes share the cores with the team, and a spinning
    // thread takes the core from one that has work.
    set_openmp_defaults(Waiting::Sleep);
    let log = Log::new();
    let words = arguments(std::env::args_os());
    match words.and_then(|words| run(words, &log)) {
        Ok(code) => code,
        Err(error) => {
            log.error(concat!("cmd.rs:", line!()), error);
            ExitCode::FAILURE
        }
    }
}

/// The words behind the program's name, which is one of them itself where it is that of a tool.
fn arguments(mut words: impl Iterator<Item = OsString>) -> Result<Vec<OsString>> {
    let program = words.next().unwrap_or_default();
    original_names::refuse_deprecated(&program)?;
    let command = original_names::command_of(&program);
    Ok(command.map(OsString::from).into_iter().chain(words).collect())
}

/// Does what `args` (without the program's name) say.
///
/// # Errors
/// Wrong arguments, and everything the command reports.
fn run(args: Vec<OsString>, log: &Log) -> Result<ExitCode> {
    let mut cli = Cli::command();
    cli.build();
    if args.is_empty() {
        let help = cli.render_help().to_string();
        // Not an answer to a question, hence not on standard output.
        let _ = std::io::stderr().lock().write_all(help.as_bytes());
        return Ok(ExitCode::FAILURE);
    }
    let args = spelling::normalise(&cli, args)?;
    let command = args.get(1).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parsed = cli.clone().try_get_matches_from(args).and_then(|matches| {
        let parsed = Cli::from_arg_matches(&matches);
        parsed.map(|cli| cli.command)
    });
    match parsed {
        Ok(command) => return command.run(log),
        Err(refusal) if !refusal.use_stderr() => print(&refusal.render().to_string())?,
        Err(refusal) => return Err(Error::Invalid(complaints::explain(&command, &refusal))),
    }
    Ok(ExitCode::SUCCESS)
}

impl Command {
    fn run(self, log: &Log) -> Result<ExitCode> {
        match self {
            Command::Train(args) => args.run(log),
            Command::Test(args) => args.run(log),
            Command::Time(args) => args.run(log),
            Command::Plan(args) => args.run(log),
            Command::DeviceQuery(args) => args.run(),
            Command::Doctor(args) => return args.run(),
            Command::Layers(args) => args.run(),
            Command::ConvertImageset(args) => args.run(log),
            Command::ConvertCifarData(args) => args.run(log),
            Command::ConvertMnistData(args) => args.run(log),
            Command::ConvertMnistSiameseData(args) => args.run(log),
            Command::ComputeImageMean(args) => args.run(log),
            Command::ExtractFeatures(args) => args.run(log),
            Command::Classification(args) => args.run(log),
            Command::Net(args) => args.run(log),
            Command::ParseLog(args) => args.run(log),
            Command::Blackbox(args) => args.run(),
            Command::Plot(args) => args.run(log),
            Command::Trace(args) => args.run(log),
            Command::Db(args) => args.run(log),
            Command::GenerateData(args) => args.run(log),
            Command::Export(args) => args.run(log),
            Command::Import(args) => args.run(log),
            Command::UpgradeNetProtoText(args) => args.run(log),
            Command::UpgradeNetProtoBinary(args) => args.run(log),
            Command::UpgradeSolverProtoText(args) => args.run(log),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a result to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Invalid(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_in_the_definitions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_says_what_it_is_for() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("caffe "), "{} has no example", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}
