//! One Chrome trace of all ranks: a process per rank, all times on rank 0's clock.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use caffe_proto::write_file_atomic;

use super::read::events;
use crate::{Error, Result};

/// Merges the traces of a run into the file `out`; how many ranks and events it has.
///
/// # Errors
/// Files that are no traces of ranks, and a file that cannot be written.
pub fn merge(paths: &[PathBuf], out: &Path) -> Result<(usize, usize)> {
    let all = events(paths)?;
    let failed = |e: std::io::Error| Error::file(out, e);
    let (mut text, mut count) = (BufWriter::new(Vec::new()), 0);
    text.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[").map_err(failed)?;
    for (facts, events) in &all {
        // Perfetto sorts processes by name unless told otherwise.
        let order = serde_json::json!({"ph": "M", "pid": facts.rank, "name": "process_sort_index",
            "args": {"sort_index": facts.rank}});
        let comma = if count == 0 { "" } else { "," };
        write!(text, "{comma}\n{order}").map_err(failed)?;
        for event in events {
            let line = serde_json::to_string(event).map_err(|e| failed(e.into()))?;
            write!(text, ",\n{line}").map_err(failed)?;
        }
        count += events.len() + 1;
    }
    text.write_all(b"\n]}\n").map_err(failed)?;
    let bytes = text.into_inner().map_err(|e| failed(e.into_error()))?;
    write_file_atomic(out, &bytes)?;
    Ok((all.len(), count))
}
