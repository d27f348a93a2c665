//! `caffe db`: looking at databases, copying and dividing them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::print;
use crate::data::Backend;
use crate::data::convert::{Converted, copy, shard};
use crate::data::survey::{Look, Survey, survey};
use crate::log::Log;
use crate::{Error, Result, bail};

const EXAMPLES: &str = "\
Examples:
  caffe db stat mnist_train_lmdb
  caffe db verify ilsvrc12_train_lmdb
  caffe db copy mnist_train_lmdb mnist_train_leveldb -backend=leveldb
  caffe db shard ilsvrc12_train_lmdb parts/train -shards=8

stat tells records, sizes, shapes and labels; verify decodes every record and names those that are
bad; shard makes OUTPUT_0, OUTPUT_1, ... with every N-th record each. The input is only read.";

/// Lines of `stat` about shapes; sets with more are told apart by size only.
const MOST_SHAPES: usize = 10;

/// Look at a database, verify, copy or divide it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DbArgs {
    /// stat, verify, copy or shard
    #[arg(value_name = "ACTION", value_enum, hide_possible_values = true)]
    action: Action,
    /// The database
    #[arg(value_name = "DB")]
    input: PathBuf,
    /// What copy and shard make
    #[arg(value_name = "OUTPUT")]
    output: Option<PathBuf>,
    /// Kind of the output: leveldb or lmdb [default: that of the input]
    #[arg(long, value_name = "DB_TYPE")]
    backend: Option<Backend>,
    /// Number of databases that shard makes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    shards: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    Stat,
    Verify,
    Copy,
    Shard,
}

impl DbArgs {
    /// Does it.
    ///
    /// # Errors
    /// A database that cannot be read, bad records in verify, output that exists or cannot be
    /// written.
    pub fn run(self, log: &Log) -> Result<()> {
        let kind = Backend::of(&self.input)?;
        match self.action {
            Action::Stat | Action::Verify => {
                if self.output.is_some() || self.shards.is_some() || self.backend.is_some() {
                    bail!("stat and verify take a database and nothing else");
                }
                self.look(kind, log)
            }
            Action::Copy | Action::Shard => self.write(kind, log),
        }
    }

    fn look(&self, kind: Backend, log: &Log) -> Result<()> {
        let look = if self.action == Action::Stat { Look::Headers } else { Look::Pixels };
        let place = concat!("db.rs:", line!());
        let found = survey(&self.input, kind, look, |error| log.warning(place, error))?;
        if self.action == Action::Stat {
            print(&describe(&self.input, kind, &found))?;
        }
        match found.bad {
            0 => {
                let text = format!("{}: {} records, all good", self.input.display(), found.records);
                log.info(place, text);
                Ok(())
            }
            bad => Err(Error::Invalid(format!(
                "{}: {bad} of {} records are bad; they are named above",
                self.input.display(),
                found.records
            ))),
        }
    }

    fn write(&self, kind: Backend, log: &Log) -> Result<()> {
        let Some(output) = &self.output else { bail!("the output is missing: DB OUTPUT") };
        let (input, target) = ((&*self.input, kind), (&**output, self.backend.unwrap_or(kind)));
        let made = match (self.action, self.shards) {
            (Action::Shard, Some(shards)) => shard(input, target, shards.into())?,
            (Action::Shard, None) => bail!("shard needs -shards=N"),
            (_, Some(_)) => bail!("-shards belongs to shard"),
            (_, None) => vec![copy(input, target)?],
        };
        for Converted { path, records } in made {
            let text = format!("{records} records in {}", path.display());
            log.info(concat!("db.rs:", line!()), text);
        }
        Ok(())
    }
}

/// The text of `stat`.
fn describe(path: &Path, kind: Backend, found: &Survey) -> String {
    let mut text = format!("{}: {kind}, {} records", path.display(), found.records);
    let _ = writeln!(text, ", {} bytes of values", found.bytes);
    if let (Some([first, last]), Some([least, most])) = (&found.keys, found.sizes) {
        let _ = writeln!(text, "keys    {} to {}", first.escape_ascii(), last.escape_ascii());
        let _ = writeln!(text, "values  {least} to {most} bytes, {} encoded", found.encoded);
    }
    for ([channels, height, width], n) in found.shapes.iter().take(MOST_SHAPES) {
        let _ = writeln!(text, "shape   {channels} x {height} x {width}: {n}");
    }
    if let Some(more) = found.shapes.len().checked_sub(MOST_SHAPES).filter(|&more| more > 0) {
        let _ = writeln!(text, "shape   … and {more} others");
    }
    if let (Some((low, _)), Some((high, _))) =
        (found.labels.first_key_value(), found.labels.last_key_value())
    {
        let counts = found.labels.values();
        let (fewest, most) = (counts.clone().min(), counts.max());
        let _ = writeln!(
            text,
            "labels  {} different, {low} to {high}, {} to {} records each",
            found.labels.len(),
            fewest.unwrap_or(&0),
            most.unwrap_or(&0)
        );
    }
    text
}
