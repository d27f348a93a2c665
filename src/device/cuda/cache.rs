//! Machine code on disk, so that kernels are compiled once per machine and not once per run.
//!
//! One file per source, architecture and NVRTC version: `relu-sm_90-nvrtc13.0-….cubin`, the last part a
//! hash of the text and the options. The file holds text and options too, and is used only where they
//! are the same: neither a hash that two texts share nor a file of somebody else gives wrong code.
//! Files are written whole, may be removed at any time, and are never removed by the program.
//!
//! The disk cannot make a run fail. What goes wrong with it is told once, by [`Cache::complaint`].

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use caffe_proto::files::write_file_atomic;
use parking_lot::Mutex;

use super::compiler::{Architecture, Compiler, Error};
use super::kind::Kind;
use super::library::Version;
use super::source::Source;

/// First bytes of a file; the number is the form's.
const MAGIC: &[u8; 16] = b"caffe kernels 1\n";
/// Magic, length of the text, length of the code, checksum of both.
const HEADER: usize = MAGIC.len() + 8 + 8 + 4;

/// A folder of compiled kernels, or none.
#[derive(Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
    complaint: Mutex<Complaint>,
}

#[derive(Debug, Default)]
enum Complaint {
    #[default]
    None,
    Waiting(String),
    Told,
}

impl Cache {
    /// `$CAFFE_CACHE` (empty: no cache), else `$XDG_CACHE_HOME/caffe`, else `~/.cache/caffe`. The
    /// folder is made when there is something to put into it.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let below = |variable, rest: &str| {
            let folder = environment(variable).filter(|value| !value.is_empty())?;
            Some(PathBuf::from(folder).join(rest))
        };
        let folder = match environment("CAFFE_CACHE") {
            Some(folder) => Some(folder).filter(|folder| !folder.is_empty()).map(PathBuf::from),
            None => below("XDG_CACHE_HOME", "caffe").or_else(|| below("HOME", ".cache/caffe")),
        };
        Cache { folder, ..Self::default() }
    }

    /// A cache in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: Some(folder.into()), ..Self::default() }
    }

    /// The folder, where there is a cache.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// CUBIN of a source's kernels, from disk if it is there, else compiled and put there.
    ///
    /// # Errors
    /// The compiler's. The disk's are no errors.
    pub fn compiled(
        &self,
        compiler: &Compiler,
        source: &Source,
        kind: Kind,
        architecture: Architecture,
    ) -> Result<Vec<u8>, Error> {
        let key = Key::new(compiler.version(), source, kind, architecture);
        self.get(&key, || compiler.compile(source, kind, architecture))
    }

    fn get<E>(&self, key: &Key, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        if let Some(code) = self.read(key) {
            return Ok(code);
        }
        let code = make()?;
        self.write(key, &code);
        Ok(code)
    }

    /// Why compiled kernels are not kept, the first time it is asked after that happened.
    pub fn complaint(&self) -> Option<String> {
        let mut complaint = self.complaint.lock();
        match std::mem::replace(&mut *complaint, Complaint::Told) {
            Complaint::Waiting(text) => Some(text),
            before => {
                *complaint = before;
                None
            }
        }
    }

    fn read(&self, key: &Key) -> Option<Vec<u8>> {
        key.unpack(fs::read(self.folder.as_ref()?.join(&key.file)).ok()?)
    }

    fn write(&self, key: &Key, code: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let written = fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))
            .and_then(|()| {
                write_file_atomic(folder.join(&key.file), &key.pack(code))
                    .map_err(|error| error.to_string())
            });
        let mut complaint = self.complaint.lock();
        if let (Err(why), Complaint::None) = (written, &*complaint) {
            *complaint = Complaint::Waiting(format!(
                "compiled kernels are not kept, every run compiles them anew: {why}; name a folder \
                 that can be written in CAFFE_CACHE"
            ));
        }
    }
}

/// What a piece of machine code was made from.
struct Key {
    file: String,
    /// The compiler's version and options, and the text.
    text: String,
}

impl Key {
    fn new(nvrtc: Version, source: &Source, kind: Kind, architecture: Architecture) -> Self {
        let options = Compiler::options(architecture).join(" ");
        let text = format!("NVRTC {nvrtc} {options}\n{}", source.assembled(kind));
        let (name, hash) = (source.name, crc32c::crc32c(text.as_bytes()));
        Key { file: format!("{name}-{architecture}-nvrtc{nvrtc}-{hash:08x}.cubin"), text }
    }

    fn pack(&self, code: &[u8]) -> Vec<u8> {
        [&self.header(code), self.text.as_bytes(), code].concat()
    }

    /// The code of a file, unless the file is damaged or about another text.
    fn unpack(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let (header, body) = bytes.split_at_checked(HEADER)?;
        let (text, code) = body.split_at_checked(self.text.len())?;
        let same = text == self.text.as_bytes() && header == self.header(code);
        let code = bytes.split_off(HEADER + self.text.len());
        (same && !code.is_empty()).then_some(code)
    }

    fn header(&self, code: &[u8]) -> Vec<u8> {
        let sum = crc32c::crc32c_append(crc32c::crc32c(self.text.as_bytes()), code);
        let [text, code] = [self.text.len(), code.len()].map(|bytes| (bytes as u64).to_le_bytes());
        [&MAGIC[..], &text, &code, &sum.to_le_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::device::cuda::source::AXPY;

    const NVRTC: Version = Version { major: 13, minor: 0, patch: None };
    const SM_90: Architecture = Architecture { major: 9, minor: 0 };

    fn key() -> Key {
        Key::new(NVRTC, &AXPY, Kind::F32, SM_90)
    }

    /// The code that is got, and whether it was made anew.
    fn get(cache: &Cache, key: &Key, code: &[u8]) -> (Vec<u8>, bool) {
        let mut made = false;
        let got = cache.get(key, || {
            made = true;
            Ok::<_, Infallible>(code.to_vec())
        });
        (got.unwrap(), made)
    }

    #[test]
    fn code_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("made/when/needed");
        assert_eq!(get(&Cache::at(&below), &key(), b"code"), (b"code".to_vec(), true));
        let again = Cache::at(&below);
        assert_eq!(get(&again, &key(), b"other"), (b"code".to_vec(), false));
        assert_eq!(again.complaint(), None);
        let files: Vec<_> = fs::read_dir(&below).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(files.len(), 1);
        let name = files[0].to_str().unwrap();
        assert!(name.starts_with("axpy-sm_90-nvrtc13.0-") && name.ends_with(".cubin"), "{name}");
    }

    #[test]
    fn another_text_compiler_or_device_is_another_file() {
        let other_text = Source { text: "//", ..AXPY };
        let newer = Version { minor: 1, ..NVRTC };
        let sm_80 = Architecture { major: 8, minor: 0 };
        let others = [
            Key::new(NVRTC, &other_text, Kind::F32, SM_90),
            Key::new(NVRTC, &AXPY, Kind::Bf16, SM_90),
            Key::new(NVRTC, &AXPY, Kind::F16, SM_90),
            Key::new(newer, &AXPY, Kind::F32, SM_90),
            Key::new(NVRTC, &AXPY, Kind::F32, sm_80),
        ];
        for other in others {
            assert_ne!(other.file, key().file);
            assert_eq!(other.unpack(key().pack(b"code")), None, "{}", other.file);
        }
        assert_eq!(key().unpack(key().pack(b"code")), Some(b"code".to_vec()));
    }

    #[test]
    fn every_damage_is_seen_and_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let whole = key().pack(b"code");
        let path = folder.path().join(key().file);
        let flipped = (0..whole.len()).map(|i| {
            let mut bytes = whole.clone();
            bytes[i] ^= 0x10;
            bytes
        });
        let cut = [0, 1, HEADER, whole.len() - 1].map(|length| whole[..length].to_vec());
        let longer = [&whole[..], b"x"].concat();
        for bytes in flipped.chain(cut).chain([longer]) {
            assert_eq!(key().unpack(bytes), None);
        }
        fs::write(&path, "something else").unwrap();
        assert_eq!(get(&cache, &key(), b"code"), (b"code".to_vec(), true));
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(key().unpack(key().pack(b"")), None, "no code at all is no code");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let cache = Cache::at(folder.path().join("file/below"));
        assert_eq!(cache.complaint(), None);
        for _ in 0..2 {
            assert_eq!(get(&cache, &key(), b"code"), (b"code".to_vec(), true));
        }
        let complaint = cache.complaint().unwrap();
        assert!(
            complaint.contains("file/below") && complaint.contains("CAFFE_CACHE"),
            "{complaint}"
        );
        get(&cache, &key(), b"code");
        assert_eq!(cache.complaint(), None);
    }

    #[test]
    fn which_folder() {
        let folder = |variables: &[(&str, &str)]| {
            let cache = Cache::of(|name| {
                let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
                Some(value.into())
            });
            cache.folder().map(|folder| folder.to_str().unwrap().to_owned())
        };
        let home = ("HOME", "/h");
        assert_eq!(folder(&[home]).unwrap(), "/h/.cache/caffe");
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "")]).unwrap(), "/h/.cache/caffe");
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/x")]).unwrap(), "/x/caffe");
        assert_eq!(folder(&[home, ("CAFFE_CACHE", "/c")]).unwrap(), "/c");
        assert_eq!(folder(&[home, ("CAFFE_CACHE", "")]), None);
        assert_eq!(folder(&[]), None);
        let none = Cache::default();
        assert_eq!(get(&none, &key(), b"code"), (b"code".to_vec(), true));
        assert_eq!(none.complaint(), None);
    }
}
