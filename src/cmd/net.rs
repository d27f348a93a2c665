//! `caffe net`: looking at a net's prototxt: is it right, what does it cost, what does it look like,
//! what has changed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caffe_proto::{LayerParameter, NetFile, Phase, net_from_file, write_file_atomic};
use clap::ValueEnum;

use super::print;
use super::time::PhaseArg;
use crate::layers::by_type_name;
use crate::log::Log;
use crate::net::{Net, NetOptions, Origin, is_included};
use crate::tools::{diff, draw, summary::Summary};
use crate::{Error, Result, bail, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe net check train_val.prototxt
  caffe net summary deploy.prototxt -phase TEST
  caffe net summary deploy.prototxt --json
  caffe net draw train_val.prototxt net.svg -rankdir TB
  caffe net diff old.prototxt new.prototxt

check builds the net for both phases, with its data, and names every fault that is not the mere
consequence of another; summary tells shapes, parameters, operations of a forward pass and memory;
draw writes what OUTPUT's name ends with (dot; svg, png and pdf with Graphviz); diff tells layers
and settings that differ.";

/// Formats that Graphviz writes for us.
const PICTURES: [&str; 3] = ["svg", "png", "pdf"];

/// Check a net, tell what it costs, draw it, or compare it with another
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct NetArgs {
    /// check, summary, draw or diff
    #[arg(value_name = "ACTION", value_enum, hide_possible_values = true)]
    action: Action,
    /// The net, a prototxt
    #[arg(value_name = "NET")]
    model: PathBuf,
    /// What draw writes [default: DOT text on standard output], or the net that diff compares with
    #[arg(value_name = "OUTPUT|OTHER")]
    other: Option<PathBuf>,
    /// Phase of the net [default: TRAIN for summary, the layers of both for draw]
    #[arg(long, value_enum, ignore_case = true)]
    phase: Option<PhaseArg>,
    /// Direction of draw's picture
    #[arg(long, value_enum, ignore_case = true)]
    rankdir: Option<Rankdir>,
    /// Write summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    Check,
    Summary,
    Draw,
    Diff,
}

/// Graphviz's directions: first letter from, second letter to.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Rankdir {
    Lr,
    Tb,
    Bt,
    Rl,
}

impl NetArgs {
    /// Does it.
    ///
    /// # Errors
    /// Files that cannot be read or written, a net that cannot be built, Graphviz that is not there.
    pub fn run(self, log: &Log) -> Result<()> {
        self.refuse_foreign_flags()?;
        let file = net_from_file(&self.model)?;
        match self.action {
            Action::Check => self.check(&file, log),
            Action::Summary => {
                let phase = self.phase.map_or(Phase::Train, Phase::from);
                let summary = Summary::of(&self.build(&file, phase)?);
                print(&match self.json {
                    true => json(&summary)?,
                    false => summary.table(),
                })
            }
            Action::Draw => self.draw(&file, log),
            Action::Diff => {
                let Some(other) = &self.other else { bail!("diff needs two nets: NET OTHER") };
                let text = diff::diff(&file.net, &net_from_file(other)?.net);
                print(if text.is_empty() { "the nets say the same\n" } else { &text })
            }
        }
    }

    fn refuse_foreign_flags(&self) -> Result<()> {
        let takes = |action: &[Action]| action.contains(&self.action);
        for (given, belongs, what) in [
            (self.json, takes(&[Action::Summary]), "-json belongs to summary"),
            (self.rankdir.is_some(), takes(&[Action::Draw]), "-rankdir belongs to draw"),
            (
                self.phase.is_some(),
                takes(&[Action::Summary, Action::Draw]),
                "-phase belongs to summary and draw; check builds both, diff looks at all layers",
            ),
            (
                self.other.is_some(),
                takes(&[Action::Draw, Action::Diff]),
                "check and summary take one net and nothing else",
            ),
        ] {
            ensure!(!given || belongs, "{what}");
        }
        Ok(())
    }

    fn build(&self, file: &NetFile, phase: Phase) -> Result<Net> {
        Net::new(&file.net, &self.origin(file), &NetOptions::new(phase))
    }

    fn origin(&self, file: &NetFile) -> Origin {
        let lines = (0..file.net.layer.len()).map(|i| file.line(i).unwrap_or(0)).collect();
        Origin { file: self.model.display().to_string(), lines }
    }

    /// Every fault is a line; those that both phases have are told once.
    fn check(&self, file: &NetFile, log: &Log) -> Result<()> {
        // Of all layers, also those of no phase.
        let mut faults = unknown_types(file);
        for fault in &faults {
            log.warning(concat!("net.rs:", line!()), fault);
        }
        let origin = self.origin(file);
        for phase in [Phase::Train, Phase::Test] {
            let name = phase.as_str_name();
            if layers_of(file, phase)?.is_empty() && !file.net.layer.is_empty() {
                log.info(concat!("net.rs:", line!()), format!("{name}: no layers; not looked at"));
                continue;
            }
            match Net::survey(&file.net, &origin, &NetOptions::new(phase)) {
                Ok(net) => {
                    let summary = Summary::of(&net);
                    let text = format!(
                        "{name}: {} layers, {} parameters; good",
                        summary.layers.len(),
                        summary.parameters
                    );
                    log.info(concat!("net.rs:", line!()), text);
                }
                Err(found) => {
                    let told = found.iter().filter(|error| !is_unknown_type(error));
                    for fault in told.map(Error::to_string) {
                        if !faults.contains(&fault) {
                            log.warning(concat!("net.rs:", line!()), format!("{name}: {fault}"));
                            faults.push(fault);
                        }
                    }
                }
            }
        }
        match &faults[..] {
            [] => Ok(()),
            [one] => Err(Error::Invalid(one.clone())),
            all => bail!("{}: {} faults; they are named above", self.model.display(), all.len()),
        }
    }

    fn draw(&self, file: &NetFile, log: &Log) -> Result<()> {
        let layers = match self.phase {
            Some(phase) => layers_of(file, phase.into())?,
            None => file.net.layer.clone(),
        };
        let rankdir = self.rankdir.unwrap_or(Rankdir::Lr);
        let rankdir = rankdir.to_possible_value().map(|v| v.get_name().to_owned());
        let text = draw::dot(file.net.name(), &layers, &rankdir.unwrap_or_default());
        let Some(output) = &self.other else { return print(&text) };
        let kind = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match kind {
            "dot" | "gv" => write_file_atomic(output, text.as_bytes())?,
            kind if PICTURES.contains(&kind) => picture(&text, kind, output)?,
            _ => bail!("`{}`: pictures are .dot, .gv, .svg, .png or .pdf", output.display()),
        }
        log.info(concat!("net.rs:", line!()), format!("Drawing net to {}", output.display()));
        Ok(())
    }
}

/// Layers of any phase whose type there is not.
fn unknown_types(file: &NetFile) -> Vec<String> {
    let layers = file.net.layer.iter().enumerate();
    let fault = |(i, layer): (usize, &LayerParameter)| {
        let error = by_type_name(layer.r#type()).err()?;
        Some(format!("layer `{}` at {}: {error}", layer.name(), file.place(i)))
    };
    layers.filter_map(fault).collect()
}

fn is_unknown_type(error: &Error) -> bool {
    matches!(error, Error::Layer { type_name, .. } if by_type_name(type_name).is_err())
}

/// The layers that belong to a phase.
fn layers_of(file: &NetFile, phase: Phase) -> Result<Vec<LayerParameter>> {
    let mut state = file.net.state.clone().unwrap_or_default();
    state.phase = Some(phase as i32);
    let mut layers = Vec::new();
    for layer in &file.net.layer {
        if is_included(layer, &state)? {
            layers.push(layer.clone());
        }
    }
    Ok(layers)
}

fn json(summary: &Summary) -> Result<String> {
    match serde_json::to_string_pretty(summary) {
        Ok(text) => Ok(text + "\n"),
        Err(e) => bail!("the summary cannot be written as JSON: {e}"),
    }
}

/// Has Graphviz draw.
fn picture(text: &str, kind: &str, output: &Path) -> Result<()> {
    let mut dot = Command::new("dot")
        .arg(format!("-T{kind}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            Error::Invalid(format!(
                "{kind} needs Graphviz's program `dot`, which did not start ({e}); install the \
                 package graphviz, or write {} and draw it elsewhere",
                output.with_extension("dot").display()
            ))
        })?;
    // `dot` reads everything before it writes; closing the pipe lets it begin.
    let written = dot.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(text.as_bytes()));
    let drawn = dot.wait_with_output().map_err(|e| Error::Invalid(format!("`dot`: {e}")))?;
    if !drawn.status.success() || written.is_err() {
        let said = String::from_utf8_lossy(&drawn.stderr);
        bail!("`dot` could not draw: {}", said.lines().next().unwrap_or("it said nothing"));
    }
    write_file_atomic(output, &drawn.stdout)?;
    Ok(())
}
