//! `-gpu`: which devices a command asks for.

use crate::device::cuda::{self, Choice, Device, Driver, Kind, Math};
use crate::{Error, Result, bail, ensure};

/// Devices named by `-gpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `all`.
    All,
    /// Their numbers, as in `0,1`.
    These(Vec<usize>),
}

impl Wanted {
    /// Reads the value of `-gpu`; nothing at all means the CPU, as in Caffe.
    ///
    /// # Errors
    /// Anything but `all` or a list of numbers.
    pub fn parse(text: &str) -> Result<Option<Wanted>> {
        let text = text.trim();
        match text {
            "" => return Ok(None),
            "all" => return Ok(Some(Wanted::All)),
            _ => {}
        }
        let numbers: Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers {
            Ok(numbers) => Ok(Some(Wanted::These(numbers))),
            Err(_) => bail!("-gpu takes `all` or numbers such as `0,1`, not `{text}`"),
        }
    }

    /// These of the driver's devices.
    ///
    /// # Errors
    /// A number that no device has.
    pub fn of<'d>(&self, driver: &'d Driver) -> Result<Vec<&'d Device>> {
        let Wanted::These(numbers) = self else { return Ok(driver.devices.iter().collect()) };
        let device = |&n: &usize| match driver.devices.get(n) {
            Some(device) => Ok(device),
            None => Err(Error::Invalid(format!("there is no GPU {n}; {}", found(driver)))),
        };
        numbers.iter().map(device).collect()
    }
}

/// What a GPU computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 32 bits, but factors of products are rounded to TF32 where that is faster.
    Tf32,
    /// Activations and factors of products in bfloat16; weights, sums and statistics in 32 bits.
    Bf16,
    /// The same in half precision.
    Fp16,
}

impl Precision {
    fn math(self) -> Math {
        match self {
            Precision::F32 => Math::F32,
            Precision::Tf32 => Math::Tf32,
            Precision::Bf16 => Math::Bf16,
            Precision::Fp16 => Math::F16,
        }
    }
}

/// Flags of commands that compute.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "GPU")]
pub struct GpuArgs {
    /// Devices: `all` or numbers such as 0,1, one for each replica, also several on one (0,0); left
    /// out: the CPU
    #[arg(long, value_name = "IDS", default_value = "", hide_default_value = true)]
    pub gpu: String,
    /// What a GPU computes with; bf16 and fp16: activations and products, not weights
    #[arg(long, value_enum, value_name = "P", default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Let layers without code for the GPU compute on the CPU instead of refusing the net
    #[arg(long)]
    pub allow_cpu_fallback: bool,
}

impl GpuArgs {
    /// These numbers.
    pub fn of(gpu: String) -> Self {
        GpuArgs { gpu, ..Self::default() }
    }

    /// The devices asked for; none: the CPU.
    ///
    /// # Errors
    /// Devices that are not there; the message says what there is. 16 bits without a device.
    pub fn choices(&self) -> Result<Vec<Choice>> {
        let math = self.precision.math();
        let Some(wanted) = Wanted::parse(&self.gpu)? else {
            ensure!(
                math.kind() == Kind::F32,
                "--precision={} is for GPUs: the CPU computes in f32; name a device with --gpu, or \
                 leave --precision out",
                math.name()
            );
            return Ok(Vec::new());
        };
        let driver = match cuda::probe() {
            Ok(driver) => driver,
            Err(why) => bail!("-gpu {}: {why}; leave -gpu out to compute on the CPU", self.gpu),
        };
        Ok(wanted.of(&driver)?.iter().map(|device| Choice { id: device.id, math }).collect())
    }
}

fn found(driver: &Driver) -> String {
    let names = driver.devices.iter().map(|d| format!("{} ({})", d.id, d.name));
    format!("the CUDA driver finds {}", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_in_caffe() {
        assert_eq!(Wanted::parse("").unwrap(), None);
        assert_eq!(Wanted::parse("all").unwrap(), Some(Wanted::All));
        assert_eq!(Wanted::parse("0,2").unwrap(), Some(Wanted::These(vec![0, 2])));
        for bad in ["x", "0,", "-1", "ALL"] {
            assert!(Wanted::parse(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_by_number() {
        let device = |id| Device {
            id,
            name: format!("Card {id}"),
            memory: 1,
            capability: (9, 0),
            limits: Default::default(),
        };
        let driver = Driver { version: (13, 0), devices: vec![device(0), device(1)] };
        assert_eq!(Wanted::These(vec![1]).of(&driver).unwrap()[0].id, 1);
        assert_eq!(Wanted::All.of(&driver).unwrap().len(), 2);
        let error = Wanted::These(vec![0, 7]).of(&driver).unwrap_err().to_string();
        assert!(error.contains("no GPU 7") && error.contains("1 (Card 1)"), "{error}");
    }
}
