//! `layers { layer { type: "conv" kernelsize: 3 … } bottom: … top: … }` of 2013 to the V1 form.
//!
//! That form had all settings of all types in one flat message, and a `padding` layer before each
//! convolution that wanted a border. Padding layers become the `pad` of what reads them; each
//! setting goes into the message of its layer's type. A setting that the type never had was ignored
//! by its Caffe; it is dropped here too, and reported.

use std::mem;

use super::{Change, UpgradeError};
use crate::{
    NetParameter, V0LayerParameter, V1LayerParameter, pooling_parameter, v0_layer_parameter,
    v1_layer_parameter::LayerType,
};

/// Rewrites all layers of the oldest form to the V1 form. Weights are moved.
pub(super) fn upgrade(net: &mut NetParameter) -> Result<Vec<Change>, UpgradeError> {
    if net.layers.iter().all(|layer| layer.layer.is_none()) {
        return Ok(Vec::new());
    }
    let padding = merge_padding(&mut net.layers)?;
    let mut changes = Vec::new();
    let mut layers = Vec::with_capacity(net.layers.len());
    for (index, mut old) in mem::take(&mut net.layers).into_iter().enumerate() {
        // Where the layer stood before padding layers were taken out.
        let index = index + padding.iter().enumerate().filter(|(k, at)| **at - k <= index).count();
        let Some(v0) = old.layer.take() else {
            return Err(UpgradeError::MixedV0Layers { layer: old.name().to_owned(), index });
        };
        let (layer, dropped) = layer(old, *v0, index)?;
        if !dropped.is_empty() {
            let fields = dropped.iter().map(|&field| field.to_owned()).collect();
            changes.push(Change::V0FieldsDropped { layer: layer.name().to_owned(), fields });
        }
        layers.push(layer);
    }
    net.layers = layers;
    changes.insert(0, Change::V0Layers { layers: net.layers.len(), padding });
    Ok(changes)
}

/// Gives every reader of a padding layer's top its border and the padding layer's bottom, and takes
/// the padding layers out; returns where they stood.
fn merge_padding(layers: &mut Vec<V1LayerParameter>) -> Result<Vec<usize>, UpgradeError> {
    let kind =
        |layer: &V1LayerParameter| layer.layer.as_ref().map_or("", |v0| v0.r#type()).to_owned();
    for at in 0..layers.len() {
        for bottom in 0..layers[at].bottom.len() {
            // The last layer above that made the blob.
            let wanted = layers[at].bottom[bottom].clone();
            let maker = layers[..at].iter().rposition(|layer| layer.top.contains(&wanted));
            let Some(padding) = maker.filter(|&maker| kind(&layers[maker]) == "padding") else {
                continue;
            };
            let pad = layers[padding].layer.as_ref().map_or(0, |v0| v0.pad());
            let source = layers[padding].bottom.clone();
            let reader = &mut layers[at];
            let alone = reader.bottom.len() == 1 && source.len() == 1;
            match reader.layer.as_mut() {
                Some(v0) if alone && matches!(v0.r#type(), "conv" | "pool") => {
                    v0.pad = Some(pad);
                    reader.bottom = source;
                }
                _ => {
                    let layer = reader.layer.as_ref().map_or("", |v0| v0.name()).to_owned();
                    return Err(UpgradeError::V0Padding { layer, index: at });
                }
            }
        }
    }
    let padding = (0..layers.len()).filter(|&i| kind(&layers[i]) == "padding").collect();
    layers.retain(|layer| kind(layer) != "padding");
    Ok(padding)
}

/// One layer in the V1 form, and the settings its type has no place for.
fn layer(
    old: V1LayerParameter,
    mut v0: V0LayerParameter,
    index: usize,
) -> Result<(V1LayerParameter, Vec<&'static str>), UpgradeError> {
    let Some(kind) = v1_type(v0.r#type()) else {
        let (layer, kind) = (v0.name().to_owned(), v0.r#type().to_owned());
        return Err(UpgradeError::V0Type { layer, kind, index });
    };
    let mut new = V1LayerParameter {
        name: v0.name.take(),
        r#type: kind.map(|kind| kind as i32),
        bottom: old.bottom,
        top: old.top,
        blobs: mem::take(&mut v0.blobs),
        blobs_lr: mem::take(&mut v0.blobs_lr),
        weight_decay: mem::take(&mut v0.weight_decay),
        ..Default::default()
    };
    v0.r#type = None;
    move_settings(&mut v0, &mut new, kind.unwrap_or(LayerType::None));
    move_transform(&mut v0, &mut new);
    Ok((new, left(&v0)))
}

/// Moves what the type has a place for; what is left stays in `v0`.
fn move_settings(v0: &mut V0LayerParameter, new: &mut V1LayerParameter, kind: LayerType) {
    match kind {
        LayerType::Convolution => {
            let to = new.convolution_param.get_or_insert_default();
            to.num_output = v0.num_output.take();
            to.bias_term = v0.biasterm.take();
            to.weight_filler = v0.weight_filler.take();
            to.bias_filler = v0.bias_filler.take();
            to.group = v0.group.take();
            to.pad.extend(v0.pad.take());
            to.kernel_size.extend(v0.kernelsize.take());
            to.stride.extend(v0.stride.take());
        }
        LayerType::InnerProduct => {
            let to = new.inner_product_param.get_or_insert_default();
            to.num_output = v0.num_output.take();
            to.bias_term = v0.biasterm.take();
            to.weight_filler = v0.weight_filler.take();
            to.bias_filler = v0.bias_filler.take();
        }
        LayerType::Pooling => {
            let to = new.pooling_param.get_or_insert_default();
            to.pad = v0.pad.take();
            to.kernel_size = v0.kernelsize.take();
            to.stride = v0.stride.take();
            to.pool = v0.pool.take().map(pool);
        }
        LayerType::Dropout => {
            new.dropout_param.get_or_insert_default().dropout_ratio = v0.dropout_ratio.take();
        }
        LayerType::Lrn => {
            let to = new.lrn_param.get_or_insert_default();
            to.local_size = v0.local_size.take();
            to.alpha = v0.alpha.take();
            to.beta = v0.beta.take();
            to.k = v0.k.take();
        }
        LayerType::Concat => {
            new.concat_param.get_or_insert_default().concat_dim = v0.concat_dim.take();
        }
        LayerType::InfogainLoss => {
            new.infogain_loss_param.get_or_insert_default().source = v0.source.take();
        }
        LayerType::Hdf5Output => new.hdf5_output_param = v0.hdf5_output_param.take().map(Box::new),
        _ => move_sources(v0, new, kind),
    }
}

/// The settings of layers that read records.
fn move_sources(v0: &mut V0LayerParameter, new: &mut V1LayerParameter, kind: LayerType) {
    match kind {
        LayerType::Data => {
            let to = new.data_param.get_or_insert_default();
            to.source = v0.source.take();
            to.batch_size = v0.batchsize.take();
            to.rand_skip = v0.rand_skip.take();
        }
        LayerType::Hdf5Data => {
            let to = new.hdf5_data_param.get_or_insert_default();
            to.source = v0.source.take();
            to.batch_size = v0.batchsize.take();
        }
        LayerType::ImageData => {
            let to = new.image_data_param.get_or_insert_default();
            to.source = v0.source.take();
            to.batch_size = v0.batchsize.take();
            to.rand_skip = v0.rand_skip.take();
            to.shuffle = v0.shuffle_images.take();
            to.new_height = v0.new_height.take().map(|n| n.max(0) as u32);
            to.new_width = v0.new_width.take().map(|n| n.max(0) as u32);
        }
        LayerType::WindowData => {
            let to = new.window_data_param.get_or_insert_default();
            to.source = v0.source.take();
            to.batch_size = v0.batchsize.take();
            to.fg_threshold = v0.det_fg_threshold.take();
            to.bg_threshold = v0.det_bg_threshold.take();
            to.fg_fraction = v0.det_fg_fraction.take();
            to.context_pad = v0.det_context_pad.take();
            to.crop_mode = v0.det_crop_mode.take();
        }
        _ => {}
    }
}

/// The settings that any layer could have, for what became `transform_param`.
fn move_transform(v0: &mut V0LayerParameter, new: &mut V1LayerParameter) {
    let given = v0.scale.is_some() || v0.meanfile.is_some();
    if !(given || v0.cropsize.is_some() || v0.mirror.is_some()) {
        return;
    }
    let to = new.transform_param.get_or_insert_default();
    to.scale = v0.scale.take();
    to.mean_file = v0.meanfile.take();
    to.crop_size = v0.cropsize.take();
    to.mirror = v0.mirror.take();
}

/// The names of the settings that nothing took.
fn left(v0: &V0LayerParameter) -> Vec<&'static str> {
    let fields = [
        (v0.num_output.is_some(), "num_output"),
        (v0.biasterm.is_some(), "biasterm"),
        (v0.weight_filler.is_some(), "weight_filler"),
        (v0.bias_filler.is_some(), "bias_filler"),
        (v0.pad.is_some(), "pad"),
        (v0.kernelsize.is_some(), "kernelsize"),
        (v0.group.is_some(), "group"),
        (v0.stride.is_some(), "stride"),
        (v0.pool.is_some(), "pool"),
        (v0.dropout_ratio.is_some(), "dropout_ratio"),
        (v0.local_size.is_some(), "local_size"),
        (v0.alpha.is_some(), "alpha"),
        (v0.beta.is_some(), "beta"),
        (v0.k.is_some(), "k"),
        (v0.source.is_some(), "source"),
        (v0.batchsize.is_some(), "batchsize"),
        (v0.rand_skip.is_some(), "rand_skip"),
        (v0.det_fg_threshold.is_some(), "det_fg_threshold"),
        (v0.det_bg_threshold.is_some(), "det_bg_threshold"),
        (v0.det_fg_fraction.is_some(), "det_fg_fraction"),
        (v0.det_context_pad.is_some(), "det_context_pad"),
        (v0.det_crop_mode.is_some(), "det_crop_mode"),
        (v0.new_num.is_some(), "new_num"),
        (v0.new_channels.is_some(), "new_channels"),
        (v0.new_height.is_some(), "new_height"),
        (v0.new_width.is_some(), "new_width"),
        (v0.shuffle_images.is_some(), "shuffle_images"),
        (v0.concat_dim.is_some(), "concat_dim"),
        (v0.hdf5_output_param.is_some(), "hdf5_output_param"),
    ];
    fields.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

fn pool(old: i32) -> i32 {
    use pooling_parameter::PoolMethod as New;
    use v0_layer_parameter::PoolMethod as Old;
    let new = match Old::try_from(old).unwrap_or_default() {
        Old::Max => New::Max,
        Old::Ave => New::Ave,
        Old::Stochastic => New::Stochastic,
    };
    new as i32
}

/// The V1 type of an old one: none for a layer without a type, and nothing for an unknown one.
fn v1_type(old: &str) -> Option<Option<LayerType>> {
    Some(Some(match old {
        "" => return Some(None),
        "accuracy" => LayerType::Accuracy,
        "bnll" => LayerType::Bnll,
        "concat" => LayerType::Concat,
        "conv" => LayerType::Convolution,
        "data" => LayerType::Data,
        "dropout" => LayerType::Dropout,
        "euclidean_loss" => LayerType::EuclideanLoss,
        "flatten" => LayerType::Flatten,
        "hdf5_data" => LayerType::Hdf5Data,
        "hdf5_output" => LayerType::Hdf5Output,
        "im2col" => LayerType::Im2col,
        "images" => LayerType::ImageData,
        "infogain_loss" => LayerType::InfogainLoss,
        "innerproduct" => LayerType::InnerProduct,
        "lrn" => LayerType::Lrn,
        "multinomial_logistic_loss" => LayerType::MultinomialLogisticLoss,
        "pool" => LayerType::Pooling,
        "relu" => LayerType::Relu,
        "sigmoid" => LayerType::Sigmoid,
        "softmax" => LayerType::Softmax,
        "softmax_loss" => LayerType::SoftmaxLoss,
        "split" => LayerType::Split,
        "tanh" => LayerType::Tanh,
        "window_data" => LayerType::WindowData,
        _ => return None,
    }))
}
