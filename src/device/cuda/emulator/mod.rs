//! A CUDA device in software: kernels compiled as plain C++ and run on the host.
//!
//! For tests where there is no GPU: it shows that the layers' kernels and the code around them
//! compute what they should, in what order they read and write, and that no barrier is left out by
//! some threads. Fresh memory is full of NaN, so that what is read before it was written shows. It
//! says nothing about speed, and little about what differs in hardware (races between threads of
//! different blocks, the order of atomic operations; there are none in our kernels).
//!
//! Needs a C++ compiler (`$CXX`, else `c++`).

mod correlation;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, hash_map};
use std::ffi::{c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::Kind;
use super::backend::{Address, Arg, Backend, Correlation};
use super::clique::Clique;
use super::source::Source;
use crate::device::cpu::gemm::{self, Gemm};
use crate::device::cpu::threads::Threads;
use crate::rng::stream_id;
use crate::{Error, Result, bail, ensure};

/// What kernels find on a device.
const HOST: &str = include_str!("host.h");

type Entry = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int;

/// The device.
pub struct Emulator {
    /// Where compiled kernels are kept.
    folder: PathBuf,
    memory: RefCell<BTreeMap<u64, Vec<f32>>>,
    compiled: RefCell<HashMap<(&'static str, Kind), libloading::Library>>,
    /// What it stores activations as.
    kind: Kind,
    /// Floats of memory, where it is limited.
    limit: Option<usize>,
    /// The devices it adds up with, and its number among them.
    member: RefCell<Option<(Arc<Clique>, usize)>>,
}

impl Emulator {
    /// A device that keeps compiled kernels in `folder`.
    ///
    /// # Errors
    /// Where there is no C++ compiler, or the folder cannot be made.
    pub fn new(folder: &Path) -> Result<Emulator> {
        let compiler = compiler();
        let found = Command::new(&compiler).arg("--version").output();
        ensure!(
            found.is_ok_and(|output| output.status.success()),
            "an emulated CUDA device needs a C++ compiler, and `{compiler}` does not run; install g++ or set CXX"
        );
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::File { path: folder.into(), source })?;
        let (memory, compiled, kind, member) = Default::default();
        Ok(Emulator { folder: folder.into(), memory, compiled, kind, limit: None, member })
    }

    /// The same with so much memory.
    pub fn with_memory(self, floats: usize) -> Emulator {
        Emulator { limit: Some(floats), ..self }
    }

    /// The same with activations of this kind.
    pub fn storing(self, kind: Kind) -> Emulator {
        Emulator { kind, ..self }
    }

    fn left(&self) -> Option<usize> {
        let held: usize = self.memory.borrow().values().map(Vec::len).sum();
        self.limit.map(|limit| limit.saturating_sub(held))
    }

    /// Calls `f` with the compiled function.
    fn entry(&self, source: &'static Source, kind: Kind, function: &'static str) -> Result<Entry> {
        ensure!(
            source.functions.contains(&function),
            "internal: kernels `{}` have no function {function}",
            source.name
        );
        let mut compiled = self.compiled.borrow_mut();
        let library = match compiled.entry((source.name, kind)) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(place) => {
                let path = self.compile(source, kind)?;
                // SAFETY: a library of kernels, made a moment ago or by an earlier run from the same
                // text, has no initialisers but those of plain values.
                match unsafe { libloading::Library::new(&path) } {
                    Ok(library) => place.insert(library),
                    Err(error) => bail!("cannot open the kernels {}: {error}", path.display()),
                }
            }
        };
        let name = format!("emulate_{function}\0");
        // SAFETY: `unit` declares every such function with this type.
        let entry = unsafe { library.get::<Entry>(name.as_bytes()) };
        match entry {
            Ok(entry) => Ok(*entry),
            Err(error) => bail!("kernels `{}`: {error}", source.name),
        }
    }

    /// The shared library of a source; compiled unless an earlier run has.
    fn compile(&self, source: &Source, kind: Kind) -> Result<PathBuf> {
        let text = unit(source, kind);
        let path = self.folder.join(format!("{}-{:016x}.so", source.name, stream_id(&text)));
        if path.exists() {
            return Ok(path);
        }
        let file = |source| Error::File { path: self.folder.clone(), source };
        let folder = tempfile_in(&self.folder).map_err(file)?;
        let (code, made) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
        std::fs::write(&code, text).map_err(file)?;
        let output = Command::new(compiler())
            .args(["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-o"])
            .args([&made, &code])
            .output()
            .map_err(file)?;
        let renamed = match output.status.success() {
            true => std::fs::rename(&made, &path).map_err(file),
            false => {
                let errors = String::from_utf8_lossy(&output.stderr);
                Err(Error::Invalid(format!("kernels `{}` do not compile:\n{errors}", source.name)))
            }
        };
        drop(std::fs::remove_dir_all(&folder));
        renamed.map(|()| path)
    }

    /// Calls `f` with `floats` floats of memory.
    fn with<T>(&self, at: Address, floats: usize, f: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
        let mut memory = self.memory.borrow_mut();
        let found = memory.range_mut(..=at.0).next_back();
        let room = found.and_then(|(start, floats)| {
            let from = (at.0 - start) as usize / size_of::<f32>();
            floats.get_mut(from..)
        });
        match room.and_then(|room| room.get_mut(..floats)) {
            Some(room) => Ok(f(room)),
            None => bail!("internal: {floats} floats at {:#x} are not device memory", at.0),
        }
    }

    /// `n` numbers of a kind.
    fn read(&self, kind: Kind, at: Address, n: usize) -> Result<Vec<f32>> {
        self.with(at, kind.floats(n), |room| {
            let halves = || room.iter().flat_map(|word| halves(*word)).take(n);
            match kind {
                Kind::F32 => room.to_vec(),
                Kind::Bf16 => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
                Kind::F16 => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            }
        })
    }

    /// Writes numbers as a kind, rounded.
    fn write(&self, kind: Kind, at: Address, values: &[f32]) -> Result<()> {
        let bits = |value: &f32| match kind {
            Kind::F16 => half::f16::from_f32(*value).to_bits(),
            _ => half::bf16::from_f32(*value).to_bits(),
        };
        self.with(at, kind.floats(values.len()), |room| match kind {
            Kind::F32 => room.copy_from_slice(values),
            _ => {
                for (word, pair) in room.iter_mut().zip(values.chunks(2)) {
                    let [_, rest] = halves(*word);
                    let (low, high) = (bits(&pair[0]), pair.get(1).map_or(rest, bits));
                    *word = f32::from_bits(u32::from(high) << 16 | u32::from(low));
                }
            }
        })
    }
}

/// The two numbers of 16 bits in a word, in the order of memory.
fn halves(word: f32) -> [u16; 2] {
    [word.to_bits() as u16, (word.to_bits() >> 16) as u16]
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// A new folder inside of `folder`; processes and threads do not meet in it.
fn tempfile_in(folder: &Path) -> std::io::Result<PathBuf> {
    let thread = format!("{:?}", std::thread::current().id());
    let own = folder.join(format!("{}-{}", std::process::id(), stream_id(&thread)));
    std::fs::create_dir_all(&own)?;
    Ok(own)
}

/// The C++ of a source, with an entry for each kernel.
fn unit(source: &Source, kind: Kind) -> String {
    let mut text = format!("{HOST}{}", source.assembled(kind));
    for function in source.functions {
        text.push_str(&format!(
            "static void call_{function}(void** args) {{ host::call({function}, args); }}\n\
             extern \"C\" int emulate_{function}(unsigned blocks, void** args) {{\n  \
             return host::run(blocks, call_{function}, args);\n}}\n"
        ));
    }
    text
}

impl Backend for Emulator {
    fn describe(&self) -> String {
        match self.kind {
            Kind::F32 => "an emulated CUDA device".into(),
            kind => format!("an emulated CUDA device in {}", kind.name()),
        }
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(self.left().map(|floats| (floats * size_of::<f32>()) as u64))
    }

    fn taken(&self) -> Option<u64> {
        let held: usize = self.memory.borrow().values().map(Vec::len).sum();
        Some((held * size_of::<f32>()) as u64)
    }

    fn allocate(&self, floats: usize) -> Result<Address> {
        let free = self.left().unwrap_or(usize::MAX);
        ensure!(floats <= free, "an emulated CUDA device has no memory for {floats} floats");
        let memory = vec![f32::NAN; floats.max(1)];
        let at = memory.as_ptr() as u64;
        self.memory.borrow_mut().insert(at, memory);
        Ok(Address(at))
    }

    fn free(&self, at: Address) {
        self.memory.borrow_mut().remove(&at.0);
    }

    fn upload(&self, from: &[f32], to: Address) -> Result<()> {
        self.with(to, from.len(), |room| room.copy_from_slice(from))
    }

    fn upload_bytes(&self, from: &[u8], to: Address) -> Result<()> {
        self.with(to, from.len().div_ceil(size_of::<f32>()), |room| {
            for (float, bytes) in room.iter_mut().zip(from.chunks(size_of::<f32>())) {
                // Of the last float the bytes behind the end stay.
                let mut whole = float.to_bits().to_ne_bytes();
                whole[..bytes.len()].copy_from_slice(bytes);
                *float = f32::from_bits(u32::from_ne_bytes(whole));
            }
        })
    }

    fn download(&self, from: Address, to: &mut [f32]) -> Result<()> {
        self.with(from, to.len(), |room| to.copy_from_slice(room))
    }

    fn copy(&self, from: Address, to: Address, floats: usize) -> Result<()> {
        let values = self.read(Kind::F32, from, floats)?;
        self.upload(&values, to)
    }

    fn zero(&self, at: Address, floats: usize) -> Result<()> {
        self.with(at, floats, |room| room.fill(0.0))
    }

    fn launch(
        &self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
        blocks: usize,
        args: &[Arg],
    ) -> Result<()> {
        let entry = self.entry(source, kind, function)?;
        for arg in args {
            if let Arg::Address(address) = arg {
                self.with(*address, 0, |_| ())?;
            }
        }
        let mut words: Vec<u64> = args.iter().map(|arg| arg.word()).collect();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        // SAFETY: the layer gives arguments as the kernel declares them, as for a device; a small
        // argument lies at the start of its word (little endian). Addresses are this device's.
        match unsafe { entry(blocks as c_uint, pointers.as_mut_ptr()) } {
            0 => Ok(()),
            1 => bail!("kernel {function}: not all threads of a block reach a barrier"),
            _ => bail!("kernel {function}: no memory for a block's threads"),
        }
    }

    fn join(&self, clique: &Arc<Clique>, member: usize) -> Result<()> {
        *self.member.borrow_mut() = Some((clique.clone(), member));
        Ok(())
    }

    fn sum_into_first(&self, at: Address, floats: usize) -> Result<()> {
        let Some((clique, member)) = &*self.member.borrow() else {
            bail!("internal: {} has not joined others", self.describe())
        };
        match clique.bring(*member, self.read(Kind::F32, at, floats)?)? {
            Some(sum) => self.upload(&sum, at),
            None => Ok(()),
        }
    }

    fn product(
        &self,
        g: Gemm,
        [factors, result]: [Kind; 2],
        a: Address,
        b: Address,
        c: Address,
    ) -> Result<()> {
        let rows = |rows: usize, columns: usize, ld: usize| match rows {
            0 => 0,
            rows => (rows - 1) * ld + columns,
        };
        let (am, ak) = if g.transa { (g.k, g.m) } else { (g.m, g.k) };
        let (bk, bn) = if g.transb { (g.n, g.k) } else { (g.k, g.n) };
        let a_values = self.read(factors, a, rows(am, ak, g.lda))?;
        let b_values = self.read(factors, b, rows(bk, bn, g.ldb))?;
        let mut c_values = self.read(result, c, rows(g.m, g.n, g.ldc))?;
        gemm::sgemm(Threads::one(), g, &a_values, &b_values, &mut c_values)?;
        self.write(result, c, &c_values)
    }

    fn correlate(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        w: Address,
        y: Address,
    ) -> Result<()> {
        let sizes = correlation::Sizes::of(shape);
        let (x, w) = (self.read(kind, x, sizes.x)?, self.read(kind, w, sizes.w)?);
        self.write(kind, y, &correlation::forward(shape, &x, &w))
    }

    fn correlate_back(
        &self,
        shape: &Correlation,
        kind: Kind,
        w: Address,
        dy: Address,
        dx: Address,
    ) -> Result<()> {
        let sizes = correlation::Sizes::of(shape);
        let (w, dy) = (self.read(kind, w, sizes.w)?, self.read(kind, dy, sizes.y)?);
        self.write(kind, dx, &correlation::back(shape, &w, &dy))
    }

    fn correlate_weights(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        dy: Address,
        dw: Address,
    ) -> Result<()> {
        let sizes = correlation::Sizes::of(shape);
        let (x, dy) = (self.read(kind, x, sizes.x)?, self.read(kind, dy, sizes.y)?);
        // A device has the sum in the factors' kind before it is added to what is there.
        let sums = correlation::weights(shape, &x, &dy);
        self.with(dw, sizes.w, |dw| {
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += kind.round(sum));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMS: Source = Source {
        name: "test_sums",
        text: r#"
extern "C" __global__ void row_sums(int64 n, const float* x, float* y, int width) {
  for (int64 row = blockIdx.x; row < n; row += gridDim.x) {
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += x[row * width + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) y[row] = sum;
  }
}
extern "C" __global__ void divergent(int64 n, float* y) {
  if (threadIdx.x < n) __syncthreads();
}
"#,
        functions: &["row_sums", "divergent"],
    };
    static KERNELS: Source = SUMS;

    fn emulator() -> Option<Emulator> {
        let folder = std::env::temp_dir().join(format!("caffe-emulator-{}", std::process::id()));
        Emulator::new(&folder).map_err(|why| println!("skipped: {why}")).ok()
    }

    #[test]
    fn threads_meet_at_barriers_and_sum_up() {
        let Some(device) = emulator() else { return };
        let x: Vec<f32> = (0..3 * 300).map(|i| (i % 7) as f32).collect();
        let (a, b) = (device.allocate(900).unwrap(), device.allocate(3).unwrap());
        device.upload(&x, a).unwrap();
        let args = [Arg::from(3usize), a.into(), b.into(), Arg::from(300)];
        device.launch(&KERNELS, Kind::F32, "row_sums", 2, &args).unwrap();
        let mut sums = [0.0; 3];
        device.download(b, &mut sums).unwrap();
        for (row, sum) in x.chunks(300).zip(sums) {
            assert_eq!(row.iter().sum::<f32>(), sum);
        }
    }

    #[test]
    fn what_would_hang_or_crash_a_device_is_an_error() {
        let Some(device) = emulator() else { return };
        let y = device.allocate(1).unwrap();
        let error =
            device.launch(&KERNELS, Kind::F32, "divergent", 1, &[Arg::from(5usize), y.into()]);
        assert!(error.unwrap_err().to_string().contains("not all threads"));
        assert!(device.upload(&[0.0; 2], y).is_err());
        device.free(y);
        assert!(device.download(y, &mut [0.0]).is_err());
    }
}
