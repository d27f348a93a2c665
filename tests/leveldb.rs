//! LevelDB as the engine uses it: nothing on disk changes, nothing damaged is overlooked.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::SystemTime;

use caffe::data::DataError;
use caffe::data::leveldb::{Database, Writer};

type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Reference data beside the repository, or `None` with a line that says so.
fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CAFFE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        println!("skipped: {} is not there", found.display());
        return None;
    }
    Some(found)
}

fn scan(path: &Path) -> Result<Records, DataError> {
    let mut cursor = Database::open(path)?.cursor()?;
    let mut records = Vec::new();
    while let Some(record) = cursor.next_record()? {
        records.push((record.key.to_vec(), record.value.to_vec()));
    }
    Ok(records)
}

fn records(n: usize, bytes: usize) -> Records {
    (0..n)
        .map(|i| {
            let value = (0..bytes).map(|j| (i * 31 + j * j) as u8).collect();
            (format!("{i:08}").into_bytes(), value)
        })
        .collect()
}

/// A database made of tables only.
fn with_tables(path: &Path, records: &Records) {
    let mut writer = Writer::create(path).unwrap();
    for (key, value) in records {
        writer.put(key, value).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), records.len() as u64);
}

/// A database of which part or all sits in a log, as C++ LevelDB leaves it after a conversion.
fn with_log(path: &Path, records: &Records, buffer: usize) {
    let options = rusty_leveldb::Options {
        write_buffer_size: buffer,
        compressor: 1,
        block_size: 1024,
        // As C++ does; else the MANIFEST would not name the log.
        reuse_manifest: false,
        ..Default::default()
    };
    let mut db = rusty_leveldb::DB::open(path, options).unwrap();
    for (key, value) in records {
        db.put(key, value).unwrap();
    }
    db.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let _ = fs::remove_file(&target);
        fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
    }
}

/// Everything observable of a directory: its own time stamp, and name, bytes and time of each file.
fn photograph(path: &Path) -> (SystemTime, BTreeMap<PathBuf, (Vec<u8>, SystemTime)>) {
    let files = fs::read_dir(path).unwrap().map(|entry| {
        let file = entry.unwrap().path();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let bytes = fs::read(&file).unwrap();
        (file, (bytes, time))
    });
    (fs::metadata(path).unwrap().modified().unwrap(), files.collect())
}

#[test]
fn what_is_written_reads_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wanted = records(12_345, 300);
    with_tables(&path, &wanted);
    assert_eq!(scan(&path).unwrap(), wanted);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["db"], "the folder it was built in is gone");

    let mut database = Database::open(&path).unwrap();
    assert_eq!(database.get(b"00000777").unwrap().unwrap(), wanted[777].1);
    assert_eq!(database.get(b"00000777x").unwrap(), None);
    assert_eq!(database.get(b"99999999").unwrap(), None);

    let mut cursor = database.cursor().unwrap();
    assert_eq!(cursor.skip(100).unwrap(), 100);
    assert_eq!(cursor.next_record().unwrap().unwrap().key, "00000100");
    assert_eq!(cursor.skip(u64::MAX).unwrap(), 12_345 - 101);
    assert_eq!(cursor.next_record().unwrap(), None);
    assert_eq!(cursor.next_record().unwrap(), None, "the end is the end");
    cursor.rewind().unwrap();
    assert_eq!(cursor.next_record().unwrap().unwrap().key, "00000000");
    cursor.seek(b"00005000").unwrap();
    assert_eq!(cursor.next_record().unwrap().unwrap().key, "00005000");
}

#[test]
fn records_in_logs_and_in_unmerged_tables_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, buffer) in [("log-only", 64 << 20), ("tables-and-log", 50_000), ("many", 8_000)] {
        let path = dir.path().join(name);
        // Written in an order that makes tables overlap.
        let mut wanted = records(3_000, 100);
        wanted.sort_by_key(|(key, _)| key.iter().rev().copied().collect::<Vec<_>>());
        with_log(&path, &wanted, buffer);
        wanted.sort();
        let before = photograph(&path);
        assert!(scan(&path).unwrap() == wanted, "{name}");
        assert!(photograph(&path) == before, "{name} changed on disk");
    }
}

#[test]
fn an_old_database_with_sst_files_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wanted = records(500, 100);
    with_tables(&path, &wanted);
    for file in photograph(&path).1.keys() {
        if file.extension().is_some_and(|extension| extension == "ldb") {
            fs::rename(file, file.with_extension("sst")).unwrap();
        }
    }
    assert_eq!(scan(&path).unwrap(), wanted);
}

#[test]
fn opening_the_reference_databases_changes_no_byte_and_no_time() {
    for (name, count) in [("train_leveldb", 512), ("test_leveldb", 100)] {
        let Some(path) = shared(&format!("conformance/train/{name}")) else { return };
        let before = photograph(&path);
        assert_eq!(scan(&path).unwrap().len(), count, "{name}");
        assert!(photograph(&path) == before, "{name} changed on disk");
    }
}

#[test]
fn a_read_only_directory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wanted = records(2_000, 50);
    with_log(&path, &wanted, 30_000);
    let files: Vec<_> = photograph(&path).1.into_keys().collect();
    for file in files.iter().chain([&path]) {
        let mode = if file.is_dir() { 0o555 } else { 0o444 };
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = photograph(&path);
    assert_eq!(scan(&path).unwrap(), wanted);
    assert!(photograph(&path) == before);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Scans `$CAFFE_TEST_SCAN`; run by the test below in processes of its own.
#[test]
#[ignore = "a part of several_processes_and_threads_read_at_once"]
fn child_scan() {
    let path = std::env::var_os("CAFFE_TEST_SCAN").unwrap();
    assert_eq!(scan(Path::new(&path)).unwrap(), records(4_000, 200));
}

#[test]
fn several_processes_and_threads_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wanted = records(4_000, 200);
    with_log(&path, &wanted, 100_000);
    let before = photograph(&path);
    let children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--ignored", "child_scan", "--quiet"])
                .env("CAFFE_TEST_SCAN", &path)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(scan(&path).unwrap(), wanted));
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(photograph(&path) == before);
}

/// Flips bits, and cuts, all over every file of the database that `make` writes. Each read must
/// end in an error, or give every record.
fn damage_everywhere(name: &str, make: impl Fn(&Path, &Records)) {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    let wanted = records(900, 90);
    make(&good, &wanted);
    copy(&good, &bad);
    let mut noticed: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (file, (bytes, _)) in photograph(&good).1 {
        let kind = file.file_name().unwrap().to_str().unwrap().to_owned();
        let target = bad.join(&kind);
        if kind.starts_with("LO") {
            continue;
        }
        let step = (bytes.len() / 700).max(1);
        for at in (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(60)..bytes.len())
        {
            let handle = fs::OpenOptions::new().write(true).open(&target).unwrap();
            handle.write_all_at(&[bytes[at] ^ (1 << (at % 8))], at as u64).unwrap();
            let counts = noticed.entry(kind.clone()).or_default();
            counts.0 += 1;
            match scan(&bad) {
                Err(error) => {
                    counts.1 += 1;
                    assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
                }
                Ok(got) => assert!(got == wanted, "{name}: {kind}, byte {at}: records differ"),
            }
            handle.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        // A log cut exactly between two of its records (120 bytes each here, 7 more for one that
        // crosses a block) is whole in itself.
        let cuts = [1, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)];
        for cut in cuts.map(|cut| if cut % 120 % 7 == 0 { cut + 3 } else { cut }) {
            if cut >= bytes.len() {
                continue;
            }
            fs::write(&target, &bytes[..cut]).unwrap();
            assert!(scan(&bad).is_err(), "{name}: {kind} cut at {cut} of {} unseen", bytes.len());
        }
        fs::remove_file(&target).unwrap();
        assert!(scan(&bad).is_err(), "{name}: {kind} removed unseen");
        fs::write(&target, &bytes).unwrap();
    }
    println!("{name}: {noticed:?}");
    for (kind, (flips, seen)) in noticed {
        assert!(seen * 10 >= flips * 7, "{name}: {kind}: only {seen} of {flips} flips noticed");
    }
}

#[test]
fn damage_in_tables_is_never_silent() {
    damage_everywhere("tables", with_tables);
}

#[test]
fn damage_in_logs_is_never_silent() {
    damage_everywhere("log", |path, records| with_log(path, records, 64 << 20));
}

#[test]
fn damage_in_small_compressed_tables_is_never_silent() {
    damage_everywhere("mixed", |path, records| with_log(path, records, 20_000));
}

#[test]
fn damage_is_named_by_file_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    with_tables(&path, &records(5_000, 300));
    let files = photograph(&path).1;
    let (file, (mut bytes, _)) =
        files.into_iter().find(|(file, _)| file.extension().is_some_and(|e| e == "ldb")).unwrap();
    bytes[200_000] ^= 4;
    fs::write(&file, bytes).unwrap();

    let mut database = Database::open(&path).unwrap();
    let mut cursor = database.cursor().unwrap();
    assert!(cursor.skip(400).unwrap() == 400, "what comes before the damage is read");
    let error = cursor.skip(u64::MAX).unwrap_err();
    let DataError::Corrupt { file: named, offset, .. } = &error else { panic!("{error}") };
    assert_eq!(*named, file);
    assert!((130_000..=200_000).contains(offset), "block of byte 200000 starts at {offset}?");
    assert!(cursor.next_record().is_err() && cursor.rewind().is_err(), "an error stays");
    assert!(database.get(b"00004999").is_err(), "also for `get`");
}

#[test]
fn a_disk_that_fails_in_the_midst_of_a_big_table_is_an_error_not_a_stack_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    // One table of 30,000 small blocks, as a 256 MB write buffer leaves it.
    let options = rusty_leveldb::Options {
        write_buffer_size: 1 << 30,
        block_size: 256,
        compressor: 0,
        filter_policy: Rc::new(Box::new(rusty_leveldb::BloomPolicy::new(10))),
        ..Default::default()
    };
    let mut db = rusty_leveldb::DB::open(&path, options).unwrap();
    for (key, value) in records(30_000, 300) {
        db.put(&key, &value).unwrap();
    }
    db.compact_range(b"", b"").unwrap();
    db.close().unwrap();
    drop(db);

    let mut cursor = Database::open(&path).unwrap().cursor().unwrap();
    cursor.skip(10).unwrap();
    for file in photograph(&path).1.keys() {
        if file.extension().is_some_and(|extension| extension == "ldb") {
            let length = fs::metadata(file).unwrap().len();
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
        }
    }
    assert!(cursor.skip(u64::MAX).is_err());
}

#[test]
fn what_is_not_a_database_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| scan(path).unwrap_err().to_string();
    assert!(message(&dir.path().join("nowhere")).contains("there is no such directory"));
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(message(&file).contains("it is not a directory"));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(message(&empty).contains("CURRENT is missing"));
    fs::write(empty.join("data.mdb"), "x").unwrap();
    assert!(message(&empty).contains("is an LMDB; say so"));
    fs::write(empty.join("CURRENT"), "").unwrap();
    assert!(message(&empty).contains("does not name a MANIFEST"));
    fs::write(empty.join("CURRENT"), "MANIFEST-000009\n").unwrap();
    assert!(message(&empty).contains("MANIFEST-000009`, which is missing"));
}

#[test]
fn an_existing_path_is_refused_and_a_failure_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut writer = Writer::create(&path).unwrap();
    writer.put(b"b", b"1").unwrap();
    assert!(writer.put(b"a", b"2").unwrap_err().to_string().contains("ascending order"));
    assert!(!path.exists());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    fs::create_dir(&path).unwrap();
    let error = Writer::create(&path).err().unwrap();
    assert!(matches!(error, DataError::Exists { .. }), "{error}");
    fs::remove_dir(&path).unwrap();

    let writer = Writer::create(&path).unwrap();
    assert_eq!(writer.finish().unwrap(), 0);
    assert_eq!(scan(&path).unwrap(), Records::new(), "an empty database is a database");
}
