//! What the figures were measured on, and where they go.

use std::path::Path;

use caffe::device::cpu::onednn::Library;
use caffe::{Error, Result};
use serde_json::{Value, json};

/// Load of the last minute; 0 where it cannot be known.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

/// Processor, cores, memory, libraries.
pub fn describe() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let line = cpu.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key));
        line.and_then(|l| l.split(':').nth(1)).map_or("?", str::trim).to_owned()
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
    json!({
        "cpu": of("model name"), "family": of("cpu family"), "model": of("model"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gib": memory.map_or(0.0, |kib: f64| (kib / 1048576.0).round()),
        "onednn": Library::open().map_or("none".to_owned(), |l| format!("{l:?}")),
        "os": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Writes a net's result to `<folder>/step_<net>.json`.
pub fn write(folder: &Path, net: &str, result: &Value) -> Result<()> {
    let path = folder.join(format!("step_{net}.json"));
    std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
    std::fs::write(&path, format!("{result:#}\n")).map_err(|e| Error::file(&path, e))?;
    println!("written: {}", path.display());
    Ok(())
}
