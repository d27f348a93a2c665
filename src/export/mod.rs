//! Weights and nets for other programs, and weights from them.
//!
//! * [`Weights`]: the weights of a model as named arrays: blob I of layer L is `L/I`
//! * [`safetensors`], [`npz`]: such arrays in the two formats that Python people share
//! * [`onnx`]: an inference net with its weights as an ONNX graph
//!
//! Everything is single precision, as in Caffe; halves and doubles are converted on import.

pub mod npz;
pub mod onnx;
pub mod safetensors;

use std::collections::BTreeMap;
use std::path::Path;

use caffe_proto::{BlobProto, LayerParameter, NetParameter};

use crate::blob::Shape;
use crate::{Error, Result, bail, ensure};

/// An array with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// `LAYER/INDEX`.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f32>,
}

/// The weights of a model as named arrays.
///
/// ```
/// use caffe::export::Weights;
/// let net: caffe_proto::NetParameter = caffe_proto::text::parse(
///     "net",
///     "layer { name: 'ip' type: 'InnerProduct' blobs { shape { dim: 2 } data: 1 data: 2 } }",
/// )?;
/// let weights = Weights::of_model(&net)?;
/// assert_eq!(weights.arrays[0].name, "ip/0");
/// assert_eq!(weights.into_model(None)?.layer[0].blobs, net.layer[0].blobs);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// The arrays, in the model's order.
    pub arrays: Vec<Array>,
}

impl Weights {
    /// The weights in a model.
    ///
    /// # Errors
    /// Two layers of one name, or a blob whose values do not fill its shape.
    pub fn of_model(model: &NetParameter) -> Result<Self> {
        let mut arrays: Vec<Array> = Vec::new();
        for layer in &model.layer {
            for (index, blob) in layer.blobs.iter().enumerate() {
                let name = format!("{}/{index}", layer.name());
                let values = match blob.data.is_empty() {
                    true => blob.double_data.iter().map(|&value| value as f32).collect(),
                    false => blob.data.clone(),
                };
                if values.is_empty() && blob.shape.is_none() {
                    continue; // Owned by another layer, in HDF5 models.
                }
                let shape = Shape::of_proto(blob);
                ensure!(
                    shape.count() == values.len(),
                    "layer `{}`: blob {index} holds {} values for shape {shape}",
                    layer.name(),
                    values.len()
                );
                ensure!(
                    arrays.iter().all(|array| array.name != name),
                    "the model has two layers called `{}`",
                    layer.name()
                );
                arrays.push(Array { name, shape: shape.dims().to_vec(), values });
            }
        }
        Ok(Weights { arrays })
    }

    /// A model with these weights: the layers of `net` in its order, or, without a net, a layer for
    /// each name, which is enough to copy weights from.
    ///
    /// # Errors
    /// Names that are no `LAYER/INDEX`, gaps in a layer's indices, layers that `net` lacks.
    pub fn into_model(self, net: Option<NetParameter>) -> Result<NetParameter> {
        let mut order = Vec::new();
        let mut layers: BTreeMap<String, BTreeMap<usize, BlobProto>> = BTreeMap::new();
        for array in self.arrays {
            let (layer, index) = split(&array.name)?;
            let shape = Shape::new(array.shape).to_proto();
            let blob = BlobProto { shape: Some(shape), data: array.values, ..Default::default() };
            if !layers.contains_key(layer) {
                order.push(layer.to_owned());
            }
            layers.entry(layer.to_owned()).or_default().insert(index, blob);
        }
        let named =
            |name: &String| LayerParameter { name: Some(name.clone()), ..Default::default() };
        let mut net = net.unwrap_or_else(|| NetParameter {
            layer: order.iter().map(named).collect(),
            ..Default::default()
        });
        for layer in &mut net.layer {
            let Some(blobs) = layers.remove(layer.name()) else { continue };
            if let Some(gap) = (0..blobs.len()).find(|index| !blobs.contains_key(index)) {
                bail!(
                    "layer `{}` has {} arrays, but none called `{}/{gap}`",
                    layer.name(),
                    blobs.len(),
                    layer.name()
                );
            }
            layer.blobs = blobs.into_values().collect();
        }
        if let Some(name) = layers.keys().next() {
            bail!(
                "the net has no layer `{name}`, which the arrays name; leave out -model to keep it"
            );
        }
        Ok(net)
    }
}

/// `conv1/0` as layer and index; layer names may have slashes themselves.
fn split(name: &str) -> Result<(&str, usize)> {
    let parts = name.rsplit_once('/').and_then(|(layer, i)| Some((layer, i.parse().ok()?)));
    match parts {
        Some((layer, index)) if !layer.is_empty() && index < 1024 => Ok((layer, index)),
        _ => bail!(
            "array `{name}` is not called LAYER/INDEX, as `conv1/0` for the weights of layer conv1"
        ),
    }
}

/// Puts a file's name before what is wrong with it.
fn about(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(names: &[&str]) -> Weights {
        let array = |&name: &&str| Array { name: name.into(), shape: vec![1], values: vec![0.5] };
        Weights { arrays: names.iter().map(array).collect() }
    }

    #[test]
    fn arrays_find_their_layers_in_any_order() {
        let model = weights(&["b/1", "a/x/0", "b/0"]).into_model(None).unwrap();
        let names: Vec<_> = model.layer.iter().map(|l| (l.name(), l.blobs.len())).collect();
        assert_eq!(names, [("b", 2), ("a/x", 1)]);
        let net: NetParameter =
            caffe_proto::text::parse("net", "layer { name: 'a' } layer { name: 'b' }").unwrap();
        let model = weights(&["b/0"]).into_model(Some(net)).unwrap();
        assert_eq!((model.layer[0].blobs.len(), model.layer[1].blobs.len()), (0, 1));
    }

    #[test]
    fn names_that_make_no_sense_are_refused() {
        let error = |names: &[&str]| weights(names).into_model(None).unwrap_err().to_string();
        assert!(error(&["weights"]).contains("not called LAYER/INDEX"));
        assert!(error(&["a/9999999999999999999999"]).contains("not called LAYER/INDEX"));
        assert!(error(&["a/0", "a/2"]).contains("none called `a/1`"));
        let error = weights(&["a/0"]).into_model(Some(NetParameter::default())).unwrap_err();
        assert!(error.to_string().contains("no layer `a`"));
    }
}
