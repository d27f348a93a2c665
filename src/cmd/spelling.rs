//! Caffe's ways of writing a command line, brought into the one that clap reads.
//!
//! Caffe's programs read their flags with gflags: one dash or two, the value behind `=` or as the
//! next word, `-flag` and `-noflag` for switches, flags before or after the command, the last of two
//! equal flags counts. Here each becomes `--flag=value` behind the command's name; `_` and `-` inside
//! a name are the same. What flags there are is read from the [`clap::Command`]; a flag that is not
//! among them is refused here, since here the nearest one is known.
//!
//! ```
//! use caffe::cmd::spelling::normalise;
//! use clap::{Arg, Command};
//! let mut cli = Command::new("caffe").subcommand(
//!     Command::new("train").arg(Arg::new("solver").long("solver")).arg(Arg::new("gpu").long("gpu")),
//! );
//! cli.build();
//! let words = ["-solver", "x.prototxt", "train", "-gpu=0"].map(Into::into);
//! let words = normalise(&cli, words.to_vec())?;
//! assert_eq!(words, ["caffe", "train", "--solver=x.prototxt", "--gpu=0"]);
//! # Ok::<(), caffe::Error>(())
//! ```

use std::ffi::OsString;

use caffe_proto::text::closest;
use clap::{Arg, Command};

use crate::{Result, bail};

/// glog's switches that ask for what is done anyway: the log goes to standard error.
const LOG_TO_STDERR: [&str; 2] = ["logtostderr", "alsologtostderr"];

/// Other flags of glog, which people have in their scripts.
const GLOG: [&str; 4] = ["log_dir", "minloglevel", "stderrthreshold", "v"];

/// A word that looks like a flag, taken apart.
struct Flag<'a> {
    /// As typed, without the value.
    typed: &'a str,
    /// Without dashes in front, with `_` throughout.
    name: String,
    /// Behind `=`.
    value: Option<&'a str>,
}

impl<'a> Flag<'a> {
    fn parse(word: &'a OsString) -> Option<Self> {
        let word = word.to_str()?;
        let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        if body.is_empty() || body.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return None;
        }
        let (typed, value) = match word.split_once('=') {
            Some((typed, value)) => (typed, Some(value)),
            None => (word, None),
        };
        let name = typed.trim_start_matches('-').replace('-', "_");
        Some(Flag { typed, name, value })
    }

    /// The flag among those of `command` that this one is.
    fn of<'c>(&self, command: &'c Command) -> Option<&'c Arg> {
        command.get_arguments().find(|a| long(a).as_deref() == Some(&self.name))
    }

    /// The switch that this one turns off.
    fn turned_off_of<'c>(&self, command: &'c Command) -> Option<&'c Arg> {
        let name = self.name.strip_prefix("no")?;
        let named = |a: &&Arg| long(a).as_deref() == Some(name) && !takes_value(a);
        command.get_arguments().find(named)
    }
}

fn long(arg: &Arg) -> Option<String> {
    arg.get_long().map(|l| l.replace('-', "_"))
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Rewrites `args` (without the program's name) for `cli`, which has to be built
/// ([`Command::build`]).
///
/// # Errors
/// No command or an unknown one, an unknown flag, a flag without its value; the message names the
/// nearest command or flag.
pub fn normalise(cli: &Command, args: Vec<OsString>) -> Result<Vec<OsString>> {
    let flags = || args.iter().filter_map(Flag::parse);
    if flags().any(|f| f.name == "version" || f.typed == "-V") {
        return Ok(words(["caffe", "--version"]));
    }
    let wants_help = flags().any(|f| f.name == "help" || f.typed == "-h");
    let Some(at) = command_position(cli, &args) else {
        if wants_help {
            return Ok(words(["caffe", "--help"]));
        }
        bail!("no command is given; `caffe --help` lists the commands");
    };
    let mut rest = args.clone();
    let name = rest.remove(at).to_string_lossy().into_owned();
    if name == "help" {
        let about = rest.iter().find_map(|w| w.to_str()).filter(|w| !w.starts_with('-'));
        return match about {
            Some(command) => Ok(words(["caffe", find(cli, command)?.get_name(), "--help"])),
            None => Ok(words(["caffe", "--help"])),
        };
    }
    let command = find(cli, &name)?;
    if wants_help {
        return Ok(words(["caffe", command.get_name(), "--help"]));
    }
    let mut out = words(["caffe", command.get_name()]);
    rewrite(cli, command, &rest, &mut out)?;
    Ok(out)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

fn find<'c>(cli: &'c Command, name: &str) -> Result<&'c Command> {
    if let Some(command) = cli.get_subcommands().find(|c| c.get_name() == name.replace('-', "_")) {
        return Ok(command);
    }
    match closest(name, cli.get_subcommands().map(Command::get_name)) {
        Some(near) => bail!("unknown command `{name}`; did you mean `{near}`?"),
        None => bail!("unknown command `{name}`; `caffe --help` lists the commands"),
    }
}

/// Where the command stands: the first word that is neither a flag nor the value of one.
fn command_position(cli: &Command, args: &[OsString]) -> Option<usize> {
    let mut i = 0;
    while i < args.len() {
        let Some(flag) = Flag::parse(&args[i]) else { return Some(i) };
        let mut meant = cli.get_subcommands().filter_map(|c| flag.of(c));
        let value_follows = flag.value.is_none() && meant.any(takes_value);
        i += if value_follows { 2 } else { 1 };
    }
    None
}

/// Appends the flags and then the other words of `rest` to `out`.
fn rewrite(
    cli: &Command,
    command: &Command,
    rest: &[OsString],
    out: &mut Vec<OsString>,
) -> Result<()> {
    // By name, so that the last one counts.
    let mut flags: Vec<(&str, OsString)> = Vec::new();
    let mut plain = Vec::new();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            plain.extend(rest.by_ref().cloned());
            break;
        }
        let Some(flag) = Flag::parse(word) else {
            plain.push(word.clone());
            continue;
        };
        if LOG_TO_STDERR.contains(&flag.name.as_str()) {
            continue;
        }
        let off = flag.turned_off_of(command);
        let Some(arg) = flag.of(command).or(off) else { return Err(unknown(cli, command, &flag)) };
        let name = arg.get_long().unwrap_or_default();
        flags.retain(|(other, _)| *other != name);
        if takes_value(arg) {
            let value = match flag.value {
                Some(value) => OsString::from(value),
                None => match rest.next() {
                    Some(value) => value.clone(),
                    None => bail!("`{}` needs a value behind it", flag.typed),
                },
            };
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            flags.push((name, word));
        } else if truth(&flag)? != (off.is_some() && flag.of(command).is_none()) {
            flags.push((name, format!("--{name}").into()));
        }
    }
    out.extend(flags.into_iter().map(|(_, word)| word));
    if !plain.is_empty() {
        out.push("--".into());
        out.extend(plain);
    }
    Ok(())
}

/// What a switch is set to, in the words that gflags takes.
fn truth(flag: &Flag<'_>) -> Result<bool> {
    let Some(value) = flag.value else { return Ok(true) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "n" | "no" => Ok(false),
        _ => bail!("`{}` is true or false, not `{value}`", flag.typed),
    }
}

fn unknown(cli: &Command, command: &Command, flag: &Flag<'_>) -> crate::Error {
    let (typed, name) = (flag.typed, command.get_name());
    let elsewhere: Vec<String> = cli
        .get_subcommands()
        .filter(|c| flag.of(c).is_some())
        .map(|c| format!("`caffe {}`", c.get_name()))
        .collect();
    let near = closest(&flag.name, command.get_arguments().filter_map(Arg::get_long));
    let hint = if GLOG.contains(&flag.name.as_str()) {
        "; it is glog's, and this program's log always goes to standard error: use `2> FILE`".into()
    } else if !elsewhere.is_empty() {
        format!("; it belongs to {}", elsewhere.join(", "))
    } else if let Some(near) = near {
        let dashes = if typed.starts_with("--") { "--" } else { "-" };
        format!("; did you mean `{dashes}{near}`?")
    } else {
        format!("; `caffe {name} --help` lists them")
    };
    crate::Error::Invalid(format!("`caffe {name}` has no flag `{typed}`{hint}"))
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn cli() -> Command {
        let value = |name: &'static str| Arg::new(name).long(name);
        let mut cli = Command::new("caffe")
            .subcommand(
                Command::new("train")
                    .arg(value("solver"))
                    .arg(value("gpu"))
                    .arg(value("level"))
                    .arg(value("sigint_effect"))
                    .arg(Arg::new("exact").long("exact").action(ArgAction::SetTrue))
                    .arg(Arg::new("layers").long("trace-layers").action(ArgAction::SetTrue)),
            )
            .subcommand(Command::new("test").arg(value("model")).arg(value("iterations")))
            .subcommand(Command::new("convert_data").arg(value("backend")).arg(Arg::new("db")));
        cli.build();
        cli
    }

    fn normal(line: &str) -> String {
        match normalise(&cli(), line.split(' ').map(Into::into).collect()) {
            Ok(words) => words.join(" ".as_ref()).into_string().unwrap(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn all_of_caffes_spellings_are_one() {
        for line in [
            "train -solver x",
            "train --solver=x",
            "train -solver=x",
            "train --solver x",
            "-solver x train",
            "--solver=x train",
            "train -solver y -solver x",
            "train --logtostderr=1 -solver x",
            "train -alsologtostderr --solver=x",
        ] {
            assert_eq!(normal(line), "caffe train --solver=x", "{line}");
        }
        assert_eq!(normal("train -gpu all"), "caffe train --gpu=all");
        assert_eq!(normal("train -gpu 0,1 -level -1"), "caffe train --gpu=0,1 --level=-1");
        assert_eq!(normal("train -sigint-effect stop"), "caffe train --sigint_effect=stop");
        assert_eq!(normal("train -solver a=b"), "caffe train --solver=a=b");
        assert_eq!(normal("train --solver=a=b"), "caffe train --solver=a=b");
    }

    #[test]
    fn switches_are_set_as_in_gflags() {
        for (line, set) in [
            ("train -exact", true),
            ("train --exact=true", true),
            ("train -exact=1", true),
            ("train --noexact", false),
            ("train --exact=false", false),
            ("train --exact --noexact", false),
            ("train --noexact -exact", true),
            ("train --noexact=false", true),
        ] {
            let want = if set { "caffe train --exact" } else { "caffe train" };
            assert_eq!(normal(line), want, "{line}");
        }
        assert_eq!(normal("train -trace_layers"), "caffe train --trace-layers");
        assert_eq!(normal("train --trace-layers"), "caffe train --trace-layers");
        assert!(normal("train --exact=perhaps").contains("true or false"));
    }

    #[test]
    fn other_words_come_last_and_keep_their_order() {
        let want = "caffe convert_data --backend=leveldb -- in out";
        assert_eq!(normal("convert_data in -backend leveldb out"), want);
        assert_eq!(normal("convert-data -backend leveldb -- in out"), want);
        assert_eq!(normal("convert_data -- -odd"), "caffe convert_data -- -odd");
    }

    #[test]
    fn help_and_version_are_found_anywhere() {
        assert_eq!(normal("--help"), "caffe --help");
        assert_eq!(normal("help"), "caffe --help");
        assert_eq!(normal("help train"), "caffe train --help");
        assert_eq!(normal("train -help"), "caffe train --help");
        assert_eq!(normal("train -solver x -h"), "caffe train --help");
        assert_eq!(normal("train -version"), "caffe --version");
        assert_eq!(normal("-V"), "caffe --version");
    }

    #[test]
    fn what_is_unknown_is_named_with_the_nearest_that_is_known() {
        assert!(normal("trian -solver x").contains("`trian`; did you mean `train`?"));
        assert!(normal("frobnicate").contains("`caffe --help` lists"));
        assert!(normal("train -slover x").contains("no flag `-slover`; did you mean `-solver`?"));
        assert!(normal("train --xyzzy").contains("`caffe train --help` lists"));
        assert!(normal("train -iterations 5").contains("belongs to `caffe test`"));
        assert!(normal("train -log_dir=x").contains("2> FILE"));
        assert!(normal("train -solver").contains("`-solver` needs a value"));
        assert!(normal("-solver x").contains("no command"));
        assert!(normal("help trian").contains("did you mean `train`?"));
    }
}
