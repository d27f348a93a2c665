//! The list of layer types: `caffe layers`, "did you mean" and the docs come from it.

use super::LayerDef;

/// Every layer type, by name.
pub static LAYERS: &[&LayerDef] = &[&super::data::DEF, &super::relu::DEF, &super::split::DEF];

/// The definition of a type.
///
/// # Errors
/// When there is no such type; the message names the nearest ones.
pub fn by_type_name(name: &str) -> crate::Result<&'static LayerDef> {
    if let Some(def) = LAYERS.iter().find(|d| d.type_name == name) {
        return Ok(def);
    }
    let near = LAYERS
        .iter()
        .map(|d| (strsim::damerau_levenshtein(&d.type_name.to_lowercase(), &name.to_lowercase()), d))
        .filter(|(distance, d)| *distance <= d.type_name.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, d)) => {
            crate::bail!("unknown layer type `{name}`; did you mean `{}`?", d.type_name)
        }
        None => crate::bail!("unknown layer type `{name}`; `caffe layers` lists the known types"),
    }
}
