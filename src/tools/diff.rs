//! What changed from one prototxt to another, layer by layer.
//!
//! Layers meet by name, phase rules included, since a data layer of each phase commonly has the same
//! name. Settings are compared as written: one that states its default differs from one left out.

use std::collections::BTreeMap;
use std::fmt::Write;

use caffe_proto::{LayerParameter, NetParameter, text};

/// The differences as lines for people: `-` was there, `+` is there now, `~` changed. Empty when the
/// nets say the same.
pub fn diff(old: &NetParameter, new: &NetParameter) -> String {
    let mut out = String::new();
    let bare = |net: &NetParameter| NetParameter { layer: Vec::new(), ..net.clone() };
    changes(&mut out, "net", &text::print(&bare(old)), &text::print(&bare(new)));
    let (before, after) = (keyed(old), keyed(new));
    for (key, layer) in &before {
        match after.iter().find(|(other, _)| other == key) {
            Some((_, now)) => {
                let what = format!("layer {} ({})", key.0, now.r#type());
                changes(&mut out, &what, &text::print(*layer), &text::print(*now));
            }
            None => {
                let _ = writeln!(out, "- layer {} ({})", key.0, layer.r#type());
            }
        }
    }
    for (key, layer) in after.iter().filter(|(key, _)| !before.iter().any(|(k, _)| k == key)) {
        let _ = writeln!(out, "+ layer {} ({})", key.0, layer.r#type());
    }
    out
}

/// Name, rules, and how many such layers stand before it.
type Key = (String, String, usize);

fn keyed(net: &NetParameter) -> Vec<(Key, &LayerParameter)> {
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let key = |layer: &LayerParameter| {
        let rules = format!("{:?} {:?}", layer.include, layer.exclude);
        let before = seen.entry((layer.name().to_owned(), rules.clone())).or_default();
        *before += 1;
        (layer.name().to_owned(), rules, *before)
    };
    net.layer.iter().map(key).zip(&net.layer).collect()
}

/// Lists the settings in which two printed messages differ.
fn changes(out: &mut String, what: &str, old: &str, new: &str) {
    let (old, new) = (settings(old), settings(new));
    let none = Vec::new();
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut named = false;
    for path in paths {
        let [was, is] = [&old, &new].map(|side| side.get(path).unwrap_or(&none));
        if was == is {
            continue;
        }
        if !named {
            let _ = writeln!(out, "~ {what}");
            named = true;
        }
        let _ = match (was.is_empty(), is.is_empty()) {
            (true, _) => writeln!(out, "    + {path}: {}", is.join(", ")),
            (_, true) => writeln!(out, "    - {path}: {}", was.join(", ")),
            _ => writeln!(out, "    {path}: {} -> {}", was.join(", "), is.join(", ")),
        };
    }
}

/// Values of a printed message by the path of their field, such as `convolution_param.pad`.
fn settings(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut blocks: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(block) = line.strip_suffix('{') {
            blocks.push(block.trim());
        } else if line == "}" {
            blocks.pop();
        } else if let Some((field, value)) = line.split_once(": ") {
            let path = blocks.iter().copied().chain([field]).collect::<Vec<_>>().join(".");
            all.entry(path).or_default().push(value.to_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> NetParameter {
        caffe_proto::text::parse("test", text).unwrap()
    }

    #[test]
    fn layers_and_settings_are_told_apart() {
        let old = net("name: 'n' layer { name: 'a' type: 'ReLU' } layer { name: 'b' type: 'TanH' }
                       layer { name: 'c' type: 'Convolution' convolution_param { num_output: 2 pad: 1 } }");
        let new = net("name: 'm' layer { name: 'a' type: 'ReLU' } layer { name: 'd' type: 'ELU' }
                       layer { name: 'c' type: 'Convolution' convolution_param { num_output: 3 stride: 2 } }");
        let want = "~ net\n    name: \"n\" -> \"m\"\n\
                    - layer b (TanH)\n\
                    ~ layer c (Convolution)\n    convolution_param.num_output: 2 -> 3\n    \
                    - convolution_param.pad: 1\n    + convolution_param.stride: 2\n\
                    + layer d (ELU)\n";
        assert_eq!(diff(&old, &new), want);
        assert_eq!(diff(&old, &old), "");
    }
}
