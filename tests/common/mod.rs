//! What integration tests share: where the recorded material lies, and arrays from `.npz` files.
//!
//! Every test crate compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod cuda;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caffe::Result;
use caffe::net::{Net, NetOptions, Origin};
use caffe_proto::NetParameter;

/// The folder with recorded cases, data sets and reference tables: `$CAFFE_SHARED`, or `shared`
/// beside the repository.
pub fn shared() -> PathBuf {
    match std::env::var_os("CAFFE_SHARED") {
        Some(path) => path.into(),
        None => repository().join("../shared"),
    }
}

/// The repository's root; `$CAFFE_REPOSITORY` where the tests run without the tree they were built in.
pub fn repository() -> PathBuf {
    match std::env::var_os("CAFFE_REPOSITORY") {
        Some(path) => path.into(),
        None => env!("CARGO_MANIFEST_DIR").into(),
    }
}

/// The folders in a folder, sorted; `None` if it cannot be read.
pub fn folders(root: &Path) -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(root).ok()?;
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    Some(folders)
}

/// The folders below `variable`'s value, or else below `default` in [`shared`]; `None`, with a
/// printed line, where there is no such folder.
pub fn cases(variable: &str, default: &str) -> Option<Vec<PathBuf>> {
    let root = std::env::var_os(variable).map_or_else(|| shared().join(default), PathBuf::from);
    let found = folders(&root);
    if found.is_none() {
        println!("skipped: no folder {} (set {variable} to point elsewhere)", root.display());
    }
    found
}

/// Reads a prototxt.
pub fn read_net(path: &Path) -> NetParameter {
    let text = std::fs::read_to_string(path).unwrap();
    caffe_proto::text::parse(&path.to_string_lossy(), &text).unwrap()
}

/// Builds a net from prototxt text.
pub fn net_of(text: &str, options: &NetOptions) -> Result<Net> {
    let param: NetParameter = caffe_proto::text::parse("test", text).unwrap();
    Net::new(&param, &Origin::default(), options)
}

/// The arrays of an `.npz` file, as f32, by name.
pub fn read_npz(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let mut archive = npyz::npz::NpzArchive::open(path).unwrap();
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut arrays = BTreeMap::new();
    for name in names {
        let array = archive.by_name(&name).unwrap().unwrap();
        arrays.insert(name.clone(), to_f32(array, &name));
    }
    arrays
}

fn to_f32<R: std::io::Read>(array: npyz::NpyFile<R>, name: &str) -> Vec<f32> {
    let dtype = array.dtype().descr();
    match dtype.trim_matches(['\'', '"']) {
        "<f4" => array.into_vec::<f32>().unwrap(),
        "<f8" => array.into_vec::<f64>().unwrap().into_iter().map(|v| v as f32).collect(),
        "<i8" => array.into_vec::<i64>().unwrap().into_iter().map(|v| v as f32).collect(),
        "<i4" => array.into_vec::<i32>().unwrap().into_iter().map(|v| v as f32).collect(),
        other => panic!("array {name} has type {other}, which no recorded case should have"),
    }
}

/// A Python that has some modules: `$CAFFE_PYTHON`, or `python3`.
pub struct Python(std::ffi::OsString);

/// A Python with `modules` (as `import` takes them); `None`, with a printed line, where there is
/// none.
pub fn python(modules: &str) -> Option<Python> {
    let program = std::env::var_os("CAFFE_PYTHON").unwrap_or_else(|| "python3".into());
    let import = format!("import {modules}");
    let found = std::process::Command::new(&program).args(["-c", &import]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(Python(program));
    }
    println!(
        "skipped: {} cannot import {modules} (set CAFFE_PYTHON to one that can)",
        program.display()
    );
    None
}

impl Python {
    /// Runs a script and returns what it printed.
    pub fn run(&self, script: &str, args: &[&Path]) -> String {
        let output =
            std::process::Command::new(&self.0).args(["-c", script]).args(args).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
