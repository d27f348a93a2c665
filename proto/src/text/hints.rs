//! What might help whoever wrote the faulty text: "did you mean", and the mistakes people make when
//! they mix the newer and the older form of nets.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{
    error::{Fault, position},
    lexer::Token,
};

/// The word among `candidates` that `word` is most likely a misspelling of, if any comes near.
///
/// Case and underscores count little (`NumOutput` is `num_output`); otherwise about a third of the
/// letters may be wrong.
///
/// ```
/// let known = ["Convolution", "Deconvolution", "Pooling"];
/// assert_eq!(caffe_proto::text::closest("Convolutoin", known), Some("Convolution"));
/// assert_eq!(caffe_proto::text::closest("Warp", known), None);
/// ```
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |w: &str| w.replace('_', "").to_ascii_lowercase();
    let wanted = plain(word);
    let limit = (wanted.chars().count() / 3).max(1);
    let near = candidates.into_iter().filter_map(|candidate| {
        let plain = plain(candidate);
        let distance = strsim::damerau_levenshtein(&wanted, &plain);
        let likeness = strsim::jaro_winkler(&wanted, &plain);
        let close = distance <= limit && distance < plain.chars().count();
        close.then_some((distance, likeness, candidate))
    });
    // Among equally distant words, the one that begins alike.
    near.min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1))).map(|(_, _, candidate)| candidate)
}

/// Hints for a field that `desc` does not have.
pub(super) fn for_field(desc: &MessageDescriptor, name: &str) -> Vec<String> {
    if let Some(hint) = other_file(desc, name).or_else(|| old_layer_field(desc, name)) {
        return vec![hint];
    }
    let homes = sub_messages_with(desc, name);
    if !homes.is_empty() {
        return vec![format!("`{name}` belongs inside {}", alternatives(&homes))];
    }
    let fields: Vec<_> = desc.fields().collect();
    match closest(name, fields.iter().map(|field| field.name())) {
        Some(near) => vec![format!("did you mean `{near}`?")],
        None => Vec::new(),
    }
}

/// A solver where a net was expected, or the other way round.
fn other_file(desc: &MessageDescriptor, name: &str) -> Option<String> {
    let (other, this_is, wanted) = match desc.name() {
        "NetParameter" => ("caffe.SolverParameter", "solver", "net"),
        "SolverParameter" => ("caffe.NetParameter", "net", "solver"),
        _ => return None,
    };
    let other = desc.parent_pool().get_message_by_name(other)?;
    other.get_field_by_name(name)?;
    Some(format!(
        "`{name}` is a field of a {this_is}: is this a {this_is} file where a {wanted} file is needed?"
    ))
}

/// Fields that `layers { … }` had and `layer { … }` has not.
fn old_layer_field(desc: &MessageDescriptor, name: &str) -> Option<String> {
    let now = match (desc.name(), name) {
        ("LayerParameter", "blobs_lr") => "param { lr_mult: … }",
        ("LayerParameter", "weight_decay") => "param { decay_mult: … }",
        ("LayerParameter", "blob_share_mode") => "param { share_mode: … }",
        _ => return None,
    };
    Some(format!("`{name}` is of the old form `layers {{ … }}`; in `layer {{ … }}` write `{now}`"))
}

/// The message fields of `desc` whose message has a field `name`, at most three of them.
fn sub_messages_with(desc: &MessageDescriptor, name: &str) -> Vec<String> {
    let has = |field: &FieldDescriptor| match field.kind() {
        Kind::Message(inner) => inner.get_field_by_name(name).is_some(),
        _ => false,
    };
    let homes = desc.fields().filter(has).take(3);
    homes.map(|field| format!("`{} {{ … }}`", field.name())).collect()
}

fn alternatives(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

/// Hints for a name or number that is no value of `desc`.
pub(super) fn for_enum_value(desc: &EnumDescriptor, value: &str) -> Vec<String> {
    let values: Vec<_> = desc.values().collect();
    if let Some(near) = closest(value, values.iter().map(|value| value.name())) {
        return vec![format!("did you mean `{near}`?")];
    }
    if values.len() > 8 {
        return Vec::new();
    }
    let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.name())).collect();
    vec![format!("its values are {}", names.join(", "))]
}

/// Hints for a token that cannot be an enum value at all.
pub(super) fn for_enum_token(desc: &EnumDescriptor, token: &Token<'_>) -> Vec<String> {
    match token {
        Token::Str(_) if desc.name() == "LayerType" => vec![
            "`layers { … }` is the old form, whose types are names like CONVOLUTION; for types in \
             quotes write `layer { … }`"
                .to_owned(),
        ],
        Token::Str(_) => vec!["enum values are written without quotes".to_owned()],
        _ => Vec::new(),
    }
}

/// Hints for a token where the string of `field` was expected.
pub(super) fn for_string(field: &FieldDescriptor, token: &Token<'_>) -> Vec<String> {
    let layer_type = field.full_name() == "caffe.LayerParameter.type";
    match token {
        Token::Ident(name) if layer_type && name.bytes().all(|b| !b.is_ascii_lowercase()) => {
            vec!["types like CONVOLUTION are of the old form `layers { … }`; in `layer { … }` write \
                  the type in quotes, like \"Convolution\""
                .to_owned()]
        }
        Token::Ident(name) => vec![format!("write it in quotes: \"{name}\"")],
        _ => Vec::new(),
    }
}

/// Hints for faults of the lexer.
pub(super) fn for_fault(fault: &Fault) -> Vec<String> {
    let hint = match fault {
        Fault::StrayCharacter { found: '=' } => "fields are written `name: value`",
        Fault::StrayCharacter { found: '/' | '*' } => "comments begin with `#`",
        Fault::StrayCharacter { found: '“' | '”' | '‘' | '’' } => {
            "strings are written in plain quotes, \" or '"
        }
        Fault::BadEscape => "a backslash itself is written `\\\\`",
        _ => return Vec::new(),
    };
    vec![hint.to_owned()]
}

/// Points to a string that runs over several lines before the fault.
pub(super) fn long_string(text: &str, opened: usize) -> String {
    let line = position(text, opened).0;
    format!(
        "the string opened on line {line} runs over several lines: is its closing quote missing?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_wins_and_distant_ones_are_not_guessed() {
        let known = ["num_output", "bias_term", "kernel_size", "kernel_h", "pad", "pad_h"];
        assert_eq!(closest("num_ouput", known), Some("num_output"));
        assert_eq!(closest("NumOutput", known), Some("num_output"));
        assert_eq!(closest("kernel", known), Some("kernel_h"));
        assert_eq!(closest("padd", known), Some("pad"));
        assert_eq!(closest("stride", known), None);
        assert_eq!(closest("x", ["a"]), None);
    }
}
