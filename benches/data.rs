//! How fast batches are made: `scripts/bench/data.sh`, or `cargo bench --bench data -- [FLAGS]`.
//!
//! Two sets are made in a temporary folder: generated 3 × 32 × 32 images as bytes, and JPEGs of
//! 256 × 256 pixels cut out of photographs (`--photos DIR`; without it, out of noise and slopes).
//! Measured are scans of LevelDB and LMDB beside plyvel's and py-lmdb's (`--peer COMMAND`), and the
//! source behind a `Data` layer: records to batches of floats, as nets on the CPU take them, and of bytes,
//! which nets on a GPU transform there; on one thread and on two, which share decoding, or are two
//! readers where there is nothing to decode. Every figure is the median of `--rounds N` rounds (5), in
//! each of which everything takes its turn. Files are in the page cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use caffe::data::convert::copy;
use caffe::data::image::{Colour, Format, Picture, Raster};
use caffe::data::synthetic::write_synthetic;
use caffe::data::{Backend, Batch, Database, Reading, Writer, readers};
use caffe::rng::Philox;
use caffe_proto::text::parse;
use caffe_proto::{Datum, LayerParameter, Message, Phase};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Records of the byte set and of the JPEG set.
const BYTES: u64 = 50_000;
const JPEGS: u64 = 2_000;
const SIDE: usize = 256;

struct Flags {
    photos: Option<PathBuf>,
    peer: Option<String>,
    rounds: usize,
}

/// One line of the table.
struct Line {
    name: String,
    rates: Vec<f64>,
}

fn main() -> Result<()> {
    let flags = flags()?;
    let dir = tempfile::tempdir()?;
    let sets = Sets::make(dir.path(), flags.photos.as_deref())?;
    let mut lines: Vec<Line> = Vec::new();
    for _ in 0..flags.rounds {
        for (name, rate) in round(&sets, &flags)? {
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.rates.push(rate),
                None => lines.push(Line { name, rates: vec![rate] }),
            }
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{BYTES} x 3 x 32 x 32 bytes; {JPEGS} JPEGs of {SIDE} x {SIDE}, {} bytes each",
        sets.jpeg_bytes
    );
    println!("median of {} rounds; load {}", flags.rounds, load.trim());
    for Line { name, mut rates } in lines {
        rates.sort_by(f64::total_cmp);
        println!("{name:<52} {:>12.0} records/s", rates[rates.len() / 2]);
    }
    Ok(())
}

fn flags() -> Result<Flags> {
    let mut flags = Flags { photos: None, peer: None, rounds: 5 };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        match word.as_str() {
            "--photos" => flags.photos = Some(value.into()),
            "--peer" => flags.peer = Some(value),
            "--rounds" => flags.rounds = value.parse()?,
            _ => return Err(format!("unknown flag {word}").into()),
        }
    }
    Ok(flags)
}

/// The databases.
struct Sets {
    /// LevelDB, LMDB.
    bytes: [(PathBuf, Backend); 2],
    jpegs: PathBuf,
    /// Mean size of a JPEG.
    jpeg_bytes: u64,
}

impl Sets {
    fn make(dir: &Path, photos: Option<&Path>) -> Result<Self> {
        let [made, _] = write_synthetic(dir, BYTES, 1, 1)?;
        let bytes = [(made.path, Backend::LevelDb), (dir.join("lmdb"), Backend::Lmdb)];
        copy((&bytes[0].0, bytes[0].1), (&bytes[1].0, bytes[1].1))?;
        let jpegs = dir.join("jpegs");
        let sources = rasters(photos)?;
        let mut random = Philox::new(1, 1).sequence();
        let mut writer = Writer::create(&jpegs, Backend::Lmdb)?;
        let mut total = 0;
        for i in 0..JPEGS {
            let from = &sources[i as usize % sources.len()];
            let mut corner = |len: usize| random.below((len - SIDE + 1) as u64) as usize;
            let part = from.crop([corner(from.height), corner(from.width)], [SIDE, SIDE]);
            let file = part.encode(Format::Jpeg)?;
            total += file.len() as u64;
            let datum = Datum {
                data: Some(file.into()),
                label: Some(1),
                encoded: Some(true),
                ..Datum::default()
            };
            writer.put(format!("{i:08}").as_bytes(), &datum.encode_to_vec())?;
        }
        writer.finish()?;
        Ok(Self { bytes, jpegs, jpeg_bytes: total / JPEGS })
    }
}

/// Photographs, or a stand-in for them.
fn rasters(photos: Option<&Path>) -> Result<Vec<Raster>> {
    let mut rasters = Vec::new();
    for entry in photos.map(std::fs::read_dir).transpose()?.into_iter().flatten() {
        let bytes = std::fs::read(entry?.path())?;
        let Ok(picture) = Picture::inspect(bytes.into()) else { continue };
        let raster = picture.decode(Colour::Bgr)?;
        if raster.height >= SIDE && raster.width >= SIDE {
            rasters.push(raster);
        }
    }
    if rasters.is_empty() {
        let (height, width) = (400, 500);
        let mut random = Philox::new(2, 2).sequence();
        let mut value =
            |i: usize| (i / 3 % width / 4 + i / 3 / width / 4) as u64 + random.below(30);
        let pixels = (0..height * width * 3).map(|i| value(i) as u8).collect();
        rasters.push(Raster { height, width, channels: 3, pixels });
    }
    Ok(rasters)
}

/// Records a second, by what was done.
fn round(sets: &Sets, flags: &Flags) -> Result<Vec<(String, f64)>> {
    let mut rates = Vec::new();
    for (path, kind) in &sets.bytes {
        rates.push((format!("{kind} scan"), scan(path, *kind)?));
        if let Some(peer) = &flags.peer {
            rates.push((format!("{kind} scan by its Python binding"), ask(peer, path, *kind)?));
        }
        let layer = data(path, *kind, "scale: 0.00390625 mean_value: 128", 100)?;
        for shuffle in [false, true] {
            for raw in [false, true] {
                let reading = Reading { shuffle, raw, ..Reading::new(1) };
                let how = if shuffle { ", shuffled" } else { "" };
                let name = format!("{kind} to {}{how}", form(raw));
                rates.push((name, fill(&layer, reading, BYTES / 100, 1)?));
            }
        }
        for raw in [false, true] {
            let reading = Reading { raw, ..Reading::new(1) };
            let name = format!("{kind} to {}, 2 readers", form(raw));
            rates.push((name, fill(&layer, reading, BYTES / 100, 2)?));
        }
    }
    let crop = "crop_size: 227 mirror: true mean_value: 104 mean_value: 117 mean_value: 123";
    let layer = data(&sets.jpegs, Backend::Lmdb, crop, 50)?;
    for threads in [1, 2] {
        for raw in [false, true] {
            let reading = Reading { threads, raw, ..Reading::new(1) };
            let name = format!("JPEG 256 x 256, crop 227, to {}, {threads} thread(s)", form(raw));
            rates.push((name, fill(&layer, reading, JPEGS / 50, 1)?));
        }
    }
    Ok(rates)
}

fn form(raw: bool) -> &'static str {
    if raw { "bytes" } else { "floats" }
}

fn scan(path: &Path, kind: Backend) -> Result<f64> {
    let begun = Instant::now();
    let mut cursor = Database::open(path, kind)?.cursor()?;
    let mut records = 0u64;
    while let Some(record) = cursor.next_record()? {
        std::hint::black_box(&record.value);
        records += 1;
    }
    Ok(records as f64 / begun.elapsed().as_secs_f64())
}

/// The peer prints the seconds of a scan that keeps nothing.
fn ask(peer: &str, path: &Path, kind: Backend) -> Result<f64> {
    let mut words = peer.split_whitespace();
    let mut command = Command::new(words.next().ok_or("--peer is empty")?);
    command.args(words).arg(kind.to_string().to_lowercase()).arg(path);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds: f64 =
        text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(BYTES as f64 / seconds)
}

fn data(path: &Path, kind: Backend, transform: &str, batch: u64) -> Result<LayerParameter> {
    let text = format!(
        "name: 'data' type: 'Data' top: 'data' top: 'label' transform_param {{ {transform} }} \
         data_param {{ source: '{}' backend: {} batch_size: {batch} }}",
        path.display(),
        kind.to_string().to_uppercase()
    );
    Ok(parse("layer", &text)?)
}

/// One epoch of batches, after one to warm up, by so many readers that take turns.
fn fill(layer: &LayerParameter, reading: Reading, batches: u64, readers: u64) -> Result<f64> {
    let start = Barrier::new(readers as usize);
    let one = |first: u64| -> std::result::Result<f64, caffe::data::DataError> {
        let opened = readers::open(layer, Phase::Train, reading).and_then(|mut source| {
            let mut batch = Batch::default();
            source.fill(first, &mut batch).map(|()| (source, batch))
        });
        // Also who failed has to come, or the other would wait for ever.
        start.wait();
        let (mut source, mut batch) = opened?;
        let begun = Instant::now();
        for ticket in (first..batches).step_by(readers as usize) {
            source.fill(ticket, &mut batch)?;
            std::hint::black_box((&batch.tops, &batch.raw));
        }
        let records = batches.div_ceil(readers) * source.batch_size() as u64;
        Ok(records as f64 / begun.elapsed().as_secs_f64())
    };
    let one = &one;
    let rates = thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|first| scope.spawn(move || one(first))).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut sum = 0.0;
    for rate in rates {
        sum += rate.map_err(|_| "a reader panicked")??;
    }
    Ok(sum)
}
