//! How long each layer of a net takes, forward and backward: the file that `caffe time --profile`
//! writes and that emulated devices and `caffe plan` read.
//!
//! ```
//! use caffe::tools::profile::{LayerTime, Profile};
//!
//! let layer = LayerTime { name: "ip".into(), forward_ms: 1.0, backward_ms: 2.0, parameters: 10 };
//! let profile = Profile { net: "small".into(), machine: "a desk".into(), layers: vec![layer] };
//! assert_eq!(profile.scaled(30.0).layers[0].backward_ms, 20.0);
//! ```

use std::path::Path;

use caffe_proto::write_file_atomic;
use serde::{Deserialize, Serialize};

use super::cost::{Cost, cost};
use crate::net::{Net, Pass};
use crate::{Error, Result, bail, ensure};

/// Rates of the device that [`Profile::estimated`] assumes: operations and bytes per second, about
/// half of what a Tesla P40 has at its best (11.8 TFLOP/s and 346 GB/s by its data sheet).
const RATES: [f64; 2] = [6e12, 173e9];

/// Times of one layer, in milliseconds, for one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTime {
    /// The layer.
    pub name: String,
    /// Forward.
    pub forward_ms: f64,
    /// Backward.
    pub backward_ms: f64,
    /// Parameters that it owns. For the reader; nothing is computed from them.
    #[serde(default)]
    pub parameters: usize,
}

/// Times of a net's layers on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Name of the net.
    pub net: String,
    /// What it was measured on, in words.
    #[serde(default)]
    pub machine: String,
    /// Its layers, in the net's order.
    pub layers: Vec<LayerTime>,
}

impl Profile {
    /// Reads a profile, JSON.
    ///
    /// # Errors
    /// A file that cannot be read, is no profile, or has times below 0.
    pub fn read(path: &Path) -> Result<Profile> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let name = path.display();
        let profile: Profile = match serde_json::from_str(&text) {
            Ok(profile) => profile,
            Err(e) => bail!("{name}: {e}; `caffe time --profile={name}` writes such a file"),
        };
        ensure!(!profile.layers.is_empty(), "{name}: has no layers");
        for layer in &profile.layers {
            let fine = |ms: f64| ms.is_finite() && ms >= 0.0;
            ensure!(
                fine(layer.forward_ms) && fine(layer.backward_ms),
                "{name}: layer `{}` has a time that is no number of milliseconds",
                layer.name
            );
        }
        Ok(profile)
    }

    /// Writes it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        match serde_json::to_vec_pretty(self) {
            Ok(bytes) => Ok(write_file_atomic(path, &bytes)?),
            Err(e) => bail!("{}: {e}", path.display()),
        }
    }

    /// What the net's layers would take on a device of about half a Tesla P40's peak rates: the
    /// longer of the operations' and the bytes' time.
    pub fn estimated(net: &Net) -> Profile {
        let ms = |index: usize, pass: Pass| {
            let Cost { flops, bytes } = cost(net, index, pass);
            1e3 * (flops as f64 / RATES[0]).max(bytes as f64 / RATES[1])
        };
        let layers = net.layers().iter().enumerate().map(|(index, node)| LayerTime {
            name: node.name().to_owned(),
            forward_ms: ms(index, Pass::Forward),
            backward_ms: ms(index, Pass::Backward),
            parameters: own_parameters(net, index),
        });
        let machine = "estimated from operations and bytes".to_owned();
        Profile { net: net.name().to_owned(), machine, layers: layers.collect() }
    }

    /// Milliseconds of a whole iteration.
    pub fn total_ms(&self) -> f64 {
        self.layers.iter().map(|layer| layer.forward_ms + layer.backward_ms).sum()
    }

    /// The same proportions with another total. All zeros stay zeros.
    #[must_use]
    pub fn scaled(&self, total_ms: f64) -> Profile {
        let now = self.total_ms();
        let factor = if now > 0.0 { total_ms / now } else { 1.0 };
        let mut scaled = self.clone();
        for layer in &mut scaled.layers {
            layer.forward_ms *= factor;
            layer.backward_ms *= factor;
        }
        scaled
    }
}

/// Number of parameters that layer number `index` owns.
pub fn own_parameters(net: &Net, index: usize) -> usize {
    let params = net.arena().params().iter();
    params.filter(|p| p.layer == index).map(|p| p.shape.count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_from_its_file_and_refuses_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let layer =
            LayerTime { name: "a".into(), forward_ms: 1.5, backward_ms: 3.0, parameters: 7 };
        let profile = Profile { net: "n".into(), machine: "m".into(), layers: vec![layer] };
        profile.write(&path).unwrap();
        assert_eq!(Profile::read(&path).unwrap(), profile);
        assert_eq!(profile.scaled(9.0).total_ms(), 9.0);
        for (text, complaint) in [
            ("{", "EOF"),
            (r#"{"net": "n", "layers": []}"#, "has no layers"),
            (
                r#"{"net":"n","layers":[{"name":"a","forward_ms":-1,"backward_ms":0}]}"#,
                "layer `a` has a time",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Profile::read(&path).unwrap_err().to_string();
            assert!(error.contains(complaint) && error.contains("p.json"), "{error}");
        }
    }
}
