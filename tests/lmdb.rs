//! LMDB: databases of py-lmdb (made by `fixtures/make.py`) and our own, whole and damaged.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use caffe::data::lmdb::{Database, Writer};
use caffe::data::{Backend, DataError, leveldb};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What `make.py` wrote.
fn written() -> Pairs {
    let size = |i: usize| if i.is_multiple_of(75) { 9_000 } else { 5 };
    (0..150).map(|i| (format!("{i:05}").into_bytes(), vec![i as u8; size(i)])).collect()
}

fn read(path: &Path) -> Result<Pairs, DataError> {
    let mut cursor = Database::open(path)?.cursor();
    let mut pairs = Vec::new();
    while let Some(record) = cursor.next_record()? {
        pairs.push((record.key.to_vec(), record.value.to_vec()));
    }
    Ok(pairs)
}

/// A folder with a `data.mdb` of these bytes.
fn database(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data.mdb"), bytes).unwrap();
    dir
}

#[test]
fn databases_of_other_programs_are_read() {
    assert_eq!(read(&fixture("lmdb")).unwrap(), written());
    assert_eq!(Database::open(fixture("lmdb")).unwrap().count(), 150);
    assert_eq!(read(&fixture("lmdb_empty")).unwrap(), []);
    let mut plyvel = leveldb::Database::open(fixture("leveldb")).unwrap().cursor().unwrap();
    for (key, value) in written() {
        let record = plyvel.next_record().unwrap().unwrap();
        assert_eq!((&record.key[..], &record.value[..]), (&key[..], &value[..]));
    }
}

#[test]
fn reading_changes_nothing_and_needs_no_lock() {
    let list = |path: &Path| {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name(), e.metadata().unwrap().modified().unwrap())).collect()
    };
    let before: Vec<_> = list(&fixture("lmdb"));
    read(&fixture("lmdb")).unwrap();
    assert_eq!(list(&fixture("lmdb")), before);
}

/// Enough records for three levels, small and large ones mixed.
fn many() -> Pairs {
    let value = |i: usize| vec![i as u8; if i.is_multiple_of(11) { 5_000 } else { 1 + i % 900 }];
    (0..6_000).map(|i| (format!("{i:08}_some/where/{i}.jpg").into_bytes(), value(i))).collect()
}

#[test]
fn what_is_written_reads_back_by_scan_seek_and_skip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut writer = Writer::create(&path).unwrap();
    let pairs = many();
    for (key, value) in &pairs {
        writer.put(key, value).unwrap();
    }
    assert!(!path.exists());
    assert_eq!(writer.finish().unwrap(), 6_000);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "only data.mdb");
    assert!(read(&path).unwrap() == pairs);

    let mut cursor = Database::open(&path).unwrap().cursor();
    let mut random = caffe::rng::Philox::new(1, 2).sequence();
    for _ in 0..300 {
        let i = random.below(6_000) as usize;
        // The key itself, and one just before it that is not there.
        for key in [&pairs[i].0[..], &pairs[i].0[..pairs[i].0.len() - 1]] {
            cursor.seek(key).unwrap();
            assert_eq!(cursor.next_record().unwrap().unwrap().value, pairs[i].1);
        }
        let skipped = cursor.skip(700).unwrap() as usize;
        assert_eq!(skipped, 700.min(6_000 - i - 1));
        let next = cursor.next_key().unwrap().map(|key| key.to_vec());
        assert_eq!(next, pairs.get(i + 701).map(|(key, _)| key.clone()));
    }
    cursor.seek(b"~").unwrap();
    assert!(cursor.next_record().unwrap().is_none());
    assert!(cursor.next_record().unwrap().is_none());
}

#[test]
fn writing_refuses_what_exists_and_what_is_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut writer = Writer::create(&path).unwrap();
    writer.put(b"b", b"1").unwrap();
    let error = writer.put(b"a", b"1").unwrap_err().to_string();
    assert!(error.contains("record `a`: keys must be written in ascending order"), "{error}");
    let long = writer.put(&[b'x'; 600], b"1").and_then(|()| writer.finish().map(|_| ()));
    assert!(long.unwrap_err().to_string().contains("LMDB"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    fs::create_dir(&path).unwrap();
    assert!(matches!(Writer::create(&path), Err(DataError::Exists { .. })));
}

#[test]
fn a_cut_database_is_an_error_at_open() {
    let whole = fs::read(fixture("lmdb").join("data.mdb")).unwrap();
    for cut in [0, 1, 15, 100, 151, 152, 4_095, 4_096, 5_000, 8_192, whole.len() - 1] {
        let dir = database(&whole[..cut]);
        let error = Database::open(dir.path()).err().unwrap();
        let DataError::Corrupt { file, .. } = &error else { panic!("{cut}: {error}") };
        assert_eq!(*file, dir.path().join("data.mdb"));
    }
    // Longer is no damage: LMDB grows its file ahead.
    let dir = database(&[&whole[..], &[0; 5_000]].concat());
    assert_eq!(read(dir.path()).unwrap(), written());
}

#[test]
fn what_is_no_lmdb_is_named() {
    let dir = database(&[7; 9_000]);
    let message = |path: &Path| Database::open(path).err().unwrap().to_string();
    assert!(message(dir.path()).contains("does not begin like an LMDB file"));
    assert!(message(&dir.path().join("nowhere")).contains("there is no such directory"));
    assert!(message(&dir.path().join("data.mdb")).contains("it is not a directory"));
    let empty = tempfile::tempdir().unwrap();
    assert!(message(empty.path()).contains("data.mdb is missing"));
    let other = Database::open(fixture("leveldb")).err().unwrap();
    assert!(matches!(other, DataError::OtherBackend { found: Backend::LevelDb, .. }));
    assert!(other.to_string().contains("`backend: LEVELDB`"), "{other}");
    let other = leveldb::Database::open(fixture("lmdb")).err().unwrap().to_string();
    assert!(other.contains("is an LMDB; say so with `backend: LMDB`"), "{other}");
}

#[test]
fn damage_never_panics_loops_or_reads_elsewhere() {
    let whole = fs::read(fixture("lmdb").join("data.mdb")).unwrap();
    let dir = database(&whole);
    let file = dir.path().join("data.mdb");
    let (mut noticed, mut random) = (0, caffe::rng::Philox::new(5, 5).sequence());
    let rounds = 4_000;
    for _ in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(3) {
            // Half of them where the structure is.
            let page = random.below(bytes.len() as u64 / 4_096) as usize * 4_096;
            let within = [random.below(200), random.below(4_096)][random.below(2) as usize];
            bytes[page + within as usize] ^= 1 << random.below(8);
        }
        fs::write(&file, bytes).unwrap();
        noticed += usize::from(read(dir.path()).is_err());
    }
    assert!(noticed > rounds / 20, "{noticed}");
}

#[test]
fn several_read_at_once() {
    let mut cursors: Vec<_> =
        (0..4).map(|_| Database::open(fixture("lmdb")).unwrap().cursor()).collect();
    for (key, _) in written() {
        for cursor in &mut cursors {
            assert_eq!(cursor.next_record().unwrap().unwrap().key, key);
        }
    }
}
