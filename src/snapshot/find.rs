//! Which snapshots lie under a prefix, and which of them are whole.
//!
//! A snapshot is whole when its sidecar is (a checksum says so) and model and state are, byte for
//! byte, what the sidecar says. The sidecar is written last, so whatever cut a writer short left
//! either a whole snapshot or one that is passed over here. A state without a sidecar, BVLC
//! Caffe's for one, is nothing that can be vouched for: `--snapshot` names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caffe_proto::solver_parameter::SnapshotFormat;

use super::{FileSum, Paths, Sidecar, Sums};
use crate::{Error, Result, bail, ensure};

const MODEL: [&str; 2] = ["caffemodel", "caffemodel.h5"];
const STATE: [&str; 2] = ["solverstate", "solverstate.h5"];
const SIDECAR: &str = "resume";

/// The newest whole snapshot of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Iterations done.
    pub iter: u64,
    /// Its files.
    pub paths: Paths,
}

/// What a search has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The newest whole snapshot, if there is one.
    pub found: Option<Found>,
    /// Newer ones that are not whole: what they are called and what is wrong, a line each.
    pub passed_over: Vec<String>,
}

/// Looks for the newest whole snapshot under `prefix`; newer ones are passed over with a reason.
///
/// # Errors
/// A folder that cannot be read; one that is missing holds no snapshot.
pub fn newest(prefix: &str) -> Result<Search> {
    let mut search = Search::default();
    for (iter, endings) in list(prefix)?.into_iter().rev() {
        // A model alone is no snapshot: `--weights` takes it.
        if !endings.iter().any(|e| STATE.contains(e) || *e == SIDECAR) {
            continue;
        }
        match whole(prefix, iter) {
            Ok(paths) => {
                search.found = Some(Found { iter, paths });
                break;
            }
            Err(why) => search.passed_over.push(why.to_string()),
        }
    }
    Ok(search)
}

/// The files of snapshots under `prefix`: iterations, and of each the endings that are there.
/// Names that are not exactly a snapshot's are none.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(prefix: &str) -> Result<BTreeMap<u64, Vec<&'static str>>> {
    let (folder, base) = split(prefix);
    let mut all: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(e) => return Err(Error::file(&folder, e)),
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::file(&folder, e))?.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(&base)) else { continue };
        let Some((number, ending)) = rest.strip_prefix("_iter_").and_then(|r| r.split_once('.'))
        else {
            continue;
        };
        let endings = MODEL.into_iter().chain(STATE).chain([SIDECAR]);
        let known = endings.into_iter().find(|e| *e == ending);
        // "007" and "+7" are numbers to a parser, but no name of ours.
        let iter = number.parse::<u64>().ok().filter(|n| n.to_string() == number);
        if let (Some(ending), Some(iter)) = (known, iter) {
            all.entry(iter).or_default().push(ending);
        }
    }
    Ok(all)
}

/// Folder and beginning of the file names of a prefix.
pub(super) fn split(prefix: &str) -> (PathBuf, String) {
    let (folder, base) = prefix.rsplit_once('/').unwrap_or((".", prefix));
    let folder = if folder.is_empty() { "/" } else { folder };
    (PathBuf::from(folder), base.to_owned())
}

/// The files of a snapshot, if they are whole.
fn whole(prefix: &str, iter: u64) -> Result<Paths> {
    let formats = [SnapshotFormat::Binaryproto, SnapshotFormat::Hdf5];
    let [binary, hdf5] = formats.map(|format| Paths::new(prefix, iter, format));
    let sidecar = &binary.sidecar;
    ensure!(
        sidecar.exists(),
        "{}: has no {} beside it, which is written last (name the state with --snapshot to use it \
         all the same)",
        if binary.state.exists() { &binary.state } else { &hdf5.state }.display(),
        file_name(sidecar)
    );
    let read = Sidecar::read(sidecar)?;
    ensure!(read.iter == iter, "{}: is of iteration {}", sidecar.display(), read.iter);
    let Some(sums) = read.sums else {
        bail!("{}: was written before sidecars held checksums", sidecar.display())
    };
    match check(&binary, sums) {
        Ok(()) => Ok(binary),
        // Where both formats lie there, the sidecar is of one of them.
        Err(_) if hdf5.state.exists() => check(&hdf5, sums).map(|()| hdf5),
        Err(e) => Err(e),
    }
}

fn check(paths: &Paths, sums: Sums) -> Result<()> {
    for (path, sum) in [(&paths.state, sums.state), (&paths.model, sums.model)] {
        let is = FileSum::of_file(path)?;
        ensure!(
            is.bytes == sum.bytes,
            "{}: has {} bytes instead of {}",
            path.display(),
            is.bytes,
            sum.bytes
        );
        ensure!(is == sum, "{}: is damaged: its checksum is another", path.display());
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SidecarWriter;

    /// A snapshot as far as files go.
    fn put(prefix: &str, iter: u64) -> Paths {
        let paths = Paths::new(prefix, iter, SnapshotFormat::Binaryproto);
        std::fs::write(&paths.model, format!("model {iter}")).unwrap();
        std::fs::write(&paths.state, format!("state {iter}")).unwrap();
        let sums = Sums {
            model: FileSum::of_file(&paths.model).unwrap(),
            state: FileSum::of_file(&paths.state).unwrap(),
        };
        let sidecar = Sidecar { iter, ..Sidecar::default() };
        SidecarWriter::create(&paths.sidecar, &sidecar)
            .unwrap()
            .close(sums)
            .unwrap()
            .finish()
            .unwrap();
        paths
    }

    #[test]
    fn the_newest_whole_one_is_found_and_others_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("snap").to_string_lossy().into_owned();
        assert_eq!(newest(&prefix).unwrap(), Search::default());
        for iter in [5, 10, 20, 30, 40, 100] {
            put(&prefix, iter);
        }
        // Others' files, and numbers that no snapshot has.
        put(&folder.path().join("snap_iter_7_more").to_string_lossy(), 999);
        std::fs::write(folder.path().join("snap_iter_0200.solverstate"), "x").unwrap();
        assert_eq!(list(&prefix).unwrap().len(), 6);
        let search = newest(&prefix).unwrap();
        assert_eq!(search.found.unwrap().iter, 100);
        assert!(search.passed_over.is_empty());

        let path = |iter, ending| PathBuf::from(format!("{prefix}_iter_{iter}.{ending}"));
        std::fs::remove_file(path(100, "resume")).unwrap();
        std::fs::write(path(40, "caffemodel"), "model 4").unwrap();
        std::fs::write(path(30, "solverstate"), "state 31").unwrap();
        let mut torn = std::fs::read(path(20, "resume")).unwrap();
        torn.truncate(torn.len() - 1);
        std::fs::write(path(20, "resume"), torn).unwrap();
        std::fs::remove_file(path(10, "caffemodel")).unwrap();
        let search = newest(&prefix).unwrap();
        assert_eq!(search.found.unwrap().iter, 5);
        let wanted = [
            "no snap_iter_100.resume",
            "7 bytes instead of 8",
            "checksum",
            "damaged",
            "10.caffemodel",
        ];
        assert_eq!(search.passed_over.len(), wanted.len());
        for (line, part) in search.passed_over.iter().zip(wanted) {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
