//! `caffe doctor`: looks at what a training run will depend on and says what is wrong, with the fix.
//!
//! Under `mpirun` every rank looks at its own host. Rank 0 prints all it found, the others what
//! somebody has to look at. Not here: what a net costs (`net summary`) or how fast it runs (`time`).

mod files;
mod job;
mod machine;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::print;
use crate::Result;

const EXAMPLES: &str = "\
Examples:
  caffe doctor
  caffe doctor --solver=solver.prototxt
  mpirun -n 2 --bind-to none caffe doctor --solver=solver.prototxt

Exit code 1 if something is bad.";

/// Check this machine, the job's ranks and links, and a solver's files; says how to fix what is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// A solver whose nets' data and snapshot folder to check
    #[arg(long, value_name = "FILE")]
    solver: Option<PathBuf>,
    /// A net whose data to check
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    state: State,
    what: &'static str,
    text: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Finding { state: State::Ok, what, text: text.into(), fix: None }
    }

    fn warn(what: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { state: State::Warn, what, text: text.into(), fix: Some(fix.into()) }
    }

    fn bad(what: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { state: State::Bad, what, text: text.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Bad => "bad ",
        };
        write!(f, "{state}  {:<18} {}", self.what, self.text)?;
        match &self.fix {
            Some(fix) => write!(f, "\n      {:<18} → {fix}", ""),
            None => Ok(()),
        }
    }
}

impl DoctorArgs {
    /// Looks at everything.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        let mut findings = machine::findings();
        if let Some(solver) = &self.solver {
            findings.extend(files::solver(solver));
        }
        if let Some(model) = &self.model {
            findings.extend(files::model(model));
        }
        let (rank, of_job) = job::findings();
        findings.extend(of_job);
        let mut text = String::new();
        for finding in &findings {
            if rank == 0 {
                text += &format!("{finding}\n");
            } else if finding.state != State::Ok {
                text += &format!("rank {rank}: {finding}\n");
            }
        }
        let count = |state| findings.iter().filter(|finding| finding.state == state).count();
        let (warn, bad) = (count(State::Warn), count(State::Bad));
        if rank == 0 {
            let verdict = match (bad, warn) {
                (0, 0) => "all is well".to_owned(),
                (0, warn) => format!("{warn} to look at, nothing that stops a run"),
                (bad, warn) => format!("{bad} bad, {warn} more to look at"),
            };
            text += &format!("\n{verdict}\n");
        }
        print(&text)?;
        Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
