//! Helpers of the layers' unit tests.

use caffe_proto::{NetParameter, Phase};

use crate::net::{Net, NetOptions, Origin};

/// A net of this prototxt, all memory kept.
pub fn net(text: &str, phase: Phase) -> Net {
    try_net(text, phase).unwrap()
}

/// A net of this prototxt, or what is wrong with it.
pub fn try_net(text: &str, phase: Phase) -> crate::Result<Net> {
    let param: NetParameter = caffe_proto::text::parse("test", text).unwrap();
    Net::new(&param, &Origin::default(), &NetOptions { keep_all: true, ..NetOptions::new(phase) })
}

/// Sets a blob's values.
pub fn set(net: &mut Net, blob: &str, values: &[f32]) {
    let id = net.blob(blob).unwrap();
    net.data_mut(id).unwrap().copy_from_slice(values);
}

/// A blob's values.
pub fn values(net: &mut Net, blob: &str) -> Vec<f32> {
    let id = net.blob(blob).unwrap();
    net.data(id).unwrap().to_vec()
}

/// A blob's gradient.
pub fn gradient(net: &mut Net, blob: &str) -> Vec<f32> {
    let id = net.blob(blob).unwrap();
    net.diff(id).unwrap().to_vec()
}

/// An Input layer.
pub fn input(name: &str, dims: &[usize]) -> String {
    let dims: String = dims.iter().map(|d| format!("dim: {d} ")).collect();
    format!(
        "layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }} "
    )
}

/// What is wrong with a training net.
pub fn message(text: &str) -> String {
    try_net(text, Phase::Train).err().unwrap().to_string()
}
