//! This host: processor, memory, libraries, devices, and which cores the process may use.

use std::path::Path;
use std::time::Instant;

use super::Finding;
use crate::cmd::host;
use crate::device::cpu::{memory, onednn};
use crate::device::cuda;
use crate::device::cuda::library::Library;

/// Floats that each thread copies at a time: far more than a cache holds.
const COPY: usize = 16 << 20;

pub(super) fn findings() -> Vec<Finding> {
    let mut all = vec![processor(), cores(), main_memory(), bandwidth(), dnn()];
    all.extend(gpus());
    all.push(hdf5());
    all
}

fn processor() -> Finding {
    let features = host::vector_extensions();
    let text = format!("{}: {}", host::processor(), features.join(" "));
    if cfg!(target_arch = "x86_64") && !features.contains(&"AVX2") {
        return Finding::warn("processor", text, "without AVX2 training is several times slower");
    }
    Finding::ok("processor", text)
}

/// One core for a rank that could have more is what `mpirun` of Open MPI gives to one or two ranks,
/// `taskset` to whom it is told to, and Slurm to a task that asked for no more.
fn cores() -> Finding {
    let (cores, logical) = (host::cores(), host::logical());
    let there = host::online().len();
    let text =
        format!("{cores} open to this process ({logical} hardware threads, {there} on this host)");
    let ranks = host::local_ranks();
    if host::bound_cores() == Some(1) && host::all_cores() > ranks {
        let fix = if host::bound_at_launch() {
            "start with `mpirun --bind-to none` (or --map-by slot:PE=N), else readers and replicas \
             share that core"
        } else {
            "start without taskset, or ask the batch system for more cores (Slurm: \
             --cpus-per-task=N), else readers and replicas share that core"
        };
        let text = format!("{text}; this process is pinned to one core");
        return Finding::warn("binding", text, fix);
    }
    if ranks > cores && !host::bound_at_launch() {
        let fix = "fewer ranks with more --workers, or more hosts";
        return Finding::warn("binding", format!("{text}, for {ranks} ranks"), fix);
    }
    Finding::ok("cores", text)
}

fn main_memory() -> Finding {
    match memory::total() {
        Some(bytes) => {
            Finding::ok("memory", format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)))
        }
        None => Finding::warn("memory", "unknown", "/proc/meminfo should say how much there is"),
    }
}

/// Copies with as many threads as there are cores; the fastest of a few.
fn bandwidth() -> Finding {
    let threads = host::own_cores();
    let each = (COPY / threads).max(1 << 20);
    let mut pairs: Vec<_> =
        (0..threads).map(|_| (vec![1.0f32; each], vec![0.0f32; each])).collect();
    let mut fastest = f64::INFINITY;
    for _ in 0..4 {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in &mut pairs {
                scope.spawn(|| to.copy_from_slice(from));
            }
        });
        fastest = fastest.min(begun.elapsed().as_secs_f64());
    }
    // A copy reads and writes.
    let bytes = 2.0 * (each * threads * size_of::<f32>()) as f64;
    let text =
        format!("{:.1} GB/s read and written, {threads} thread(s) copying", bytes / fastest / 1e9);
    Finding::ok("memory bandwidth", text)
}

fn dnn() -> Finding {
    match onednn::Library::open() {
        Ok(library) => {
            let (major, minor, patch) = library.version();
            Finding::ok("oneDNN", format!("{major}.{minor}.{patch}"))
        }
        Err(why) => Finding::warn(
            "oneDNN",
            format!("{why}; convolutions take the plain path, several times slower"),
            "Debian and Ubuntu: apt-get install libdnnl2; elsewhere build oneDNN 2.x as libdnnl.so.2",
        ),
    }
}

fn gpus() -> Vec<Finding> {
    let (devices, finding) = match cuda::probe() {
        Ok(driver) => {
            let names: Vec<&str> = driver.devices.iter().map(|d| d.name.as_str()).collect();
            let (major, minor) = driver.version;
            let text = format!("driver for CUDA {major}.{minor}: {}", names.join(", "));
            let fix = "this version computes on the CPU; the devices stay idle";
            (names.len(), Finding::warn("CUDA", text, fix))
        }
        // Nothing is wrong with a machine without GPUs.
        Err(why) => (0, Finding::ok("CUDA", format!("{why}; training computes on the CPU"))),
    };
    let mut all = vec![finding];
    all.extend(cuda_libraries(devices));
    all
}

/// What there is and what these devices can do without in one line; what they need and have not in
/// one of its own each.
fn cuda_libraries(devices: usize) -> Vec<Finding> {
    let (mut there, mut unneeded, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for library in Library::BESIDE_DRIVER {
        // One device has nobody to talk to.
        let needed = devices > usize::from(library == Library::Nccl);
        match library.open() {
            Ok(found) => there.push((library, found)),
            Err(why) if needed => {
                all.push(Finding::warn(library.name(), why.reason(), why.fix));
            }
            Err(_) => unneeded.push(library.name()),
        }
    }
    let mut text: Vec<String> = there
        .chunk_by(|(_, a), (_, b)| a.path.parent() == b.path.parent())
        .map(|together| {
            let names: Vec<_> = together
                .iter()
                .map(|(l, found)| format!("{} {}", l.name(), found.version))
                .collect();
            let folder = together[0].1.path.parent().unwrap_or(Path::new("."));
            format!("{} in {}", names.join(", "), folder.display())
        })
        .collect();
    if !unneeded.is_empty() {
        let names = unneeded.join(", ");
        text.push(format!(
            "not found, nor needed for {devices} device(s): {names} (`caffe device_query` says how to \
             install them)"
        ));
    }
    if !text.is_empty() {
        all.insert(0, Finding::ok("CUDA libraries", text.join("; ")));
    }
    all
}

fn hdf5() -> Finding {
    if cfg!(feature = "hdf5") {
        return Finding::ok("HDF5", "built in: HDF5Data, HDF5Output, snapshot_format: HDF5");
    }
    Finding::warn(
        "HDF5",
        "built without: nets with HDF5Data and snapshot_format: HDF5 are refused",
        "install libhdf5-dev and build with the cargo feature `hdf5`",
    )
}
