//! `data.mdb` as a file of pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::data::{Backend, DataError};

use super::meta::{META_BYTES, Meta, NotMeta};
use super::page::{Fault, HEADER, Kind, Page};

/// An open `data.mdb`.
#[derive(Debug)]
pub(super) struct PageFile {
    file: File,
    path: PathBuf,
    /// The newer meta page.
    pub(super) meta: Meta,
}

impl PageFile {
    /// Opens `data.mdb` in `folder` and checks that it is as long as its meta page says.
    pub(super) fn open(folder: &Path) -> Result<Self, DataError> {
        let foreign = |reason: &str| DataError::NotADatabase {
            kind: Backend::Lmdb,
            path: folder.to_owned(),
            reason: reason.to_owned(),
        };
        let path = folder.join("data.mdb");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(_) if !folder.exists() => return Err(foreign("there is no such directory")),
            Err(_) if !folder.is_dir() => return Err(foreign("it is not a directory")),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(match folder.join("CURRENT").exists() {
                    true => {
                        DataError::OtherBackend { path: folder.to_owned(), found: Backend::LevelDb }
                    }
                    false => foreign("the file data.mdb is missing"),
                });
            }
            Err(source) => return Err(DataError::io("read", &path, source)),
        };
        let size = file.metadata().map_err(|source| DataError::io("read", &path, source))?.len();
        let meta = newest_meta(&file, &path, folder)?;
        let need = meta.last_page.saturating_add(1).saturating_mul(meta.page_size as u64);
        if size < need {
            let what = format!("the file ends here, but its meta page counts {need} bytes");
            return Err(DataError::Corrupt { file: path, offset: size, what });
        }
        Ok(Self { file, path, meta })
    }

    /// Reads page `number`, which the tree says is of `kind`.
    pub(super) fn page(&self, number: u64, kind: Kind) -> Result<Page, DataError> {
        let offset = self.offset(number)?;
        let bytes = self.read(offset, self.meta.page_size)?;
        Page::new(bytes, number, offset, kind).map_err(|fault| self.damaged(offset, fault))
    }

    /// Reads a value of `size` bytes from the overflow pages that begin with page `number`.
    pub(super) fn overflow(&self, number: u64, size: usize) -> Result<Bytes, DataError> {
        let offset = self.offset(number)?;
        let pages = (HEADER + size).div_ceil(self.meta.page_size) as u64;
        let too_long = (12, "the value is longer than its overflow pages");
        // Before making room for it: a damaged size may be anything.
        if number + pages > self.meta.last_page + 1 {
            return Err(self.damaged(offset, too_long));
        }
        let mut bytes = self.read(offset, HEADER + size)?;
        let head = bytes.slice(..HEADER);
        let page = Page::new(head, number, offset, Kind::Overflow)
            .map_err(|fault| self.damaged(offset, fault))?;
        if page.pages() < pages {
            return Err(self.damaged(offset, too_long));
        }
        Ok(bytes.split_off(HEADER))
    }

    /// An error about what stands `fault.0` bytes behind `offset`.
    pub(super) fn damaged(&self, offset: u64, (at, what): Fault) -> DataError {
        DataError::Corrupt {
            file: self.path.clone(),
            offset: offset + at as u64,
            what: what.to_owned(),
        }
    }

    fn offset(&self, number: u64) -> Result<u64, DataError> {
        match (2..=self.meta.last_page).contains(&number) {
            true => Ok(number * self.meta.page_size as u64),
            false => {
                let what = format!("the tree leads to page {number}, which is not in use");
                Err(DataError::Corrupt { file: self.path.clone(), offset: 0, what })
            }
        }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Bytes, DataError> {
        let mut bytes = vec![0; len];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes.into()),
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(offset, (0, "the file ends within this page")))
            }
            Err(source) => Err(DataError::io("read", &self.path, source)),
        }
    }
}

/// The newer of the two meta pages; a writer that was killed may have left one of them damaged.
fn newest_meta(file: &File, path: &Path, folder: &Path) -> Result<Meta, DataError> {
    let read = |offset: u64| {
        let mut page = [0; META_BYTES];
        file.read_exact_at(&mut page, offset).ok().map(|()| Meta::decode(&page))
    };
    let Some(first) = read(0) else {
        let what = "the file ends within the first page".to_owned();
        return Err(DataError::Corrupt { file: path.to_owned(), offset: 0, what });
    };
    let second_at = first.map_or(4096, |meta| meta.page_size as u64);
    let second = read(second_at).and_then(Result::ok);
    match (first, second) {
        (Ok(a), Some(b)) => Ok(if b.transaction > a.transaction { b } else { a }),
        (Ok(meta), None) | (Err(NotMeta::Damaged(_)), Some(meta)) => Ok(meta),
        (Err(NotMeta::Damaged(what)), None) => {
            Err(DataError::Corrupt { file: path.to_owned(), offset: 0, what: what.to_owned() })
        }
        (Err(NotMeta::Foreign(reason)), _) => Err(DataError::NotADatabase {
            kind: Backend::Lmdb,
            path: folder.to_owned(),
            reason: reason.to_owned(),
        }),
    }
}
