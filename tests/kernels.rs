//! Every CUDA kernel of the program through NVRTC, for three generations of devices, without a GPU.
//!
//! NVRTC is the one that this machine has, or that of `scripts/nvrtc.sh`; where there is none, these
//! tests say that they were skipped.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs;

use caffe::device::cuda::cache::Cache;
use caffe::device::cuda::compiler::{Architecture, Compiler, Error, holds};
use caffe::device::cuda::library::{Library, Places};
use caffe::device::cuda::source::{AXPY, Source};
use caffe::device::cuda::{Kind, sources};
use caffe::layers::LAYERS;

const ARCHITECTURES: [Architecture; 3] = [
    Architecture { major: 7, minor: 5 },
    Architecture { major: 8, minor: 0 },
    Architecture { major: 9, minor: 0 },
];

fn compiler() -> Option<Compiler> {
    let fetched = common::repository().join("target/nvrtc/nvidia/cu13/lib");
    // Open from here on; where that fails, the search below says why.
    let _ = Library::Nvrtc.open_in(&Places::of_process().with(fetched));
    match Compiler::open() {
        Ok(compiler) => Some(compiler),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// The engine's, the solver's and the layers', each once though several layers may share it.
fn all() -> Vec<Source> {
    let of_layers = LAYERS.iter().flat_map(|def| def.kernels).map(|source| **source);
    let mut all: Vec<Source> = Vec::new();
    for source in sources().into_iter().chain(caffe::solver::sources()).chain(of_layers) {
        if !all.contains(&source) {
            all.push(source);
        }
    }
    all
}

/// The kinds in which a text is another: all where it says `real`.
fn kinds(source: &Source) -> impl Iterator<Item = Kind> + use<> {
    let says = source.text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "real");
    Kind::ALL.into_iter().filter(move |kind| says || *kind == Kind::F32)
}

#[test]
fn names_are_unique() {
    let all = all();
    let names: BTreeSet<_> = all.iter().map(|source| source.name).collect();
    assert_eq!(names.len(), all.len(), "two sources of one name: {names:?}");
    assert!(all.iter().all(|source| !source.functions.is_empty()));
}

#[test]
fn every_kernel_is_listed() {
    for source in all() {
        let after = source.text.split("__global__ void ").skip(1);
        let names: Vec<_> = after.filter_map(|text| Some(text.split_once('(')?.0)).collect();
        assert_eq!(names, source.functions, "{}", source.name);
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(compiler) = compiler() else { return };
    println!("NVRTC {}: kernels, and bytes of CUBIN", compiler.version());
    let names = ARCHITECTURES.map(|architecture| format!("{architecture:>8}"));
    println!("{:<30} {:>7} {}", "source", "kernels", names.concat());
    let mut failures = Vec::new();
    let each = all().into_iter().flat_map(|source| kinds(&source).map(move |kind| (source, kind)));
    for (source, kind) in each {
        let name = format!("{} {}", source.name, kind.name());
        let mut row = format!("{name:<30} {:>7} ", source.functions.len());
        for architecture in ARCHITECTURES {
            match compiler.compile(&source, kind, architecture) {
                Ok(code) => {
                    row += &format!("{:>8}", code.len());
                    assert!(code.starts_with(b"\x7fELF"));
                    for function in source.functions {
                        assert!(holds(&code, function), "{name}: {function}");
                    }
                }
                Err(why) => failures.push(format!("{}: {why}", kind.name())),
            }
        }
        println!("{row}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_stands_before_every_source_compiles() {
    let Some(compiler) = compiler() else { return };
    let reductions = Source {
        name: "reductions",
        text: r#"
extern "C" __global__ void softmax_row(float* y, const float* x, uint32 n) {
  float largest = -FLOAT_MAX;
  for (uint32 i = threadIdx.x; i < n; i += BLOCK) largest = fmaxf(largest, x[i]);
  largest = block_max(largest);
  float sum = 0;
  for (uint32 i = threadIdx.x; i < n; i += BLOCK) sum += expf(x[i] - largest);
  sum = block_sum(sum);
  KERNEL_LOOP(i, n) { y[i] = expf(x[i] - largest) / sum; }
}
extern "C" __global__ void bytes(uint8* y, const int64* x, uint64 n) {
  KERNEL_LOOP(i, n) { y[i] = (uint8)x[i]; }
}
"#,
        functions: &["softmax_row", "bytes"],
    };
    for architecture in ARCHITECTURES {
        compiler.compile(&reductions, Kind::F32, architecture).unwrap();
    }
}

#[test]
fn an_error_names_the_source_and_its_line() {
    let Some(compiler) = compiler() else { return };
    let broken = Source {
        name: "broken",
        text: r#"
extern "C" __global__ void broken(float* y, int64 n) {
  KERNEL_LOOP(i, n) { y[i] = x[i]; }
}
"#,
        functions: &["broken"],
    };
    let error = compiler.compile(&broken, Kind::F32, ARCHITECTURES[2]).unwrap_err();
    let Error::Refused { name, line, log, .. } = &error else { panic!("{error}") };
    assert_eq!((*name, *line), ("broken", Some(2)));
    assert!(log.starts_with("broken.cu(2): error: identifier \"x\" is undefined"), "{log}");
    assert!(error.to_string().contains("`broken` do not compile for sm_90"), "{error}");
}

#[test]
fn a_kernel_that_is_not_in_the_text_is_named() {
    let Some(compiler) = compiler() else { return };
    let wrong = Source { functions: &["axpy", "axpby"], ..AXPY };
    let error = compiler.compile(&wrong, Kind::F32, ARCHITECTURES[2]).unwrap_err();
    assert_eq!(error, Error::Absent { name: "axpy", function: "axpby" });
}

#[test]
fn a_generation_that_nvrtc_does_not_know_is_refused() {
    let Some(compiler) = compiler() else { return };
    let ancient = Architecture { major: 1, minor: 3 };
    let error = compiler.compile(&AXPY, Kind::F32, ancient).unwrap_err();
    assert_eq!(error, compiler.architecture((1, 3)).unwrap_err());
    assert!(error.to_string().contains("makes no code for sm_13"), "{error}");
    assert_eq!(compiler.architecture((9, 0)), Ok(ARCHITECTURES[2]));
}

#[test]
fn code_from_disk_is_the_code_compiled() {
    let Some(compiler) = compiler() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = || Cache::at(folder.path());
    let get = || cache().compiled(&compiler, &AXPY, Kind::F32, ARCHITECTURES[2]).unwrap();
    let compiled = get();
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(get(), compiled);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written, "written again");

    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(get(), compiled);
    bytes[last] ^= 1;
    assert_eq!(fs::read(&file).unwrap(), bytes, "not repaired");

    let broken = Source { text: "x", ..AXPY };
    assert!(cache().compiled(&compiler, &broken, Kind::F32, ARCHITECTURES[2]).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "an error was kept");
}
