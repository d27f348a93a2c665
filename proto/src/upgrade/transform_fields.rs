//! `data_param { scale … mean_file … crop_size … mirror … }` to `transform_param { … }`.
//!
//! Data layers had these settings themselves before there was a `transform_param`. In layers of
//! the V1 form they count and are moved. In layers of today's form Caffe ignores them without a
//! word; they are ignored here too, so that a net trains as it does there, but reported.

use super::Change;
use crate::{NetParameter, TransformationParameter};

/// The old settings inside one of a layer's messages.
struct OldFields<'a> {
    message: &'static str,
    scale: &'a mut Option<f32>,
    mean_file: &'a mut Option<String>,
    crop_size: &'a mut Option<u32>,
    mirror: &'a mut Option<bool>,
}

/// The old settings of a layer of either form: three messages have them, under the same names.
macro_rules! old_fields {
    ($layer:expr) => {
        [
            old_fields!($layer, data_param),
            old_fields!($layer, image_data_param),
            old_fields!($layer, window_data_param),
        ]
        .into_iter()
        .flatten()
    };
    ($layer:expr, $message:ident) => {
        $layer.$message.as_deref_mut().map(|param| OldFields {
            message: stringify!($message),
            scale: &mut param.scale,
            mean_file: &mut param.mean_file,
            crop_size: &mut param.crop_size,
            mirror: &mut param.mirror,
        })
    };
}

impl OldFields<'_> {
    /// The names of those that are set, like `data_param.scale`.
    fn names(&self) -> Vec<String> {
        let set = [
            (self.scale.is_some(), "scale"),
            (self.mean_file.is_some(), "mean_file"),
            (self.crop_size.is_some(), "crop_size"),
            (self.mirror.is_some(), "mirror"),
        ];
        let set = set.into_iter().filter(|(is_set, _)| *is_set);
        set.map(|(_, name)| format!("{}.{name}", self.message)).collect()
    }

    /// Moves those that are set, over whatever `target` has.
    fn move_to(self, target: &mut TransformationParameter) {
        target.scale = self.scale.take().or(target.scale);
        target.mean_file = self.mean_file.take().or(target.mean_file.take());
        target.crop_size = self.crop_size.take().or(target.crop_size);
        target.mirror = self.mirror.take().or(target.mirror);
    }
}

/// Moves the settings of V1 layers, and reports those of today's layers.
pub(super) fn upgrade(net: &mut NetParameter) -> Vec<Change> {
    let mut changes = Vec::new();
    for layer in &mut net.layers {
        let mut fields = Vec::new();
        for old in old_fields!(layer) {
            let names = old.names();
            if !names.is_empty() {
                old.move_to(layer.transform_param.get_or_insert_default());
                fields.extend(names);
            }
        }
        if !fields.is_empty() {
            let layer = layer.name().to_owned();
            changes.push(Change::TransformFields { layer, fields });
        }
    }
    for layer in &mut net.layer {
        let fields: Vec<_> = old_fields!(layer).flat_map(|old| old.names()).collect();
        if !fields.is_empty() {
            let layer = layer.name().to_owned();
            changes.push(Change::TransformFieldsIgnored { layer, fields });
        }
    }
    changes
}
