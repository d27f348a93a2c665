//! `caffe upgrade_net_proto_text`, `upgrade_net_proto_binary`, `upgrade_solver_proto_text`: a file
//! of an older Caffe, written again in today's form.

use std::path::{Path, PathBuf};

use caffe_proto::prost::Name;
use caffe_proto::upgrade::{Change, upgrade_solver};
use caffe_proto::{
    FileError, NetParameter, SolverParameter, model_from_file, net_from_file, read_text_file,
    write_binary_file_atomic, write_text_file_atomic,
};

use crate::log::Log;
use crate::{Error, Result};

const NET_TEXT: &str = "\
Examples:
  caffe upgrade_net_proto_text old_train_val.prototxt train_val.prototxt";

const NET_BINARY: &str = "\
Examples:
  caffe upgrade_net_proto_binary old.caffemodel new.caffemodel";

const SOLVER_TEXT: &str = "\
Examples:
  caffe upgrade_solver_proto_text old_solver.prototxt solver.prototxt";

/// Write a net's prototxt of an older Caffe in today's form
#[derive(Debug, clap::Args)]
#[command(after_help = NET_TEXT)]
pub struct NetTextArgs {
    /// The old net
    #[arg(value_name = "NET_PROTO_FILE_IN")]
    input: PathBuf,
    /// The new net
    #[arg(value_name = "NET_PROTO_FILE_OUT")]
    output: PathBuf,
}

/// Write a .caffemodel of an older Caffe in today's form
#[derive(Debug, clap::Args)]
#[command(after_help = NET_BINARY)]
pub struct NetBinaryArgs {
    /// The old model
    #[arg(value_name = "NET_PROTO_FILE_IN")]
    input: PathBuf,
    /// The new model
    #[arg(value_name = "NET_PROTO_FILE_OUT")]
    output: PathBuf,
}

/// Write a solver's prototxt of an older Caffe in today's form
#[derive(Debug, clap::Args)]
#[command(after_help = SOLVER_TEXT)]
pub struct SolverTextArgs {
    /// The old solver
    #[arg(value_name = "SOLVER_PROTO_FILE_IN")]
    input: PathBuf,
    /// The new solver
    #[arg(value_name = "SOLVER_PROTO_FILE_OUT")]
    output: PathBuf,
}

impl NetTextArgs {
    /// Upgrades.
    ///
    /// # Errors
    /// An input that is no net or cannot be upgraded, an output that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let file =
            net_from_file(&self.input).map_err(|e| failed("text", NetParameter::NAME, &e))?;
        tell(log, TEXT, &self.input, &file.changes);
        write_text_file_atomic(&self.output, &file.net)?;
        wrote(log, TEXT, "NetParameter text", &self.output);
        Ok(())
    }
}

impl NetBinaryArgs {
    /// Upgrades.
    ///
    /// # Errors
    /// An input that is no model or cannot be upgraded, an output that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let (net, changes) =
            model_from_file(&self.input).map_err(|e| failed("binary", NetParameter::NAME, &e))?;
        tell(log, BINARY, &self.input, &changes);
        write_binary_file_atomic(&self.output, &net)?;
        wrote(log, BINARY, "NetParameter binary", &self.output);
        Ok(())
    }
}

impl SolverTextArgs {
    /// Upgrades.
    ///
    /// # Errors
    /// An input that is no solver or cannot be upgraded, an output that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let name = SolverParameter::NAME;
        let mut solver: SolverParameter =
            read_text_file(&self.input).map_err(|e| failed("text", name, &e))?;
        let changes = upgrade_solver(&mut solver).map_err(|source| {
            let error = FileError::Upgrade { path: self.input.clone(), line: None, source };
            failed("text", name, &error)
        })?;
        tell(log, SOLVER, &self.input, &changes);
        write_text_file_atomic(&self.output, &solver)?;
        wrote(log, SOLVER, "SolverParameter text", &self.output);
        Ok(())
    }
}

/// The originals' source files, which their log lines name.
const TEXT: &str = "upgrade_net_proto_text.cpp";
const BINARY: &str = "upgrade_net_proto_binary.cpp";
const SOLVER: &str = "upgrade_solver_proto_text.cpp";

fn failed(kind: &str, message: &str, error: &FileError) -> Error {
    Error::Invalid(format!("Failed to parse input {kind} file as {message}: {error}"))
}

/// Says what was changed, or that nothing was.
fn tell(log: &Log, place: &str, input: &Path, changes: &[Change]) {
    for change in changes {
        log.info(&format!("{place}:37"), format!("{}: {change}", input.display()));
    }
    let seen_only = |change: &Change| matches!(change, Change::TransformFieldsIgnored { .. });
    if changes.iter().all(seen_only) {
        let text = format!("File already in latest proto format: {}", input.display());
        log.error(&format!("{place}:44"), text);
    }
}

fn wrote(log: &Log, place: &str, what: &str, output: &Path) {
    let text = format!("Wrote upgraded {what} proto to {}", output.display());
    log.info(&format!("{place}:49"), text);
}
