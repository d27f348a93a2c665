//! NCCL's entries, as far as several devices of one process add arrays up into the first one's.
//!
//! A member's array is taken when its stream comes to the call; the root's stream goes on when everybody's
//! has, and waits for those whose threads have not called yet.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};

use cudarc::driver::sys::CUresult;

use crate::numbers::Kind;
use crate::places::{get, put};
use crate::stream::Op;
use crate::world::{self, Fault, Table, World, bad};

const VERSION: c_int = 22703;
const SUCCESS: c_int = 0;
const INVALID_ARGUMENT: c_int = 4;
const IN_PROGRESS: c_int = 7;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId {
    number: u64,
    rest: [u64; 15],
}

/// What the last words of an identification are.
const REST: [u64; 15] = [0x4e43_434c; 15];

/// `ncclConfig_t`, as far as it is looked at.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// Devices that found one another.
struct Clique {
    /// The communicators, by rank, of those that have joined.
    members: Vec<Option<u64>>,
    /// Arrays that the root has not yet taken.
    brought: Vec<VecDeque<Vec<f32>>>,
    aborted: bool,
}

/// A device's part in a clique.
struct Communicator {
    clique: u64,
    rank: usize,
    device: usize,
}

/// All of them.
pub struct Cliques {
    cliques: HashMap<u64, Clique>,
    communicators: Table<Communicator>,
    invitations: u64,
}

impl Default for Cliques {
    fn default() -> Cliques {
        let communicators = Table::new("communicator");
        Cliques { cliques: HashMap::new(), communicators, invitations: 0 }
    }
}

impl Cliques {
    /// The devices of a clique's members.
    fn devices(&self, clique: u64) -> impl Iterator<Item = usize> + '_ {
        let members = self.communicators.iter().filter(move |(_, of)| of.clique == clique);
        members.map(|(_, of)| of.device)
    }

    /// The communicator of a handle, and its clique.
    fn of(&mut self, handle: u64) -> Result<(&Communicator, &mut Clique), Fault> {
        let communicator = self.communicators.get(handle).map_err(bad)?;
        let clique = self.cliques.get_mut(&communicator.clique);
        clique.map(|clique| (communicator, clique)).ok_or_else(|| wrong("its clique is gone"))
    }
}

fn wrong(why: impl Into<String>) -> Fault {
    Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why)
}

/// Runs a call and answers for it.
fn answer(call: &str, body: impl FnOnce(&mut World) -> Result<c_int, Fault>) -> c_int {
    let mut world = world::lock();
    body(&mut world).unwrap_or_else(|fault| {
        world.report(call, &fault.why, fault.violation);
        INVALID_ARGUMENT
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    match put(version, VERSION) {
        Ok(()) => SUCCESS,
        Err(_) => INVALID_ARGUMENT,
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    let text = match code {
        SUCCESS => c"no error",
        IN_PROGRESS => c"in progress",
        _ => c"invalid argument (simulated)",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    answer("ncclGetUniqueId", |world| {
        world.cliques.invitations += 1;
        put(id, UniqueId { number: world.cliques.invitations, rest: REST })?;
        Ok(SUCCESS)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRankConfig(
    communicator: *mut u64,
    members: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const c_void,
) -> c_int {
    answer("ncclCommInitRankConfig", |world| {
        let config: Config = get(config.cast())?;
        if config.magic != 0xcafe_beef || config.size < size_of::<Config>() {
            return Err(wrong("a configuration that was not initialised"));
        }
        if config.blocking != 0 {
            return Err(wrong("blocking communicators are not simulated"));
        }
        let device = world.current()?;
        let (size, rank) = (members.max(0) as usize, rank.max(0) as usize);
        if id.rest != REST || id.number > world.cliques.invitations || rank >= size {
            return Err(wrong(format!("rank {rank} of {size} with an identification of nobody's")));
        }
        let new = || Clique {
            members: vec![None; size],
            brought: vec![VecDeque::new(); size],
            aborted: false,
        };
        let clique = world.cliques.cliques.entry(id.number).or_insert_with(new);
        if clique.members.len() != size || clique.members[rank].is_some() {
            return Err(wrong(format!("rank {rank} of {size}, of {}", clique.members.len())));
        }
        let own = Communicator { clique: id.number, rank, device };
        let handle = world.cliques.communicators.add(own);
        clique.members[rank] = Some(handle);
        put(communicator, handle)?;
        Ok(IN_PROGRESS)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommGetAsyncError(communicator: u64, code: *mut c_int) -> c_int {
    answer("ncclCommGetAsyncError", |world| {
        let (_, clique) = world.cliques.of(communicator)?;
        let all = clique.members.iter().all(Option::is_some);
        put(code, if all { SUCCESS } else { IN_PROGRESS })?;
        Ok(SUCCESS)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(communicator: u64) -> c_int {
    answer("ncclCommDestroy", |world| {
        world.cliques.communicators.remove(communicator).map_err(bad)?;
        Ok(SUCCESS)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(communicator: u64) -> c_int {
    answer("ncclCommAbort", |world| {
        let (_, clique) = world.cliques.of(communicator)?;
        clique.aborted = true;
        world.cliques.communicators.remove(communicator).map_err(bad)?;
        Ok(SUCCESS)
    })
}

/// Brings a member's array.
fn bring(world: &mut World, id: u64, rank: usize, at: u64, count: usize) -> Result<(), Fault> {
    world.memory.check(at, 4 * count)?;
    let array = (0..count).map(|i| Kind::Float.read(at, i)).collect::<Result<_, _>>()?;
    if let Some(clique) = world.cliques.cliques.get_mut(&id) {
        clique.brought[rank].push_back(array);
    }
    Ok(())
}

/// The root's part: the sum of all arrays, in the order of ranks, when all are there.
fn sum(world: &mut World, id: u64, root: usize, to: u64, count: usize) -> Result<(), Fault> {
    let Some(clique) = world.cliques.cliques.get(&id) else { return Ok(()) };
    if clique.aborted {
        return Ok(());
    }
    let late = |rank: &usize| clique.brought[*rank].is_empty() && *rank != root;
    let late: Vec<usize> = (0..clique.brought.len()).filter(late).collect();
    let device = |rank: &usize| {
        let handle = clique.members[*rank]?;
        world.cliques.communicators.get(handle).ok().map(|found| found.device)
    };
    // Their streams go on until they come to the call, if they have been asked for it.
    let devices: Vec<usize> = late.iter().filter_map(device).collect();
    devices.into_iter().try_for_each(|device| world.drain_device(device))?;
    let Some(clique) = world.cliques.cliques.get_mut(&id) else { return Ok(()) };
    if clique.brought.iter().any(VecDeque::is_empty) {
        return Err(Fault::stalled());
    }
    world.memory.check(to, 4 * count)?;
    let arrays: Vec<Vec<f32>> = clique.brought.iter_mut().filter_map(VecDeque::pop_front).collect();
    if arrays.iter().any(|array| array.len() != count) {
        return Err(wrong("arrays of several lengths are added up"));
    }
    for i in 0..count {
        let total = arrays.iter().map(|array| array[i]).sum();
        Kind::Float.write(to, i, total)?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduce(
    from: u64,
    to: u64,
    count: usize,
    kind: c_int,
    operation: c_int,
    root: c_int,
    communicator: u64,
    stream: u64,
) -> c_int {
    answer("ncclReduce", |world| {
        let current = world.current()?;
        let (of, clique) = world.cliques.of(communicator)?;
        let (id, rank, device) = (of.clique, of.rank, of.device);
        let root = usize::try_from(root).map_err(|_| wrong("no root"))?;
        if clique.members.iter().any(Option::is_none) || root >= clique.members.len() {
            return Err(wrong("the communicator is not ready, or has no such root"));
        }
        if kind != 7 || operation != 0 {
            return Err(wrong("only sums of 32-bit floats are simulated"));
        }
        if device != current {
            return Err(wrong("the communicator is another device's"));
        }
        // Within a process its kernels reach for the others' arrays.
        let admitted = &world.contexts[device].admitted;
        let shut = world
            .cliques
            .devices(id)
            .find(|other| *other != device && !admitted.contains(&(*other as c_int)));
        if let Some(other) = shut {
            return Err(wrong(format!("device {other} was not let into the memory of {device}")));
        }
        world.memory.check(from, 4 * count)?;
        if rank == root {
            world.memory.check(to, 4 * count)?;
        }
        // Once though the root's turn may come several times.
        let brings = Op::new("ncclReduce", move |world| bring(world, id, rank, from, count));
        world.ask(stream, brings)?;
        if rank == root {
            let sums = Op::new("ncclReduce", move |world| sum(world, id, root, to, count));
            world.ask(stream, sums)?;
        }
        // As every call of a communicator that does not block may.
        Ok(IN_PROGRESS)
    })
}
