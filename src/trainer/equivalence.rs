//! Which layers of a net make N replicas with a part of the batch each differ from one replica with
//! all of it, however exactly their gradients are averaged.

use caffe_proto::loss_parameter::NormalizationMode;
use caffe_proto::{LayerParameter, NetParameter};

/// Name and reason of every layer that looks at its batch as a whole, or whose loss is not a mean
/// over it.
pub fn batch_mixing(net: &NetParameter) -> Vec<(String, &'static str)> {
    let found = |layer: &LayerParameter| Some((layer.name().to_owned(), reason(layer)?));
    net.layer.iter().filter_map(found).collect()
}

fn reason(layer: &LayerParameter) -> Option<&'static str> {
    match layer.r#type() {
        "BatchNorm" => {
            let param = layer.batch_norm_param.as_deref();
            let global = param.is_some_and(|p| p.use_global_stats());
            (!global).then_some("normalizes over its replica's batch")
        }
        "BatchReindex" | "Filter" => Some("moves records within its replica's batch"),
        "SoftmaxWithLoss" | "SigmoidCrossEntropyLoss" | "InfogainLoss" => {
            let param = layer.loss_param.as_ref()?;
            match param.normalization() {
                NormalizationMode::None => Some("sums its loss over its replica's batch"),
                NormalizationMode::Valid if param.ignore_label.is_some() => {
                    Some("divides its loss by the valid labels of its replica's batch")
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_layers_and_why() {
        let net: NetParameter = caffe_proto::text::parse(
            "test",
            "layer { name: 'bn' type: 'BatchNorm' } \
             layer { name: 'fixed' type: 'BatchNorm' batch_norm_param { use_global_stats: true } } \
             layer { name: 'mean' type: 'SoftmaxWithLoss' } \
             layer { name: 'sum' type: 'SoftmaxWithLoss' loss_param { normalization: NONE } } \
             layer { name: 'some' type: 'SoftmaxWithLoss' loss_param { ignore_label: 255 } }",
        )
        .unwrap();
        let names: Vec<String> = batch_mixing(&net).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["bn", "sum", "some"]);
    }
}
