//! Nets, models and solvers from their files, brought into today's form.

use std::path::{Path, PathBuf};

use crate::{
    NetParameter, SolverParameter,
    files::{FileError, read_binary_file, read_text},
    text::{self, LayerLines},
    upgrade::{self, Change},
};

/// A net as read from a prototxt file.
#[derive(Debug, Clone)]
pub struct NetFile {
    /// The net in today's form: all layers in `layer`.
    pub net: NetParameter,
    /// The file.
    pub path: PathBuf,
    /// What had to be changed, for the log.
    pub changes: Vec<Change>,
    lines: LayerLines,
}

impl NetFile {
    /// The line of the file on which layer `index` of `net` begins, from 1.
    pub fn line(&self, index: usize) -> Option<usize> {
        self.lines.get(index)
    }

    /// Where layer `index` of `net` stands, like `lenet.prototxt:12`, to begin an error with.
    pub fn place(&self, index: usize) -> String {
        match self.line(index) {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }
}

/// A solver as read from a prototxt file.
#[derive(Debug, Clone)]
pub struct SolverFile {
    /// The solver in today's form: its rule in `type`, its snapshots' prefix set. Paths of nets
    /// are as written, relative to the working directory of the program.
    pub solver: SolverParameter,
    /// The file.
    pub path: PathBuf,
    /// What had to be changed, for the log.
    pub changes: Vec<Change>,
}

/// Reads and upgrades a net from prototxt.
///
/// # Errors
/// All faults of the file and its text with their place, and old forms that cannot be upgraded.
pub fn net_from_file(path: impl AsRef<Path>) -> Result<NetFile, FileError> {
    let path = path.as_ref().to_owned();
    let text = read_text(&path)?;
    let mut net: NetParameter = text::parse(&path.display().to_string(), &text)?;
    let mut lines = LayerLines::scan(&text);
    let changes = upgrade::upgrade_net(&mut net).map_err(|source| {
        let line = source.layer_index().and_then(|index| lines.get(index));
        FileError::Upgrade { path: path.clone(), line, source }
    })?;
    for change in &changes {
        match change {
            Change::V0Layers { padding, .. } => lines.remove(padding),
            Change::NetInput { .. } => lines.prepend_input(),
            _ => {}
        }
    }
    Ok(NetFile { net, path, changes, lines })
}

/// Reads and upgrades a model: a net with its weights from a binary file (`.caffemodel`).
///
/// # Errors
/// All faults of the file, and old forms that cannot be upgraded.
pub fn model_from_file(path: impl AsRef<Path>) -> Result<(NetParameter, Vec<Change>), FileError> {
    let path = path.as_ref();
    let mut net: NetParameter = read_binary_file(path)?;
    match upgrade::upgrade_net(&mut net) {
        Ok(changes) => Ok((net, changes)),
        Err(source) => Err(FileError::Upgrade { path: path.to_owned(), line: None, source }),
    }
}

/// Reads and upgrades a solver from prototxt, with the nets written inside it.
///
/// # Errors
/// All faults of the file and its text with their place, and old forms that cannot be upgraded.
pub fn solver_from_file(path: impl AsRef<Path>) -> Result<SolverFile, FileError> {
    let path = path.as_ref().to_owned();
    let text = read_text(&path)?;
    let mut solver: SolverParameter = text::parse(&path.display().to_string(), &text)?;
    let mut changes = upgrade::upgrade_solver(&mut solver)
        .map_err(|source| FileError::Upgrade { path: path.clone(), line: None, source })?;
    changes.extend(upgrade::settle_snapshot_prefix(&mut solver, &path));
    Ok(SolverFile { solver, path, changes })
}
