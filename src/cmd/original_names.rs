//! The names of Caffe's own tools: called through a link of such a name, the program is that tool.
//!
//! Caffe's build makes one program per tool (`build/tools/convert_imageset`, for the examples also
//! `convert_mnist_data.bin`), and people's scripts call them so. `scripts/install-links.sh` makes
//! links of these names; what arrives as the program's own name decides here.
//!
//! Not here: the tools Caffe itself has given up (`train_net`, `finetune_net`, …), which only tell
//! their callers to use `caffe train`.

use std::ffi::OsStr;
use std::path::Path;

/// Caffe's tools, by the name that both their program and our command have.
pub const TOOLS: [&str; 9] = [
    "compute_image_mean",
    "convert_cifar_data",
    "convert_imageset",
    "convert_mnist_data",
    "device_query",
    "extract_features",
    "upgrade_net_proto_binary",
    "upgrade_net_proto_text",
    "upgrade_solver_proto_text",
];

/// The command that a program called `program` stands for; `None` for `caffe` and any other name.
pub fn command_of(program: &OsStr) -> Option<&'static str> {
    let name = Path::new(program).file_name()?.to_str()?;
    let name = name.strip_suffix(".bin").unwrap_or(name);
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
        }
    }
}
