//! Folders in which CUDA's libraries may lie beside the loader's own path.
//!
//! Read from environment variables and folders only: no program is run, so a Python that is reached
//! through a script (pyenv) and not activated is not seen.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where to look, in order: the folders of `CAFFE_CUDA_LIBS`, the loader's path (`LD_LIBRARY_PATH`,
/// `ldconfig`), toolkits, Python environments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Named by the user: before the loader's path.
    pub named: Vec<PathBuf>,
    /// Toolkits and Python environments: after the loader's path.
    pub others: Vec<PathBuf>,
}

impl Places {
    /// What this process's environment says, folders that exist only.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    /// What an environment says, given as a function from a variable's name to its value.
    pub fn of(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let list = |name| environment(name).map(|value| folders_of(&value)).unwrap_or_default();
        let one = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);

        let mut others = Vec::new();
        let toolkits = [one("CUDA_HOME"), one("CUDA_PATH"), Some("/usr/local/cuda".into())];
        for toolkit in toolkits.into_iter().flatten() {
            others
                .extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|lib| toolkit.join(lib)));
        }
        for packages in list("PYTHONPATH") {
            others.extend(nvidia(&packages));
        }
        let user = one("HOME").map(|home| home.join(".local"));
        let environments = [one("VIRTUAL_ENV"), one("CONDA_PREFIX"), user].into_iter().flatten();
        for prefix in environments.chain(pythons(&list("PATH"))) {
            others.extend(site_packages(&prefix).iter().flat_map(|packages| nvidia(packages)));
        }
        // Conda's packages of the toolkit, without Python.
        others.extend(one("CONDA_PREFIX").map(|prefix| prefix.join("lib")));
        Places { named: existing(list("CAFFE_CUDA_LIBS")), others: existing(others) }
    }

    /// The same with `folder` before all others.
    pub fn with(mut self, folder: impl Into<PathBuf>) -> Self {
        self.named.insert(0, folder.into());
        self
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for folder in &self.named {
            write!(f, "{}, ", folder.display())?;
        }
        f.write_str("the loader's path")?;
        for folder in &self.others {
            write!(f, ", {}", folder.display())?;
        }
        Ok(())
    }
}

fn folders_of(list: &OsString) -> Vec<PathBuf> {
    std::env::split_paths(list).filter(|folder| !folder.as_os_str().is_empty()).collect()
}

/// Each folder that is there, once, in order.
fn existing(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for folder in folders {
        if let Ok(real) = folder.canonicalize()
            && real.is_dir()
            && !seen.contains(&real)
        {
            seen.push(real);
            kept.push(folder);
        }
    }
    kept
}

/// Where the first `python3` of `path` is installed: the environment it stands in, and, if it is a
/// link, the installation it belongs to.
fn pythons(path: &[PathBuf]) -> Vec<PathBuf> {
    let Some(python) = path.iter().map(|bin| bin.join("python3")).find(|file| file.is_file())
    else {
        return Vec::new();
    };
    let real = python.canonicalize().ok();
    let prefix = |file: &Path| Some(file.parent()?.parent()?.to_owned());
    [prefix(&python), real.as_deref().and_then(prefix)].into_iter().flatten().collect()
}

/// The folders of packages below an installation, the newest Python first.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Debian's pip puts packages below local.
    for lib in ["lib", "lib64", "local/lib"] {
        let mut versions: Vec<(u32, PathBuf)> = entries(&prefix.join(lib))
            .into_iter()
            .filter_map(|folder| {
                let minor = folder.file_name()?.to_str()?.strip_prefix("python3.")?.parse().ok()?;
                Some((minor, folder))
            })
            .collect();
        versions.sort_by_key(|(minor, _)| std::cmp::Reverse(*minor));
        for (_, folder) in versions {
            found.extend(["site-packages", "dist-packages"].map(|name| folder.join(name)));
        }
    }
    found
}

/// The folders of libraries that NVIDIA's packages bring: `nvidia/cudnn/lib`, `nvidia/cu13/lib`, ….
fn nvidia(packages: &Path) -> Vec<PathBuf> {
    let mut folders = entries(&packages.join("nvidia"));
    // Backwards: cu13 before cu12, should both be there.
    folders.sort_by(|a, b| b.cmp(a));
    folders.into_iter().map(|folder| folder.join("lib")).filter(|lib| lib.is_dir()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path, path: &str) -> PathBuf {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn places(variables: &[(&str, &Path)]) -> Places {
        let mut places = Places::of(|name| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(value.as_os_str().to_owned())
        });
        // A toolkit of this machine is none of the test's.
        places.others.retain(|folder| !folder.starts_with("/usr/local/cuda"));
        places
    }

    #[test]
    fn an_empty_environment_names_the_loader_only() {
        assert_eq!(places(&[]), Places::default());
        assert_eq!(Places::default().to_string(), "the loader's path");
    }

    #[test]
    fn toolkits_and_named_folders() {
        let root = tempfile::tempdir().unwrap();
        let lib = folder(root.path(), "toolkit/lib64");
        let (a, b) = (folder(root.path(), "a"), folder(root.path(), "b"));
        let named = std::env::join_paths([&a, &root.path().join("none"), &b, &a]).unwrap();
        let toolkit = root.path().join("toolkit");
        let found = places(&[
            ("CAFFE_CUDA_LIBS", Path::new(&named)),
            ("CUDA_HOME", &toolkit),
            ("CUDA_PATH", &toolkit),
        ]);
        assert_eq!(found, Places { named: vec![a.clone(), b.clone()], others: vec![lib.clone()] });
        let text = found.to_string();
        let (a, b, lib) = (a.display(), b.display(), lib.display());
        assert_eq!(text, format!("{a}, {b}, the loader's path, {lib}"));
    }

    #[test]
    fn environments_of_python_the_newest_first() {
        let root = tempfile::tempdir().unwrap();
        let packages = "lib/python3.9/site-packages/nvidia";
        let old = folder(root.path(), &format!("{packages}/cu12/lib"));
        let new = folder(root.path(), "lib/python3.12/site-packages/nvidia/cu13/lib");
        let dnn = folder(root.path(), "lib/python3.12/site-packages/nvidia/cudnn/lib");
        folder(root.path(), "lib/python3.12/site-packages/nvidia/headers/include");
        let conda = root.path().join("lib");
        assert_eq!(
            places(&[("VIRTUAL_ENV", root.path())]).others,
            [&dnn, &new, &old].map(PathBuf::clone)
        );
        assert_eq!(
            places(&[("CONDA_PREFIX", root.path())]).others,
            [&dnn, &new, &old, &conda].map(PathBuf::clone)
        );
        let target = root.path().join("lib/python3.12/site-packages");
        assert_eq!(places(&[("PYTHONPATH", &target)]).others, [&dnn, &new].map(PathBuf::clone));
    }

    #[test]
    #[cfg(unix)]
    fn the_python_of_the_path_and_the_one_it_links_to() {
        let root = tempfile::tempdir().unwrap();
        let base = folder(root.path(), "base/local/lib/python3.11/dist-packages/nvidia/nccl/lib");
        let own = folder(root.path(), "venv/lib/python3.11/site-packages/nvidia/cudnn/lib");
        fs::write(folder(root.path(), "base/bin").join("python3.11"), "").unwrap();
        let bin = folder(root.path(), "venv/bin");
        let python = root.path().join("base/bin/python3.11");
        std::os::unix::fs::symlink(python, bin.join("python3")).unwrap();
        // The temporary folder itself may be reached through a link.
        let base = base.canonicalize().unwrap();
        assert_eq!(places(&[("PATH", &bin)]).others, [own, base]);
    }
}
