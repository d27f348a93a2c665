//! Which snapshots stay: the last n, and the best by a test score ([`Keeper`]).
//!
//! Deletes only snapshots under its own prefix, by exact name, with a sidecar of ours and of no
//! later iteration than the newest that is safely written. The sidecar goes last, so that a
//! deletion which is cut short is taken up again. The best and its score stand in
//! `PREFIX_best.json`, so that a resumed job knows what to beat.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::find;
use crate::{Error, Result, ensure};

/// What to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The last so many snapshots; all when left out.
    pub last: Option<usize>,
    /// And the best by a test net's output.
    pub best: Option<Best>,
}

/// By which output a snapshot is the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Name of the test net's output.
    pub output: String,
    /// Whether low is good.
    pub lowest: bool,
}

impl std::str::FromStr for Best {
    type Err = String;

    /// `accuracy`, `accuracy:max`, `loss:min`; without a word behind it, low is good in names with
    /// "loss" and high in all others.
    fn from_str(text: &str) -> Result<Self, String> {
        let (output, lowest) = match text.rsplit_once(':') {
            Some((name, "min")) => (name, true),
            Some((name, "max")) => (name, false),
            Some((_, other)) => return Err(format!("`{other}` is neither min nor max")),
            None => (text, text.contains("loss")),
        };
        if output.is_empty() {
            return Err("the name of a test net's output is missing".to_owned());
        }
        Ok(Best { output: output.to_owned(), lowest })
    }
}

/// The best so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    iter: u64,
    output: String,
    value: f32,
}

#[derive(Debug, Default)]
struct State {
    /// Snapshots of this run that are safely written, and scores of this run's tests.
    written: BTreeSet<u64>,
    scores: BTreeMap<u64, f32>,
    best: Option<Mark>,
}

/// Deletes what need not stay, whenever a snapshot has been written or scored.
#[derive(Debug)]
pub struct Keeper {
    prefix: String,
    keep: Keep,
    state: Mutex<State>,
}

impl Keeper {
    /// For a prefix under which an earlier run may have left its mark.
    ///
    /// # Errors
    /// `last` of 0; a mark that cannot be read.
    pub fn open(prefix: &str, keep: Keep) -> Result<Self> {
        ensure!(
            keep.last != Some(0),
            "--keep-last must be at least 1: the newest is what a run resumes from"
        );
        let keeper = Keeper { prefix: prefix.to_owned(), keep, state: Mutex::default() };
        if let Some(best) = &keeper.keep.best {
            let path = keeper.mark_path();
            match std::fs::read(&path) {
                Ok(bytes) => {
                    let mark: Option<Mark> = serde_json::from_slice(&bytes).ok();
                    ensure!(mark.is_some(), "{}: damaged; delete it to begin anew", path.display());
                    keeper.state.lock().best = mark.filter(|m| m.output == best.output);
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::file(&path, e)),
            }
        }
        Ok(keeper)
    }

    /// The output that says which is the best.
    pub fn output(&self) -> Option<&str> {
        self.keep.best.as_ref().map(|best| best.output.as_str())
    }

    /// A test has given the weights after `iter` iterations a score.
    ///
    /// # Errors
    /// A mark that cannot be written, a snapshot that cannot be deleted.
    pub fn scored(&self, iter: u64, value: f32) -> Result<()> {
        let mut state = self.state.lock();
        state.scores.insert(iter, value);
        self.settle(&mut state)
    }

    /// A snapshot is safely written.
    ///
    /// # Errors
    /// As [`scored`](Self::scored).
    pub fn written(&self, iter: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.written.insert(iter);
        self.settle(&mut state)
    }

    fn settle(&self, state: &mut State) -> Result<()> {
        let Some(&newest) = state.written.last() else { return Ok(()) };
        if let Some(best) = &self.keep.best {
            let scored = state.written.iter().filter_map(|i| Some((*i, *state.scores.get(i)?)));
            let better =
                |value: f32, than: f32| if best.lowest { value < than } else { value > than };
            let mut mark = state.best.clone();
            for (iter, value) in scored.filter(|(_, value)| value.is_finite()) {
                if mark.as_ref().is_none_or(|m| better(value, m.value)) {
                    mark = Some(Mark { iter, output: best.output.clone(), value });
                }
            }
            if mark != state.best {
                let text = serde_json::to_vec(&mark).map_err(|e| {
                    Error::Invalid(format!("cannot describe the best snapshot: {e}"))
                })?;
                caffe_proto::write_file_atomic(self.mark_path(), &text)?;
                state.best = mark;
            }
        }
        self.prune(newest, state.best.as_ref().map(|mark| mark.iter))
    }

    fn prune(&self, newest: u64, best: Option<u64>) -> Result<()> {
        let last = match (self.keep.last, &self.keep.best) {
            (Some(last), _) => last,
            (None, Some(_)) => 1,
            (None, None) => return Ok(()),
        };
        let ours = find::list(&self.prefix)?.into_iter();
        let ours: Vec<_> =
            ours.filter(|(iter, endings)| *iter <= newest && endings.contains(&"resume")).collect();
        for (iter, mut endings) in ours.into_iter().rev().skip(last) {
            if best == Some(iter) {
                continue;
            }
            endings.sort_by_key(|ending| *ending == "resume");
            for ending in endings {
                let path = PathBuf::from(format!("{}_iter_{iter}.{ending}", self.prefix));
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn mark_path(&self) -> PathBuf {
        PathBuf::from(format!("{}_best.json", self.prefix))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDINGS: [&str; 3] = ["caffemodel", "solverstate", "resume"];

    fn put(prefix: &str, iter: u64) {
        for ending in ENDINGS {
            std::fs::write(format!("{prefix}_iter_{iter}.{ending}"), "x").unwrap();
        }
    }

    fn left(prefix: &str) -> Vec<u64> {
        find::list(prefix).unwrap().into_keys().collect()
    }

    #[test]
    fn keeps_the_last_and_the_best_and_nothing_of_others_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("snap").to_string_lossy().into_owned();
        let best = Some("accuracy".parse().unwrap());
        let keeper = Keeper::open(&prefix, Keep { last: Some(2), best: best.clone() }).unwrap();
        let foreign = format!("{prefix}_iter_3.solverstate");
        std::fs::write(&foreign, "of another program").unwrap();
        put(&prefix, 900); // of a longer run, before
        for (iter, score) in [(10, 0.5), (20, 0.9), (30, 0.7), (40, 0.8), (50, f32::NAN)] {
            put(&prefix, iter);
            keeper.written(iter).unwrap();
            keeper.scored(iter, score).unwrap();
        }
        assert_eq!(left(&prefix), [3, 20, 40, 50, 900]);
        // A resumed run knows what to beat; a score may come before its snapshot is written.
        let keeper = Keeper::open(&prefix, Keep { last: Some(1), best }).unwrap();
        put(&prefix, 60);
        keeper.scored(60, 0.85).unwrap();
        keeper.written(60).unwrap();
        assert_eq!(left(&prefix), [3, 20, 60, 900]);
        keeper.scored(70, 0.95).unwrap();
        assert_eq!(left(&prefix), [3, 20, 60, 900], "70 is not written yet");
        put(&prefix, 70);
        keeper.written(70).unwrap();
        assert_eq!(left(&prefix), [3, 70, 900]);
        assert!(Path::new(&foreign).exists());
    }

    #[test]
    fn names_of_outputs() {
        assert!(!"accuracy".parse::<Best>().unwrap().lowest);
        assert!("loss".parse::<Best>().unwrap().lowest);
        assert!(!"loss:max".parse::<Best>().unwrap().lowest);
        assert!("error:min".parse::<Best>().unwrap().lowest);
        assert!("accuracy:best".parse::<Best>().is_err() && ":min".parse::<Best>().is_err());
    }
}
