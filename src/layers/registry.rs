//! The list of layer types: `caffe layers`, "did you mean" and the docs come from it.

use super::LayerDef;

/// Every layer type, by name.
pub static LAYERS: &[&LayerDef] = &[
    &super::abs_val::DEF,
    &super::accuracy::DEF,
    &super::arg_max::DEF,
    &super::batch_norm::DEF,
    &super::batch_reindex::DEF,
    &super::bias::DEF,
    &super::bnll::DEF,
    &super::clip::DEF,
    &super::concat::DEF,
    &super::contrastive_loss::DEF,
    &super::convolution::DEF,
    &super::convolution::transposed::DEF,
    &super::crop::DEF,
    &super::data::DEF,
    &super::dropout::DEF,
    &super::dummy_data::DEF,
    &super::eltwise::DEF,
    &super::elu::DEF,
    &super::embed::DEF,
    &super::euclidean_loss::DEF,
    &super::exp::DEF,
    &super::filter::DEF,
    &super::flatten::DEF,
    &super::hdf5_data::DEF,
    &super::hdf5_output::DEF,
    &super::hinge_loss::DEF,
    &super::im2col::DEF,
    &super::image_data::DEF,
    &super::infogain_loss::DEF,
    &super::inner_product::DEF,
    &super::input::DEF,
    &super::log::DEF,
    &super::lrn::DEF,
    &super::memory_data::DEF,
    &super::multinomial_logistic_loss::DEF,
    &super::mvn::DEF,
    &super::parameter::DEF,
    &super::pooling::DEF,
    &super::power::DEF,
    &super::prelu::DEF,
    &super::python::DEF,
    &super::recurrent::lstm::DEF,
    &super::recurrent::lstm_unit::DEF,
    &super::recurrent::rnn::DEF,
    &super::reduction::DEF,
    &super::relu::DEF,
    &super::reshape::DEF,
    &super::scale::DEF,
    &super::sigmoid::DEF,
    &super::sigmoid_cross_entropy_loss::DEF,
    &super::silence::DEF,
    &super::slice::DEF,
    &super::softmax::DEF,
    &super::softmax_loss::DEF,
    &super::split::DEF,
    &super::spp::DEF,
    &super::swish::DEF,
    &super::tanh::DEF,
    &super::threshold::DEF,
    &super::tile::DEF,
    &super::window_data::DEF,
];

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
        .map(|d| {
            (strsim::damerau_levenshtein(&d.type_name.to_lowercase(), &name.to_lowercase()), d)
        })
        .filter(|(distance, d)| *distance <= d.type_name.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, d)) => {
            crate::bail!("unknown layer type `{name}`; did you mean `{}`?", d.type_name)
        }
        None => crate::bail!("unknown layer type `{name}`; `caffe layers` lists the known types"),
    }
}
