//! The names of Caffe's own tools: called through a link of such a name, the program is that tool.
//!
//! Caffe's build makes one program per tool (`build/tools/convert_imageset`, for the examples also
//! `convert_mnist_data.bin`), and people's scripts call them so. `scripts/install-links.sh` makes
//! links of these names; what arrives as the program's own name decides here.
//!
//! The programs that Caffe itself has given up (`train_net`, `finetune_net`, …) tell their callers what
//! to use instead, as Caffe's do.

use std::ffi::OsStr;
use std::path::Path;

use crate::{Result, bail};

/// Caffe's tools, by the name that both their program and our command have.
pub const TOOLS: [&str; 11] = [
    "classification",
    "compute_image_mean",
    "convert_cifar_data",
    "convert_imageset",
    "convert_mnist_data",
    "convert_mnist_siamese_data",
    "device_query",
    "extract_features",
    "upgrade_net_proto_binary",
    "upgrade_net_proto_text",
    "upgrade_solver_proto_text",
];

/// Programs that Caffe 1.0 still makes but that do nothing, and their sentences.
pub const DEPRECATED: [(&str, &str); 4] = [
    ("finetune_net", "Deprecated. Use caffe train --solver=... [--weights=...] instead."),
    ("net_speed_benchmark", "Deprecated. Use caffe time --model=... [--iterations=50] instead."),
    ("test_net", "Deprecated. Use caffe test --model=... --weights=... instead."),
    ("train_net", "Deprecated. Use caffe train --solver=... [--snapshot=...] instead."),
];

/// Called through the name of a program that Caffe has given up, nothing is done.
///
/// # Errors
/// What to call instead, in Caffe's words.
pub fn refuse_deprecated(program: &OsStr) -> Result<()> {
    let name = tool_name(program);
    match DEPRECATED.into_iter().find(|(tool, _)| Some(*tool) == name) {
        Some((_, sentence)) => bail!("{sentence}"),
        None => Ok(()),
    }
}

fn tool_name(program: &OsStr) -> Option<&str> {
    let name = Path::new(program).file_name()?.to_str()?;
    Some(name.strip_suffix(".bin").unwrap_or(name))
}

/// The command that a program called `program` stands for; `None` for `caffe` and any other name.
pub fn command_of(program: &OsStr) -> Option<&'static str> {
    let name = tool_name(program)?;
    TOOLS.into_iter().find(|tool| *tool == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tools_name_is_its_command_with_or_without_bin() {
        for (program, command) in [
            ("convert_imageset", Some("convert_imageset")),
            ("build/tools/compute_image_mean", Some("compute_image_mean")),
            ("/x/convert_mnist_data.bin", Some("convert_mnist_data")),
            ("caffe", None),
            ("caffe.bin", None),
            ("train", None),
            ("", None),
        ] {
            assert_eq!(command_of(program.as_ref()), command, "{program}");
            assert!(refuse_deprecated(program.as_ref()).is_ok(), "{program}");
        }
        let error = refuse_deprecated("tools/train_net.bin".as_ref()).unwrap_err().to_string();
        assert!(error.contains("Use caffe train --solver"), "{error}");
    }
}
