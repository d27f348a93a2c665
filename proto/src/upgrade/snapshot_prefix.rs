//! A `snapshot_prefix` that is missing or names a folder: the solver file's own name is used.

use std::path::Path;

use super::Change;
use crate::SolverParameter;

/// For `dir/lenet_solver.prototxt`, a missing prefix becomes `dir/lenet_solver`, and a prefix that
/// is the folder `out` becomes `out/lenet_solver`.
pub(crate) fn settle(solver: &mut SolverParameter, file: &Path) -> Option<Change> {
    let prefix = match &solver.snapshot_prefix {
        None => file.with_extension(""),
        Some(folder) if Path::new(folder).is_dir() => Path::new(folder).join(file.file_stem()?),
        Some(_) => return None,
    };
    let prefix = prefix.to_string_lossy().into_owned();
    solver.snapshot_prefix = Some(prefix.clone());
    Some(Change::SnapshotPrefix { prefix })
}
