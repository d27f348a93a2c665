//! Compiles `proto/caffe.proto` with protox (no `protoc` needed): Rust types by prost, and the
//! descriptor set that the text format works from. And `proto/onnx.proto`, for exports, and
//! `proto/event.proto`, for TensorBoard: types only.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_build::Config;

const PROTO: &str = "proto/caffe.proto";
const ONNX: &str = "proto/onnx.proto";
const EVENT: &str = "proto/event.proto";

/// Messages whose optional sub-messages are boxed. A layer has about fifty of them and sets two or
/// three; by value each layer would take some 3 KB.
const BOXED: [&str; 2] = ["LayerParameter", "V1LayerParameter"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let set = protox::compile([PROTO], ["proto"])?;
    fs::write(out.join("caffe.fds"), set.encode_to_vec())?;

    let mut config = Config::new();
    config.enable_type_names();
    config.bytes([".caffe.Datum.data"]);
    for message in set.file.iter().flat_map(|file| &file.message_type) {
        if !BOXED.contains(&message.name()) {
            continue;
        }
        for field in &message.field {
            let single = field.label().as_str_name() != "LABEL_REPEATED";
            if single && field.r#type().as_str_name() == "TYPE_MESSAGE" {
                config.boxed(format!(".caffe.{}.{}", message.name(), field.name()));
            }
        }
    }
    config.compile_fds(set)?;

    for other in [ONNX, EVENT] {
        println!("cargo:rerun-if-changed={other}");
        Config::new().compile_fds(protox::compile([other], ["proto"])?)?;
    }
    Ok(())
}
