//! `caffe blackbox`: the last events of every actor of every rank of a job that died.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use caffe_actors::trace::{Entry, Recording, read_recording, recordings_in};

use crate::trainer::black_box_folder;
use crate::{Error, Result, bail};

const EXAMPLES: &str = "\
Examples:
  caffe blackbox
  caffe blackbox /scratch/boxes --last=20
  caffe blackbox /tmp/caffe-blackbox/pid4711-rank-1.blackbox";

/// Show what every actor of a job that died was doing last
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BlackboxArgs {
    /// A black box, or a folder of them [default: where `caffe train` puts them]
    #[arg(value_name = "DIR|FILE")]
    pub place: Option<PathBuf>,
    /// Events of each actor
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub last: usize,
}

impl BlackboxArgs {
    /// Prints them.
    ///
    /// # Errors
    /// Files that cannot be read; a folder without any.
    pub fn run(self) -> Result<()> {
        let place = self.place.unwrap_or_else(black_box_folder);
        let paths = match place.is_dir() {
            true => recordings_in(&place).map_err(Error::Invalid)?,
            false => vec![place.clone()],
        };
        if paths.is_empty() {
            bail!("{}: holds no black box; jobs that end well remove theirs", place.display());
        }
        for path in paths {
            let recording = read_recording(&path).map_err(Error::Invalid)?;
            super::print(&told(&path, &recording, self.last))?;
        }
        Ok(())
    }
}

fn told(path: &Path, recording: &Recording, last: usize) -> String {
    let Recording { rank, pid, host, .. } = recording;
    let mut text = format!("{}: rank {rank} (host {host}, process {pid})\n", path.display());
    let all = recording.lanes.iter().flat_map(|(_, events)| events);
    let end = all.map(|event| event.at).max().unwrap_or_default();
    for (title, events) in &recording.lanes {
        let doing = doing(events);
        let doing = if doing.is_empty() { "idle".to_owned() } else { doing.join(", in ") };
        // Text in memory takes everything.
        let _ = writeln!(text, "  {title}: {doing}");
        for event in &events[events.len().saturating_sub(last)..] {
            let before = end.saturating_sub(event.at).as_secs_f64() * 1e3;
            let verb = if event.begins { "begins" } else { "ends" };
            let iter = event.iter.map_or(String::new(), |iter| format!(", iteration {iter}"));
            let _ = writeln!(text, "    -{before:.1} ms  {} {verb}{iter}", event.what);
        }
    }
    text
}

/// What had begun and not ended, innermost first.
fn doing(events: &[Entry]) -> Vec<String> {
    let mut open: Vec<&Entry> = Vec::new();
    for event in events {
        let same = |e: &&Entry| e.what == event.what && e.number == event.number;
        match event.begins {
            true => open.push(event),
            // The start of what ends may have left the ring.
            false => drop(open.iter().rposition(same).map(|place| open.remove(place))),
        }
    }
    open.iter().rev().map(|event| event.what.to_owned()).collect()
}
