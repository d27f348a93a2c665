//! The peer: another program that prints a JSON line per measurement, the best one marked.

use std::process::Command;

use caffe::{Error, Result};
use serde_json::Value;

/// What it measured.
pub struct Step {
    /// Milliseconds of a step.
    pub step_ms: f64,
    /// Its memory format.
    pub layout: String,
}

/// Runs `command` for a net and returns its best.
pub fn run(command: &str, net: &str, batch: usize, threads: usize, steps: usize) -> Result<Step> {
    let failed = |why: String| Error::Invalid(format!("the peer `{command}` {why}"));
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| failed("is empty".into()))?;
    let output = Command::new(program)
        .args(words)
        .args([net, "--precision", "f32"])
        .args(["--batch", &batch.to_string(), "--threads", &threads.to_string()])
        .args(["--steps", &steps.to_string()])
        .output()
        .map_err(|e| failed(format!("could not be started: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("failed: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let best = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["best"] == true)
        .ok_or_else(|| failed("printed no best result".into()))?;
    let step_ms = best["step_ms"].as_f64().ok_or_else(|| failed("gave no step_ms".into()))?;
    Ok(Step { step_ms, layout: best["layout"].as_str().unwrap_or("?").to_owned() })
}
