//! `caffe layers`: the layer types, from the one list of them and the format's own descriptors.

use std::fmt::Write;

use caffe_proto::descriptors;

use super::print;
use crate::Result;
use crate::layers::{LAYERS, LayerDef, by_type_name};

const EXAMPLES: &str = "\
Examples:
  caffe layers
  caffe layers Convolution";

/// List the layer types, or describe one
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LayersArgs {
    /// A type to describe, with the fields of its prototxt
    #[arg(value_name = "TYPE")]
    name: Option<String>,
}

impl LayersArgs {
    /// Prints the list or the description.
    ///
    /// # Errors
    /// A type that does not exist.
    pub fn run(self) -> Result<()> {
        print(&match self.name {
            Some(name) => describe(by_type_name(&name)?),
            None => list(),
        })
    }
}

fn list() -> String {
    let mut all: Vec<&LayerDef> = LAYERS.to_vec();
    all.sort_by_key(|def| def.type_name.to_lowercase());
    let width = all.iter().map(|def| def.type_name.len()).max().unwrap_or(0);
    all.iter().map(|def| format!("{:<width$}  {}\n", def.type_name, def.doc)).collect()
}

fn describe(def: &LayerDef) -> String {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let mut text = format!(
        "{}: {}\n\nbottoms   {}\ntops      {}\nin place  {}\nloss      {}\n",
        def.type_name,
        def.doc,
        def.bottoms,
        def.tops,
        yes(def.in_place),
        yes(def.is_loss)
    );
    for name in parameters(def) {
        let _ = write!(text, "\n{}", fields(&name));
    }
    text
}

/// The message fields of a `layer { … }` that this type reads besides those that all types have.
fn parameters(def: &LayerDef) -> Vec<String> {
    let names: &[&str] = match def.type_name {
        "Data" => &["data_param", "transform_param"],
        "Deconvolution" | "Im2col" => &["convolution_param"],
        "LSTM" | "RNN" => &["recurrent_param"],
        "SoftmaxWithLoss" => &["softmax_param", "loss_param"],
        "SigmoidCrossEntropyLoss" => &["loss_param"],
        own => return own_parameters(own).into_iter().collect(),
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

/// `inner_product_param` for `InnerProduct`, where there is such a field.
fn own_parameters(type_name: &str) -> Option<String> {
    let wanted = type_name.to_lowercase();
    let layer = descriptors().get_message_by_name("caffe.LayerParameter")?;
    let named =
        |name: &str| name.strip_suffix("_param").is_some_and(|n| n.replace('_', "") == wanted);
    layer.fields().find(|field| named(field.name())).map(|field| field.name().to_owned())
}

/// A message field of a layer, with its own fields and their defaults.
fn fields(name: &str) -> String {
    let layer = descriptors().get_message_by_name("caffe.LayerParameter");
    let kind = layer.and_then(|l| l.get_field_by_name(name)).map(|field| field.kind());
    let Some(message) = kind.as_ref().and_then(|kind| kind.as_message()) else {
        return String::new();
    };
    let mut text = format!("{name} {{\n");
    for field in message.fields() {
        let kind = field.kind();
        let kind = match (kind.as_enum(), kind.as_message()) {
            (Some(names), _) => {
                names.values().map(|v| v.name().to_owned()).collect::<Vec<_>>().join(" | ")
            }
            (_, Some(inner)) => format!("{} {{ … }}", inner.name()),
            _ => format!("{kind:?}"),
        };
        let repeated = if field.is_list() { ", any number" } else { "" };
        let default = field.field_descriptor_proto().default_value.as_ref();
        let default = default.map(|value| format!(", default {value}")).unwrap_or_default();
        let _ = writeln!(text, "  {}: {kind}{repeated}{default}", field.name());
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_type_once_in_order() {
        let text = list();
        let names: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(names.len(), LAYERS.len());
        assert!(names.windows(2).all(|w| w[0].to_lowercase() < w[1].to_lowercase()), "{text}");
    }

    #[test]
    fn a_description_shows_fields_and_defaults() {
        for name in ["data_param", "convolution_param", "loss_param"] {
            assert!(fields(name).lines().count() > 3, "{name}");
        }
        let convolution = fields("convolution_param");
        assert!(convolution.contains("num_output: uint32\n"), "{convolution}");
        assert!(convolution.contains("bias_term: bool, default true"), "{convolution}");
        assert!(convolution.contains("engine: DEFAULT | CAFFE | CUDNN"), "{convolution}");
        assert_eq!(own_parameters("InnerProduct").as_deref(), Some("inner_product_param"));
        assert_eq!(own_parameters("LRN").as_deref(), Some("lrn_param"));
        assert_eq!(own_parameters("Split"), None);
        for def in LAYERS {
            assert!(describe(def).starts_with(def.type_name));
        }
    }
}
