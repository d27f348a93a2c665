//! Damaged files by the ten thousand: what is read in Caffe's formats never panics, never hangs and
//! never takes more than 64 MB and eight times the input's size of memory.
//!
//! Deterministic: a failure names its seed file and number, and happens again.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use caffe::data::datum::Labelled;
use caffe::data::image::Colour;
use caffe::data::leveldb::{Database, Writer};
use caffe::rng::{Philox, Sequence};
use caffe_proto::text::CaffeMessage;
use caffe_proto::{
    BlobProto, Datum, Message, NetParameter, SolverParameter, SolverState, files, text, upgrade,
};

/// Counts what is allocated and the most there was at once.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Longest that one input may take; a debug build on a busy machine included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `read` on an input of `size` bytes and checks memory, time and panics.
fn check(size: usize, name: &dyn Fn() -> String, read: &mut dyn FnMut()) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let begun = Instant::now();
    let calm = catch_unwind(AssertUnwindSafe(read)).is_ok();
    let (taken, grown) = (begun.elapsed(), PEAK.load(Relaxed).saturating_sub(before));
    assert!(calm, "{}: panicked", name());
    assert!(grown <= (64 << 20) + 8 * size, "{}: took {grown} bytes for {size}", name());
    assert!(taken < PATIENCE, "{}: took {taken:?}", name());
}

/// One to four things that happen to files.
fn mutate(seed: &[u8], other: &[u8], numbers: &mut Sequence) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let len = bytes.len() as u64;
        let at = numbers.below(len + 1) as usize;
        let end = (at + 1 + numbers.below(16) as usize).min(bytes.len());
        match numbers.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = numbers.next_u32() as u8,
            2 if at < end => bytes[at..end].fill(0xff),
            3 if at < end => drop(bytes.drain(at..end)),
            4 if at < end => {
                let copy = bytes[at..end].to_vec();
                for _ in 0..=numbers.below(64) {
                    bytes.splice(at..at, copy.iter().copied());
                }
            }
            5 => bytes.truncate(at),
            6 => {
                let word = numbers.next_u64().to_le_bytes();
                bytes.splice(at..at, word);
            }
            7 => {
                let from = numbers.below(other.len() as u64 + 1) as usize;
                let to = (from + numbers.below(64) as usize).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let words: [&[u8]; 8] =
                    [b"{", b"}", b"layer {", b"99999999999", b"-1", b"'", b"[", b"nan"];
                let word = words[numbers.below(8) as usize];
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }
    bytes
}

/// Feeds `count` mutants of the seeds to `read`.
fn storm(what: &str, seeds: &[Vec<u8>], count: usize, read: &mut dyn FnMut(&[u8])) {
    let mut numbers = Philox::new(2014, caffe::rng::stream_id(what)).sequence();
    let begun = Instant::now();
    for number in 0..count {
        let other = &seeds[numbers.below(seeds.len() as u64) as usize];
        let seed = number % seeds.len();
        let mutant = mutate(&seeds[seed], other, &mut numbers);
        let name = || format!("{what}: mutant {number} of seed {seed}");
        check(mutant.len(), &name, &mut || read(&mutant));
    }
    println!("{what}: {count} mutants in {:.1?}", begun.elapsed());
}

fn examples() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "prototxt") {
                found.push(path);
            }
        }
    }
    found.sort();
    let texts = found.iter().map(|path| std::fs::read(path).unwrap());
    // The large nets say nothing new; many small texts find more in the same time.
    texts.filter(|text| text.len() < 8 << 10).collect()
}

fn prototxts() {
    let mut seeds = examples();
    seeds.push(
        b"layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'p' }\n\
        layers { layer { name: 'c' type: 'conv' kernelsize: 3 } bottom: 'p' top: 'c' }\n\
        input: 'x' input_dim: [1, 2, 3, 4]"
            .to_vec(),
    );
    seeds.push(
        b"layers { name: 'd' type: DATA top: 'd' data_param { scale: 2 } blobs_lr: 1 }".to_vec(),
    );
    storm("prototxt", &seeds, 25_000, &mut |bytes| {
        let text = &*String::from_utf8_lossy(bytes);
        match text::parse::<NetParameter>("net", text) {
            Ok(mut net) => drop(upgrade::upgrade_net(&mut net)),
            Err(error) => drop(error.to_string()),
        }
        if let Ok(mut solver) = text::parse::<SolverParameter>("solver", text) {
            let _ = upgrade::upgrade_solver(&mut solver);
        }
    });
}

fn decode<T: CaffeMessage>(bytes: &[u8]) -> Option<T> {
    match files::decode::<T>(Path::new("file"), bytes) {
        Ok(message) => Some(message),
        Err(error) => {
            drop(error.to_string());
            None
        }
    }
}

fn blob(dims: &[i64]) -> BlobProto {
    let count = dims.iter().product::<i64>();
    BlobProto {
        shape: Some(caffe_proto::BlobShape { dim: dims.to_vec() }),
        data: (0..count).map(|i| i as f32).collect(),
        ..Default::default()
    }
}

fn models() {
    let parse = |text: &str| text::parse::<NetParameter>("net", text).unwrap();
    let mut new = parse(
        "name: 'n' layer { name: 'ip' type: 'InnerProduct' bottom: 'a' top: 'b'
        inner_product_param { num_output: 3 } } layer { name: 'r' type: 'ReLU' }",
    );
    new.layer[0].blobs = vec![blob(&[3, 4]), blob(&[3])];
    let mut old =
        parse("layers { name: 'ip' type: INNER_PRODUCT blobs_lr: 1 } input: 'x' input_dim: 1");
    old.layers[0].blobs =
        vec![BlobProto { num: Some(3), data: vec![1.0; 3], ..Default::default() }];
    let v0 =
        parse("layers { layer { name: 'c' type: 'conv' blobs { data: 1 } } bottom: 'a' top: 'b' }");
    let state = SolverState {
        iter: Some(7),
        history: vec![blob(&[2, 2])],
        learned_net: Some("x".into()),
        current_step: Some(1),
    };
    let mut seeds: Vec<Vec<u8>> = [new, old, v0].iter().map(Message::encode_to_vec).collect();
    seeds.push(state.encode_to_vec());
    seeds.push(blob(&[1, 3, 4, 4]).encode_to_vec());
    let mut small = caffe::export::Weights::default();
    storm("caffemodel", &seeds, 25_000, &mut |bytes| {
        if let Some(mut net) = decode::<NetParameter>(bytes)
            && upgrade::upgrade_net(&mut net).is_ok()
        {
            small = caffe::export::Weights::of_model(&net).unwrap_or_default();
        }
        decode::<SolverState>(bytes);
        decode::<BlobProto>(bytes);
    });
}

fn datums() {
    let datum = |encoded: bool| Datum {
        channels: Some(3),
        height: Some(4),
        width: Some(5),
        data: Some(vec![7; 60].into()),
        label: Some(3),
        encoded: Some(encoded),
        ..Default::default()
    };
    let floats = Datum { data: None, float_data: vec![0.5; 60], ..datum(false) };
    let mut seeds: Vec<_> =
        [datum(false), datum(true), floats].iter().map(Message::encode_to_vec).collect();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    for name in ["colour.jpg", "progressive.jpg", "grey.png", "palette.png"] {
        let data = Some(std::fs::read(images.join(name)).unwrap().into());
        seeds.push(Datum { data, ..datum(true) }.encode_to_vec());
    }
    storm("Datum", &seeds, 25_000, &mut |bytes| {
        let pixels = match Labelled::parse(bytes.to_vec().into(), Colour::Bgr) {
            // Larger ones are pictures, not damage, and take the memory that they say.
            Ok(record) if record.image.shape().iter().product::<usize>() < 1 << 20 => {
                record.image.image().map(drop)
            }
            record => record.map(drop),
        };
        if let Err(problem) = pixels {
            drop(problem.to_string());
        }
    });
}

/// One file of a small database is damaged at a time; the others are whole.
fn databases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let mut writer = Writer::create(&path).unwrap();
    for i in 0..40u8 {
        writer.put(format!("{i:08}").as_bytes(), &[i; 100]).unwrap();
    }
    writer.finish().unwrap();
    let mut parts: Vec<PathBuf> =
        std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.sort();
    let whole: Vec<Vec<u8>> = parts.iter().map(|part| std::fs::read(part).unwrap()).collect();
    let size: usize = whole.iter().map(Vec::len).sum();
    let mut numbers = Philox::new(2014, 9).sequence();
    let begun = Instant::now();
    let count = 3_000;
    for number in 0..count {
        let part = number % parts.len();
        let mutant = mutate(&whole[part], &whole[(part + 1) % parts.len()], &mut numbers);
        std::fs::write(&parts[part], &mutant).unwrap();
        let name = || format!("LevelDB: mutant {number}, {}", parts[part].display());
        check(size + mutant.len(), &name, &mut || {
            let mut records = 0;
            let mut read = || -> Result<(), caffe::data::DataError> {
                let mut cursor = Database::open(&path)?.cursor()?;
                while cursor.next_record()?.is_some() {
                    records += 1;
                    assert!(records < 10_000, "{}: no end of records", name());
                }
                Ok(())
            };
            if let Err(error) = read() {
                drop(error.to_string());
            }
        });
        std::fs::write(&parts[part], &whole[part]).unwrap();
    }
    println!("LevelDB: {count} mutants in {:.1?}", begun.elapsed());
}

/// Small files that ask for much memory.
fn bombs() {
    let net = |text: String| {
        move || {
            let error = text::parse::<NetParameter>("bomb", &text).unwrap_err().to_string();
            assert!(error.contains("more than"), "{error}");
        }
    };
    let texts = ["layer{}".repeat(1 << 20), format!("layer:[{}{{}}]", "{},".repeat(1 << 20))];
    for text in texts {
        check(text.len(), &|| "a million layers".into(), &mut net(text.clone()));
    }
    let blobs = format!("layer {{ {} }}", "blobs{}".repeat(1 << 20));
    check(blobs.len(), &|| "a million blobs".into(), &mut net(blobs.clone()));
    let wire = |unit: &[u8], outer: Option<u8>| {
        let many = unit.repeat(8 << 20);
        match outer {
            None => many,
            Some(tag) => {
                let mut bytes = vec![tag];
                caffe_proto::prost::encoding::encode_varint(many.len() as u64, &mut bytes);
                bytes.extend(many);
                bytes
            }
        }
    };
    for (what, bytes) in [
        ("layers of no bytes", wire(&[0x12, 0], None)),
        ("tops of no bytes", wire(&[0x1a, 0], Some(0x12))),
        ("blobs of no bytes", wire(&[0x32, 0], Some(0x12))),
    ] {
        check(bytes.len(), &|| what.into(), &mut || {
            let error = files::decode::<NetParameter>(Path::new("bomb"), &bytes).unwrap_err();
            assert!(error.to_string().contains("more than"), "{error}");
        });
    }
    let dims = wire(&[1], Some(0x0a));
    check(dims.len(), &|| "a shape of many axes".into(), &mut || {
        assert!(files::decode::<caffe_proto::BlobShape>(Path::new("bomb"), &dims).is_err());
    });
}

/// One test, since memory is counted for the whole process.
#[test]
fn no_file_brings_the_program_down() {
    bombs();
    prototxts();
    models();
    datums();
    databases();
}
