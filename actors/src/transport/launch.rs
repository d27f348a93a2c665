//! How this process was started, read from the environment: no MPI call is needed to know that
//! there is no MPI job.

use super::InProcess;
use crate::config::Launch;

/// A launch without "auto".
pub(super) enum Resolved {
    InProcess(InProcess),
    #[cfg(feature = "mpi")]
    Mpi,
}

/// Variables in which launchers put rank and number of ranks: Open MPI; MPICH, Hydra and Slurm's
/// PMI. (Slurm's own variables are no proof: a batch script has them without any MPI.)
const LAUNCHERS: &[(&str, &str)] =
    &[("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")];

/// Rank and number of ranks as the launcher put them into the environment; `None` when this
/// process was started by itself. Known before [`run`](crate::run), so that only rank 0 prints.
///
/// `PMIX_RANK` alone (some Slurm set-ups) gives the rank with an unknown size, reported as 0.
pub fn launched() -> Option<(usize, usize)> {
    let number = |name: &str| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    LAUNCHERS
        .iter()
        .find_map(|(rank, size)| Some((number(rank)?, number(size)?)))
        .or_else(|| Some((number("PMIX_RANK")?, 0)))
}

fn alone() -> Result<Resolved, String> {
    match InProcess::nodes(1).pop() {
        Some(node) => Ok(Resolved::InProcess(node)),
        None => Err("no node".into()),
    }
}

#[cfg(feature = "mpi")]
pub(super) fn resolve(launch: Launch) -> Result<Resolved, String> {
    match launch {
        Launch::InProcess(node) => Ok(Resolved::InProcess(node)),
        Launch::Solo => alone(),
        Launch::Mpi => Ok(Resolved::Mpi),
        Launch::Auto if launched().is_some() => Ok(Resolved::Mpi),
        Launch::Auto => alone(),
    }
}

#[cfg(not(feature = "mpi"))]
pub(super) fn resolve(launch: Launch) -> Result<Resolved, String> {
    let without = "this program was built without MPI; build it with the cargo feature `mpi`";
    match launch {
        Launch::InProcess(node) => Ok(Resolved::InProcess(node)),
        Launch::Solo => alone(),
        Launch::Mpi => Err(without.into()),
        Launch::Auto => match launched() {
            Some((rank, size)) if size != 1 => {
                Err(format!("started as rank {rank} of {size}, but {without}"))
            }
            _ => alone(),
        },
    }
}
