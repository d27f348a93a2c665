//! A net as a graph in Graphviz's DOT language: boxes are layers, ovals are blobs.
//!
//! Drawn from the prototxt alone, so that no data and no memory are needed. A layer that works in
//! place has one arrow from its blob and one back to it.

use std::collections::BTreeSet;
use std::fmt::Write;

use caffe_proto::LayerParameter;

/// The text of a graph of these layers; `rankdir` is its direction: LR, TB, BT or RL.
pub fn dot(name: &str, layers: &[LayerParameter], rankdir: &str) -> String {
    let mut text = format!("digraph {} {{\n  rankdir={rankdir};\n", quoted(name));
    text.push_str("  node [fontname=\"Helvetica\", style=filled];\n");
    let blobs: BTreeSet<&String> =
        layers.iter().flat_map(|l| l.bottom.iter().chain(&l.top)).collect();
    for blob in blobs {
        let id = quoted(&format!("blob {blob}"));
        let _ =
            writeln!(text, "  {id} [label={}, shape=oval, fillcolor=\"#e0e0e0\"];", quoted(blob));
    }
    for (i, layer) in layers.iter().enumerate() {
        let label = quoted(&label(layer));
        let colour = colour(layer.r#type());
        let _ = writeln!(text, "  layer{i} [label={label}, shape=box, fillcolor=\"{colour}\"];");
        for bottom in &layer.bottom {
            let _ = writeln!(text, "  {} -> layer{i};", quoted(&format!("blob {bottom}")));
        }
        for top in &layer.top {
            let _ = writeln!(text, "  layer{i} -> {};", quoted(&format!("blob {top}")));
        }
    }
    text.push_str("}\n");
    text
}

/// Name, type, and the settings one looks for in a picture.
fn label(layer: &LayerParameter) -> String {
    let mut text = format!("{}\n{}", layer.name(), layer.r#type());
    if let Some(conv) = &layer.convolution_param {
        let sizes = [("kernel", &conv.kernel_size), ("stride", &conv.stride), ("pad", &conv.pad)];
        for (what, size) in sizes.into_iter().filter(|(_, size)| !size.is_empty()) {
            let size: Vec<String> = size.iter().map(u32::to_string).collect();
            let _ = write!(text, "\n{what} {}", size.join("x"));
        }
        let _ = write!(text, "\n{} outputs", conv.num_output());
    }
    if let Some(pool) = &layer.pooling_param {
        let _ = write!(text, "\n{}", pool.pool().as_str_name());
        if let Some(kernel) = pool.kernel_size {
            let _ = write!(text, " {kernel}, stride {}", pool.stride());
        }
    }
    if let Some(product) = &layer.inner_product_param {
        let _ = write!(text, "\n{} outputs", product.num_output());
    }
    text
}

fn colour(kind: &str) -> &'static str {
    match kind {
        "Convolution" | "Deconvolution" => "#ffb3ba",
        "Pooling" => "#ffdfba",
        "InnerProduct" | "LSTM" | "RNN" => "#c9b6ff",
        "Data" | "ImageData" | "HDF5Data" | "Input" | "MemoryData" | "WindowData" => "#baffc9",
        "Accuracy" => "#ffffba",
        loss if loss.ends_with("Loss") => "#ffffba",
        _ => "#bae1ff",
    }
}

/// A string of DOT.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_graph() {
        let layer = LayerParameter {
            name: Some("a\"b\\".into()),
            r#type: Some("ReLU".into()),
            bottom: vec!["x y".into()],
            top: vec!["x y".into()],
            ..Default::default()
        };
        let text = dot("n\"", &[layer], "LR");
        assert!(text.starts_with("digraph \"n\\\"\" {\n  rankdir=LR;\n"), "{text}");
        assert!(text.contains("layer0 [label=\"a\\\"b\\\\\\nReLU\""), "{text}");
        assert!(text.contains("\"blob x y\" -> layer0;\n  layer0 -> \"blob x y\";"), "{text}");
    }
}
