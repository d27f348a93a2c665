//! What clap has against a command line, in one line.

use caffe_proto::text::closest;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// One clear line for what clap has against the arguments of `command`.
pub fn explain(command: &str, refusal: &clap::Error) -> String {
    let text = |kind| match refusal.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(all)) => all.join(", "),
        Some(ContextValue::StyledStr(s)) => s.to_string(),
        _ => String::new(),
    };
    let (arg, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    // `--mode <MODE>` is `--mode` to whoever typed it.
    let flag = arg.split(' ').next().unwrap_or_default();
    match refusal.kind() {
        ErrorKind::MissingRequiredArgument => {
            format!("`caffe {command}` needs {arg}; `caffe {command} --help` explains")
        }
        ErrorKind::UnknownArgument => {
            format!("`caffe {command}` has no use for `{arg}`; `caffe {command} --help` explains")
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{flag} needs a value"),
        ErrorKind::InvalidValue => {
            let known = match refusal.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(known)) => known.as_slice(),
                _ => &[],
            };
            let near = closest(&value, known.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            format!("{flag} is one of {}, not `{value}`{near}", known.join(", "))
        }
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(refusal).map(|e| format!(": {e}"));
            format!("{flag} cannot be `{value}`{}", reason.unwrap_or_default())
        }
        _ => {
            let whole = refusal.render().to_string();
            let line = whole.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}
