//! Brings definitions and models of older Caffe versions into today's form.
//!
//! One file for each step, in the order they run. Every step says what it changed, for the log.
//! What BVLC Caffe upgrades silently on load is upgraded here, to the same result, back to the nets
//! of 2013 (V0: `layers { layer { … } }`).
//!
//! ```
//! use caffe_proto::{NetParameter, text, upgrade};
//!
//! let old = "layers { name: 'ip' type: INNER_PRODUCT bottom: 'x' top: 'y' blobs_lr: 1 blobs_lr: 2 }";
//! let mut net: NetParameter = text::parse("old.prototxt", old)?;
//! let changes = upgrade::upgrade_net(&mut net)?;
//!
//! assert_eq!(net.layer[0].r#type(), "InnerProduct");
//! assert_eq!(net.layer[0].param[1].lr_mult(), 2.0);
//! assert_eq!(changes[0].to_string(), "1 layer of the old form `layers { … }` read as `layer { … }`");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch_norm;
mod net_input;
mod snapshot_prefix;
mod solver_type;
mod transform_fields;
mod v0_layers;
mod v1_layers;

use std::fmt;

use crate::{NetParameter, SolverParameter};

pub(crate) use self::snapshot_prefix::settle as settle_snapshot_prefix;

/// Something an upgrade did, or saw and left alone. Its `Display` is a line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Layers were rewritten from the V0 form to the V1 form.
    V0Layers {
        /// How many there are now.
        layers: usize,
        /// Where, among the old ones, padding layers stood; they are now the `pad` of others.
        padding: Vec<usize>,
    },
    /// Settings of a V0 layer that its type has no use for, as its Caffe ignored them.
    V0FieldsDropped {
        /// The layer.
        layer: String,
        /// The settings.
        fields: Vec<String>,
    },
    /// Layers were rewritten from the V1 form.
    V1Layers {
        /// How many.
        layers: usize,
    },
    /// Transformation settings of a data layer of the V1 form moved to `transform_param`.
    TransformFields {
        /// The layer.
        layer: String,
        /// The settings, like `data_param.scale`.
        fields: Vec<String>,
    },
    /// Transformation settings in a data layer of today's form, where Caffe ignores them.
    TransformFieldsIgnored {
        /// The layer.
        layer: String,
        /// The settings, like `data_param.scale`.
        fields: Vec<String>,
    },
    /// The net's `input` fields became an Input layer.
    NetInput {
        /// The inputs.
        inputs: Vec<String>,
    },
    /// The net's `input` fields were dropped since no shape was given.
    InputsDropped {
        /// The inputs.
        inputs: Vec<String>,
    },
    /// Learning rates and decays of a BatchNorm layer's three statistics were set to 0.
    BatchNormSpecs {
        /// The layer.
        layer: String,
    },
    /// The solver's type by number became its name.
    SolverType {
        /// The name.
        name: &'static str,
    },
    /// The solver's `snapshot_prefix` was missing or a folder.
    SnapshotPrefix {
        /// What it is now.
        prefix: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V0Layers { layers, padding } => {
                let s = if *layers == 1 { "" } else { "s" };
                write!(
                    f,
                    "{layers} layer{s} of the oldest form `layers {{ layer {{ … }} }}` read"
                )?;
                match padding.len() {
                    0 => Ok(()),
                    n => write!(f, ", {n} padding layer{} merged", if n == 1 { "" } else { "s" }),
                }
            }
            Self::V0FieldsDropped { layer, fields } => write!(
                f,
                "layer `{layer}`: {} dropped, since layers of its type have no such setting",
                fields.join(", ")
            ),
            Self::V1Layers { layers } => {
                let s = if *layers == 1 { "" } else { "s" };
                write!(
                    f,
                    "{layers} layer{s} of the old form `layers {{ … }}` read as `layer {{ … }}`"
                )
            }
            Self::TransformFields { layer, fields } => {
                write!(f, "layer `{layer}`: {} moved to transform_param", fields.join(", "))
            }
            Self::TransformFieldsIgnored { layer, fields } => write!(
                f,
                "layer `{layer}`: {} ignored, as by Caffe; write it in transform_param if it should \
                 count",
                fields.join(", ")
            ),
            Self::NetInput { inputs } => {
                write!(f, "net input {} read as an Input layer", inputs.join(", "))
            }
            Self::InputsDropped { inputs } => {
                write!(f, "net input {} has no shape and was dropped", inputs.join(", "))
            }
            Self::BatchNormSpecs { layer } => write!(
                f,
                "layer `{layer}`: lr_mult and decay_mult of the BatchNorm statistics set to 0"
            ),
            Self::SolverType { name } => write!(f, "solver_type read as type: \"{name}\""),
            Self::SnapshotPrefix { prefix } => write!(f, "snapshot_prefix set to \"{prefix}\""),
        }
    }
}

/// Why a definition in an old form cannot be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// A layer of the oldest form with a type that never was.
    #[error(
        "layer `{layer}` has type \"{kind}\", which the form `layers {{ layer {{ … }} }}` of 2013 does not know"
    )]
    V0Type {
        /// The layer's name.
        layer: String,
        /// Its type.
        kind: String,
        /// Its position among the net's layers.
        index: usize,
    },
    /// A padding layer before something that cannot pad.
    #[error(
        "layer `{layer}` reads a padding layer, but only conv and pool layers with one bottom can"
    )]
    V0Padding {
        /// The layer that reads it.
        layer: String,
        /// Its position among the net's layers.
        index: usize,
    },
    /// Layers of the two oldest forms in one net.
    #[error(
        "layer `{layer}` has no `layer {{ … }}` inside, unlike others in this net: write all in one form"
    )]
    MixedV0Layers {
        /// The layer's name.
        layer: String,
        /// Its position among the net's layers.
        index: usize,
    },
    /// Layers of two forms in one net.
    #[error(
        "the net has both `layer {{ … }}` and the old form `layers {{ … }}`: write all in one form"
    )]
    MixedLayers,
    /// As many shapes as inputs are needed.
    #[error(
        "the net has {inputs} `input`s but {shapes} `{field}`s; needed are {per_input} for each input"
    )]
    InputShapes {
        /// Number of inputs.
        inputs: usize,
        /// Number of `field`s.
        shapes: usize,
        /// `input_shape` or `input_dim`.
        field: &'static str,
        /// How many of `field` make one input.
        per_input: usize,
    },
    /// A solver with its type given twice.
    #[error("the solver has both `type: \"{name}\"` and the old `solver_type`: keep `type` only")]
    TwoSolverTypes {
        /// The type by name.
        name: String,
    },
}

impl UpgradeError {
    /// The position among the net's layers of the layer concerned, if it is one.
    pub fn layer_index(&self) -> Option<usize> {
        match self {
            Self::V0Type { index, .. }
            | Self::V0Padding { index, .. }
            | Self::MixedV0Layers { index, .. } => Some(*index),
            _ => None,
        }
    }
}

/// Upgrades a net, or a model with its weights (which are moved, not copied).
///
/// # Errors
/// Forms that cannot be upgraded. The net is then partly upgraded and should be dropped.
pub fn upgrade_net(net: &mut NetParameter) -> Result<Vec<Change>, UpgradeError> {
    let mut changes = v0_layers::upgrade(net)?;
    changes.extend(transform_fields::upgrade(net));
    changes.extend(v1_layers::upgrade(net)?);
    changes.extend(net_input::upgrade(net)?);
    changes.extend(batch_norm::upgrade(net));
    Ok(changes)
}

/// Upgrades a solver and the nets written inside it.
///
/// # Errors
/// Forms that cannot be upgraded. The solver is then partly upgraded and should be dropped.
pub fn upgrade_solver(solver: &mut SolverParameter) -> Result<Vec<Change>, UpgradeError> {
    let mut changes: Vec<_> = solver_type::upgrade(solver)?.into_iter().collect();
    let nets = solver.net_param.iter_mut().chain(&mut solver.train_net_param);
    for net in nets.chain(&mut solver.test_net_param) {
        changes.extend(upgrade_net(net)?);
    }
    Ok(changes)
}
