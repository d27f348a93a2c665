//! CUDA's libraries as `device_query` and `doctor` tell of them: small libraries that the test builds
//! stand in for NVIDIA's, and an environment of its own for the machine's.

use std::path::Path;
use std::process::Command;

use crate::support::{Folder, caffe, text};

/// A shared library named `file` that answers `function(part)` with a version; false where there is no
/// C compiler.
fn library(folder: &Path, file: &str, function: &str, [major, minor, patch]: [u32; 3]) -> bool {
    std::fs::create_dir_all(folder).unwrap();
    let source = folder.join("source.c");
    let packed = 10000 * major + 100 * minor + patch;
    let text = match function {
        "ncclGetVersion" => format!("int {function}(int* v) {{ *v = {packed}; return 0; }}"),
        _ => format!(
            "int {function}(int part, int* v) {{ int all[3] = {{{major}, {minor}, {patch}}};\n\
             *v = all[part]; return 0; }}"
        ),
    };
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-Wl,-soname,{file}"), "-o"])
        .args([&folder.join(file), &source])
        .status();
    if compiled.is_err() {
        println!("skipped: no C compiler");
    }
    compiled.is_ok_and(|status| status.success())
}

/// Parts of cuDNN without which it cannot be asked anything.
fn dnn_parts(folder: &Path) -> bool {
    ["graph", "ops", "cnn", "adv"]
        .iter()
        .all(|part| library(folder, &format!("libcudnn_{part}.so.9"), "part", [0; 3]))
}

/// What a command says in an environment that holds these variables and no Python.
fn says(command: &str, variables: &[(&str, &Path)]) -> String {
    let output = caffe()
        .arg(command)
        .env_remove("VIRTUAL_ENV")
        .env_remove("CONDA_PREFIX")
        .env_remove("PYTHONPATH")
        .env_remove("CAFFE_CUDA_LIBS")
        .envs([("HOME", "/nonexistent"), ("PATH", "/nonexistent")])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn line<'a>(out: &'a str, label: &str) -> &'a str {
    let found = out.lines().find(|line| line.starts_with(&format!("{label}:")));
    found.unwrap_or_else(|| panic!("no {label} in\n{out}"))
}

/// Whether the loader or a toolkit of this machine has the real one: then it is met instead.
fn is_here(library: &str) -> bool {
    let here = !line(&says("device_query", &[]), library).contains("not found");
    if here {
        println!("skipped: this machine has {library}");
    }
    here
}

#[test]
fn what_is_missing_is_told_with_the_fix_and_the_places() {
    if is_here("cuDNN") {
        return;
    }
    let folder = Folder::new();
    let out = says("device_query", &[("CAFFE_CUDA_LIBS", folder.0.path())]);
    let dnn = line(&out, "cuDNN");
    assert!(dnn.contains("not found; pip install nvidia-cudnn-cu"), "{dnn}");
    for label in ["NVRTC", "cuBLASLt", "cuBLAS", "NCCL"] {
        line(&out, label);
    }
    let places = line(&out, "Searched");
    let named = format!(" {}, the loader's path", folder.0.path().display());
    assert!(places.contains(&named), "{places}");
    let doctor = says("doctor", &[]);
    assert!(doctor.contains("cuDNN"), "{doctor}");
}

#[test]
fn a_library_of_a_named_folder_is_found_with_its_version() {
    let folder = Folder::new();
    let path = folder.0.path();
    if is_here("cuDNN")
        || !library(path, "libcudnn.so.9", "cudnnGetProperty", [9, 10, 2])
        || !dnn_parts(path)
    {
        return;
    }
    let variables = [("CAFFE_CUDA_LIBS", path)];
    let real = path.canonicalize().unwrap().join("libcudnn.so.9");
    let out = says("device_query", &variables);
    let dnn = line(&out, "cuDNN");
    assert!(dnn.ends_with(&format!(" 9.10.2, {}", real.display())), "{dnn}");
    let doctor = says("doctor", &variables);
    let told = format!("cuDNN 9.10.2 in {}", real.parent().unwrap().display());
    assert!(doctor.contains(&told), "{doctor}");
}

#[test]
fn libraries_of_python_environments_and_toolkits_are_found() {
    let folder = Folder::new();
    let python = folder.path("lib/python3.11/site-packages/nvidia/nccl/lib");
    let toolkit = folder.path("toolkit/lib64");
    if is_here("NCCL")
        || is_here("cuBLAS")
        || !library(&python, "libnccl.so.2", "ncclGetVersion", [2, 27, 3])
        || !library(&toolkit, "libcublas.so.13", "cublasGetProperty", [13, 1, 0])
    {
        return;
    }
    let home = folder.path("toolkit");
    let variables = [("VIRTUAL_ENV", folder.0.path()), ("CUDA_HOME", home.as_path())];
    let out = says("device_query", &variables);
    let nccl = line(&out, "NCCL");
    assert!(nccl.contains(" 2.27.3, ") && nccl.ends_with("nvidia/nccl/lib/libnccl.so.2"), "{nccl}");
    let blas = line(&out, "cuBLAS");
    assert!(
        blas.contains(" 13.1.0, ") && blas.ends_with("toolkit/lib64/libcublas.so.13"),
        "{blas}"
    );
}

#[test]
fn a_library_that_cannot_be_used_is_told_with_the_reason() {
    let folder = Folder::new();
    let path = folder.0.path();
    if is_here("cuDNN") || !library(path, "libcudnn.so.9", "cudnnGetProperty", [8, 9, 7]) {
        return;
    }
    let variables = [("CAFFE_CUDA_LIBS", path)];
    let told = || line(&says("device_query", &variables), "cuDNN").to_owned();
    // Asked anything now, the real one would end the process.
    let parts = told();
    assert!(parts.contains("its part libcudnn_graph.so.9 cannot be opened"), "{parts}");
    assert!(dnn_parts(path));
    let old = told();
    assert!(old.contains("version 8.9.7, 9 is needed; pip install nvidia-cudnn"), "{old}");
    folder.write("libcudnn.so.9", "no library at all");
    let foreign = told();
    assert!(foreign.contains("cannot be used: ") && foreign.contains("libcudnn.so.9"), "{foreign}");
    // A library by that name, but another one by its own.
    assert!(library(path, "libother.so.1", "cudnnGetProperty", [9, 0, 0]));
    std::fs::rename(path.join("libother.so.1"), path.join("libcudnn.so.9")).unwrap();
    let renamed = told();
    assert!(renamed.contains("(SONAME) is another"), "{renamed}");
}
