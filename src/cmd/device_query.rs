//! `caffe device_query`: what this machine computes with.

use std::fmt::Write;

use super::gpu::Wanted;
use super::{host, print};
use crate::Result;
use crate::device::cpu::{memory, onednn};
use crate::device::cuda::library::Library;
use crate::device::cuda::{self, Device};

const EXAMPLES: &str = "\
Examples:
  caffe device_query
  caffe device_query -gpu all
  caffe device_query -gpu 0,1";

/// Show the processor, the CPU library and the GPUs of this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DeviceQueryArgs {
    /// GPUs to show: `all` or numbers such as 0,1; these must be there
    #[arg(long, value_name = "IDS", default_value = "", hide_default_value = true)]
    gpu: String,
}

impl DeviceQueryArgs {
    /// Prints what there is.
    ///
    /// # Errors
    /// GPUs that `-gpu` asks for and that are not there.
    pub fn run(self) -> Result<()> {
        let wanted = Wanted::parse(&self.gpu)?;
        let mut text = String::new();
        cpu(&mut text);
        match (cuda::probe(), wanted) {
            (Ok(driver), wanted) => {
                let (major, minor) = driver.version;
                line(&mut text, "CUDA driver", format!("for CUDA {major}.{minor}"));
                libraries(&mut text);
                for device in wanted.unwrap_or(Wanted::All).of(&driver)? {
                    gpu(&mut text, device);
                }
            }
            (Err(why), None) => {
                line(&mut text, "CUDA driver", why);
                libraries(&mut text);
            }
            (Err(why), Some(_)) => crate::bail!("-gpu {}: {why}", self.gpu),
        }
        print(&text)
    }
}

/// A label of Caffe's width and its value.
fn line(text: &mut String, label: &str, value: impl std::fmt::Display) {
    let label = format!("{label}:");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{label:<30} {value}");
}

fn cpu(text: &mut String) {
    line(text, "Processor", host::processor());
    let (cores, threads) = (host::cores(), host::logical());
    line(text, "Cores open to this process", format!("{cores} ({threads} hardware threads)"));
    line(text, "Vector extensions", host::vector_extensions().join(" "));
    if let Some(bytes) = memory::total() {
        line(text, "Total memory", bytes);
    }
    match onednn::Library::open() {
        Ok(library) => line(text, "oneDNN", {
            let (major, minor, patch) = library.version();
            format!("{major}.{minor}.{patch}")
        }),
        Err(why) => line(text, "oneDNN", format!("{why}; the plain path is used, which is slower")),
    }
}

/// What else a GPU needs, and where it lies.
fn libraries(text: &mut String) {
    let mut searched = None;
    for library in Library::BESIDE_DRIVER {
        match library.open() {
            Ok(found) => {
                let found = format!("{}, {}", found.version, found.path.display());
                line(text, library.name(), found);
            }
            Err(missing) => {
                line(text, library.name(), format!("{}; {}", missing.reason(), missing.fix));
                searched = Some(missing.places);
            }
        }
    }
    if let Some(places) = searched {
        line(text, "Searched", places);
    }
}

fn gpu(text: &mut String, device: &Device) {
    let of = &device.limits;
    let sides = |[x, y, z]: [i32; 3]| format!("{x}, {y}, {z}");
    let yes = |b: bool| if b { "Yes" } else { "No" };
    text.push('\n');
    line(text, "Device id", device.id);
    line(text, "Major revision number", device.capability.0);
    line(text, "Minor revision number", device.capability.1);
    line(text, "Name", &device.name);
    line(text, "Total global memory", device.memory);
    line(text, "Total shared memory per block", of.shared_memory_per_block);
    line(text, "Total registers per block", of.registers_per_block);
    line(text, "Warp size", of.warp);
    line(text, "Maximum memory pitch", of.pitch);
    line(text, "Maximum threads per block", of.threads_per_block);
    line(text, "Maximum dimension of block", sides(of.block));
    line(text, "Maximum dimension of grid", sides(of.grid));
    line(text, "Clock rate", of.clock);
    line(text, "Total constant memory", of.constant_memory);
    line(text, "Texture alignment", of.texture_alignment);
    line(text, "Concurrent copy and execution", yes(of.overlap));
    line(text, "Number of multiprocessors", of.multiprocessors);
    line(text, "Kernel execution timeout", yes(of.timeout));
}
