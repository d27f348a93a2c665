//! `layers { type: CONVOLUTION blobs_lr: 1 … }` to `layer { type: "Convolution" param { … } … }`.

use std::mem;

use super::{Change, UpgradeError};
use crate::{
    LayerParameter, NetParameter, ParamSpec, V1LayerParameter, v1_layer_parameter::LayerType,
};

/// Rewrites all layers of the V1 form. Weights are moved.
pub(super) fn upgrade(net: &mut NetParameter) -> Result<Option<Change>, UpgradeError> {
    if net.layers.is_empty() {
        return Ok(None);
    }
    if !net.layer.is_empty() {
        return Err(UpgradeError::MixedLayers);
    }
    net.layer = mem::take(&mut net.layers).into_iter().map(layer).collect();
    Ok(Some(Change::V1Layers { layers: net.layer.len() }))
}

fn layer(old: V1LayerParameter) -> LayerParameter {
    LayerParameter {
        r#type: Some(type_name(old.r#type()).to_owned()),
        param: param_specs(&old),
        name: old.name,
        bottom: old.bottom,
        top: old.top,
        loss_weight: old.loss_weight,
        blobs: old.blobs,
        include: old.include,
        exclude: old.exclude,
        transform_param: old.transform_param,
        loss_param: old.loss_param,
        accuracy_param: old.accuracy_param,
        argmax_param: old.argmax_param,
        concat_param: old.concat_param,
        contrastive_loss_param: old.contrastive_loss_param,
        convolution_param: old.convolution_param,
        data_param: old.data_param,
        dropout_param: old.dropout_param,
        dummy_data_param: old.dummy_data_param,
        eltwise_param: old.eltwise_param,
        exp_param: old.exp_param,
        hdf5_data_param: old.hdf5_data_param,
        hdf5_output_param: old.hdf5_output_param,
        hinge_loss_param: old.hinge_loss_param,
        image_data_param: old.image_data_param,
        infogain_loss_param: old.infogain_loss_param,
        inner_product_param: old.inner_product_param,
        lrn_param: old.lrn_param,
        memory_data_param: old.memory_data_param,
        mvn_param: old.mvn_param,
        pooling_param: old.pooling_param,
        power_param: old.power_param,
        relu_param: old.relu_param,
        sigmoid_param: old.sigmoid_param,
        slice_param: old.slice_param,
        softmax_param: old.softmax_param,
        tanh_param: old.tanh_param,
        threshold_param: old.threshold_param,
        window_data_param: old.window_data_param,
        ..Default::default()
    }
}

/// Four parallel lists of the old form make one list of specs, as long as the longest of them.
fn param_specs(old: &V1LayerParameter) -> Vec<ParamSpec> {
    let lengths =
        [old.param.len(), old.blob_share_mode.len(), old.blobs_lr.len(), old.weight_decay.len()];
    let count = lengths.into_iter().max().unwrap_or(0);
    let spec = |i: usize| ParamSpec {
        name: old.param.get(i).cloned(),
        // STRICT and PERMISSIVE have the same numbers in both enums.
        share_mode: old.blob_share_mode.get(i).copied(),
        lr_mult: old.blobs_lr.get(i).copied(),
        decay_mult: old.weight_decay.get(i).copied(),
    };
    (0..count).map(spec).collect()
}

/// Today's name of a type of the V1 form.
fn type_name(old: LayerType) -> &'static str {
    match old {
        LayerType::None => "",
        LayerType::Absval => "AbsVal",
        LayerType::Accuracy => "Accuracy",
        LayerType::Argmax => "ArgMax",
        LayerType::Bnll => "BNLL",
        LayerType::Concat => "Concat",
        LayerType::ContrastiveLoss => "ContrastiveLoss",
        LayerType::Convolution => "Convolution",
        LayerType::Data => "Data",
        LayerType::Deconvolution => "Deconvolution",
        LayerType::Dropout => "Dropout",
        LayerType::DummyData => "DummyData",
        LayerType::EuclideanLoss => "EuclideanLoss",
        LayerType::Eltwise => "Eltwise",
        LayerType::Exp => "Exp",
        LayerType::Flatten => "Flatten",
        LayerType::Hdf5Data => "HDF5Data",
        LayerType::Hdf5Output => "HDF5Output",
        LayerType::HingeLoss => "HingeLoss",
        LayerType::Im2col => "Im2col",
        LayerType::ImageData => "ImageData",
        LayerType::InfogainLoss => "InfogainLoss",
        LayerType::InnerProduct => "InnerProduct",
        LayerType::Lrn => "LRN",
        LayerType::MemoryData => "MemoryData",
        LayerType::MultinomialLogisticLoss => "MultinomialLogisticLoss",
        LayerType::Mvn => "MVN",
        LayerType::Pooling => "Pooling",
        LayerType::Power => "Power",
        LayerType::Relu => "ReLU",
        LayerType::Sigmoid => "Sigmoid",
        LayerType::SigmoidCrossEntropyLoss => "SigmoidCrossEntropyLoss",
        LayerType::Silence => "Silence",
        LayerType::Softmax => "Softmax",
        LayerType::SoftmaxLoss => "SoftmaxWithLoss",
        LayerType::Split => "Split",
        LayerType::Slice => "Slice",
        LayerType::Tanh => "TanH",
        LayerType::WindowData => "WindowData",
        LayerType::Threshold => "Threshold",
    }
}
