//! The table of a net: each layer's shapes, parameters, operations and memory, and their sums.

use std::fmt::Write;

use serde::Serialize;

use super::cost::cost;
use crate::layers::Alias;
use crate::net::{Net, Node, Pass};

/// What there is to say about a net.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Name in the prototxt.
    pub name: String,
    /// The layers in order, splits that the net inserts left out.
    pub layers: Vec<Row>,
    /// Parameters, shared ones once.
    pub parameters: u64,
    /// Floating-point operations of a forward pass over one batch.
    pub flops: u64,
    /// Bytes of all tops' values, as if none shared memory.
    pub blob_bytes: u64,
    /// Bytes of parameters; a training net holds as much again for gradients.
    pub parameter_bytes: u64,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Name of the layer.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Shapes of its bottoms.
    pub bottoms: Vec<Vec<usize>>,
    /// Shapes of its tops.
    pub tops: Vec<Vec<usize>>,
    /// Parameters that it owns; those shared with an earlier layer count there.
    pub parameters: u64,
    /// Floating-point operations of a forward pass.
    pub flops: u64,
    /// Bytes of its tops' values; 0 where they are its bottoms' memory.
    pub bytes: u64,
}

impl Summary {
    /// Counts.
    pub fn of(net: &Net) -> Summary {
        let visible = net.layers().iter().enumerate().filter(|(_, node)| !is_inserted(node));
        let layers: Vec<Row> = visible.map(|(i, node)| row(net, i, node)).collect();
        let sum = |of: fn(&Row) -> u64| layers.iter().map(of).sum();
        let parameters = sum(|row| row.parameters);
        Summary {
            name: net.name().to_owned(),
            parameters,
            flops: sum(|row| row.flops),
            blob_bytes: sum(|row| row.bytes),
            parameter_bytes: parameters * size_of::<f32>() as u64,
            layers,
        }
    }

    /// As text for people.
    pub fn table(&self) -> String {
        let head = ["layer", "type", "bottoms", "tops", "parameters", "MFLOPs", "KiB"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.layers.iter().map(Row::cells));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: [usize; 7] = std::array::from_fn(|column| width(column).unwrap_or(0));
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Numbers stand to the right.
                let _ = match column {
                    0..4 => write!(line, "{cell:<width$}  "),
                    _ => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "\n{} layers, {} parameters ({:.2} MiB), {:.3} GFLOPs forward, {:.2} MiB of blobs",
            self.layers.len(),
            self.parameters,
            mib(self.parameter_bytes),
            self.flops as f64 / 1e9,
            mib(self.blob_bytes),
        );
        text
    }
}

/// Whether the net itself has put the layer there.
fn is_inserted(node: &Node) -> bool {
    node.def.type_name == "Split" && node.place.is_none()
}

fn row(net: &Net, index: usize, node: &Node) -> Row {
    let shape = |id: &usize| net.store().blobs[*id].shape.dims().to_vec();
    let owned = net.arena().params().iter().filter(|param| param.layer == index);
    let made = node.top.iter().filter(|top| !node.bottom.contains(top));
    let bytes = match node.def.alias {
        Alias::None => made.map(|&top| net.store().blobs[top].shape.count() as u64 * 4).sum(),
        _ => 0,
    };
    Row {
        name: node.name().to_owned(),
        kind: node.def.type_name,
        bottoms: node.bottom.iter().map(shape).collect(),
        tops: node.top.iter().map(shape).collect(),
        parameters: owned.map(|param| param.shape.count() as u64).sum(),
        flops: cost(net, index, Pass::Forward).flops,
        bytes,
    }
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let shapes = |all: &[Vec<usize>]| {
            let one = |dims: &Vec<usize>| match dims.is_empty() {
                true => "scalar".to_owned(),
                false => dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
            };
            all.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        [
            self.name.clone(),
            self.kind.to_owned(),
            shapes(&self.bottoms),
            shapes(&self.tops),
            self.parameters.to_string(),
            format!("{:.3}", self.flops as f64 / 1e6),
            format!("{:.1}", self.bytes as f64 / 1024.0),
        ]
    }
}
