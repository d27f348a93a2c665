//! Image layers' batches: encoded records, ImageData, WindowData, and shuffled databases.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use caffe::data::image::{Colour, Picture, Raster};
use caffe::data::readers::{self, Records};
use caffe::data::{Backend, Batch, DataError, Reading, Writer};
use caffe::net::{Net, NetOptions, Origin};
use caffe_proto::text::parse;
use caffe_proto::{Datum, LayerParameter, Message, NetParameter, Phase, TransformationParameter};

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    fs::read(folder.join(name)).unwrap()
}

fn raster(name: &str, colour: Colour) -> Raster {
    Picture::inspect(fixture(name).into()).unwrap().decode(colour).unwrap()
}

fn planes(raster: &Raster) -> Vec<f32> {
    raster.planes().into_iter().map(f32::from).collect()
}

/// A folder with the fixtures and, written into it, lists and databases.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["colour.png", "colour.jpg", "grey.jpg", "alpha.png"] {
            fs::write(dir.path().join(name), fixture(name)).unwrap();
        }
        let small = raster("colour.png", Colour::Bgr).resize(5, 6);
        let small = small.encode(caffe::data::image::Format::Png).unwrap();
        fs::write(dir.path().join("small.png"), small).unwrap();
        fs::write(dir.path().join("broken.jpg"), &fixture("colour.jpg")[..300]).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn root(&self) -> String {
        format!("{}/", self.0.path().display())
    }

    /// An ImageData layer on a list of these lines.
    fn image_data(&self, list: &str, settings: &str) -> LayerParameter {
        let (list, root) = (self.write("list.txt", list), self.root());
        layer(&format!(
            "name: 'data' type: 'ImageData' top: 'data' top: 'label' \
             image_data_param {{ source: '{list}' root_folder: '{root}' {settings} }}"
        ))
    }

    /// A WindowData layer on a window file of this text.
    fn window_data(&self, windows: &str, settings: &str) -> LayerParameter {
        let (list, root) = (self.write("windows.txt", windows), self.root());
        layer(&format!(
            "name: 'data' type: 'WindowData' top: 'data' top: 'label' \
             window_data_param {{ source: '{list}' root_folder: '{root}' batch_size: 8 {settings} }}"
        ))
    }
}

fn layer(text: &str) -> LayerParameter {
    parse("layer.prototxt", text).unwrap()
}

fn with(mut layer: LayerParameter, transform: &str) -> LayerParameter {
    let transform: TransformationParameter = parse("transform", transform).unwrap();
    layer.transform_param = Some(transform.into());
    layer
}

fn open(layer: &LayerParameter) -> Result<Box<dyn Records>, DataError> {
    readers::open(layer, Phase::Train, Reading::new(1))
}

#[track_caller]
fn message(layer: &LayerParameter) -> String {
    let error = match open(layer) {
        Ok(mut source) => source.fill(0, &mut Batch::default()).unwrap_err(),
        Err(error) => error,
    };
    error.to_string()
}

fn first(layer: &LayerParameter) -> Batch {
    let mut batch = Batch::default();
    open(layer).unwrap().fill(0, &mut batch).unwrap();
    batch
}

fn encoded(file: Vec<u8>, label: i32) -> Datum {
    Datum { data: Some(file.into()), label: Some(label), encoded: Some(true), ..Datum::default() }
}

fn database(path: &Path, backend: Backend, records: &[Datum]) -> String {
    let mut writer = Writer::create(path, backend).unwrap();
    for (i, datum) in records.iter().enumerate() {
        writer.put(format!("{i:08}").as_bytes(), &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
    path.display().to_string()
}

fn data(path: &str, backend: &str, settings: &str) -> LayerParameter {
    layer(&format!(
        "name: 'data' type: 'Data' top: 'data' top: 'label' \
         data_param {{ source: '{path}' backend: {backend} {settings} }}"
    ))
}

#[test]
fn encoded_records_are_decoded_in_the_colours_asked_for() {
    let folder = Folder::new();
    let files = ["colour.jpg", "colour.png", "alpha.png"];
    let records: Vec<_> = (1..).zip(files).map(|(i, name)| encoded(fixture(name), i)).collect();
    for (backend, name) in [(Backend::LevelDb, "LEVELDB"), (Backend::Lmdb, "LMDB")] {
        let path = database(&folder.path(name), backend, &records);
        let three = data(&path, name, "batch_size: 3");
        for (layer, colour) in [
            (with(three.clone(), "force_color: true"), Colour::Bgr),
            (data(&path, name, "batch_size: 3 force_encoded_color: true"), Colour::Bgr),
            (with(three.clone(), "force_gray: true"), Colour::Grey),
        ] {
            let batch = first(&layer);
            let wanted: Vec<f32> =
                files.iter().flat_map(|file| planes(&raster(file, colour))).collect();
            assert_eq!((&batch.tops[0], &batch.tops[1]), (&wanted, &vec![1.0, 2.0, 3.0]));
        }
        // As they are, the last one has a fourth channel.
        let text = message(&three);
        assert!(text.contains("record `00000002`: the image gives 4 x 11 x 14"), "{text}");
        assert_eq!(first(&data(&path, name, "batch_size: 2")).shapes[0], [2, 3, 11, 14]);
        let both = with(three, "force_color: true force_gray: true");
        assert!(message(&both).contains("cannot be forced to colour and to grey"));
    }
}

#[test]
fn a_corrupt_encoded_record_is_named() {
    let folder = Folder::new();
    let whole = fixture("colour.jpg");
    let records = [encoded(whole.clone(), 0), encoded(whole[..400].to_vec(), 0)];
    let path = database(&folder.path("db"), Backend::Lmdb, &records);
    let text = message(&data(&path, "LMDB", "batch_size: 2"));
    assert!(text.contains("db`, record `00000001`: the JPEG is damaged"), "{text}");
}

#[test]
fn listed_images_are_resized_and_transformed() {
    let folder = Folder::new();
    let list = "colour.png 3\ngrey.jpg 4\n";
    let settings = "batch_size: 2 new_height: 7 new_width: 9";
    let layer = with(folder.image_data(list, settings), "scale: 0.5 mean_value: 10");
    let batch = first(&layer);
    assert_eq!(batch.shapes, [vec![2, 3, 7, 9], vec![2]]);
    assert_eq!(batch.tops[1], [3.0, 4.0]);
    assert_eq!(batch.keys, [b"colour.png".to_vec(), b"grey.jpg".to_vec()]);
    let wanted: Vec<f32> = ["colour.png", "grey.jpg"]
        .iter()
        .flat_map(|name| planes(&raster(name, Colour::Bgr).resize(7, 9)))
        .map(|value| (value - 10.0) * 0.5)
        .collect();
    assert_eq!(batch.tops[0], wanted);

    let grey = folder.image_data(list, "batch_size: 2 new_height: 7 new_width: 9 is_color: false");
    assert_eq!(first(&grey).shapes[0], [2, 1, 7, 9]);
    let crop =
        with(folder.image_data("colour.png 1\nsmall.png 2\n", "batch_size: 2"), "crop_size: 5");
    assert_eq!(first(&crop).shapes[0], [2, 3, 5, 5]);
}

#[test]
fn what_is_wrong_with_a_list_is_said_with_line_and_file() {
    let folder = Folder::new();
    for (list, settings, wanted) in [
        ("colour.png 1\ngone.png 2\n", "batch_size: 2", "list.txt:2: `"),
        ("colour.png 1\ngone.png 2\n", "batch_size: 2", "gone.png`: cannot read the file"),
        ("colour.jpg 1\n\nbroken.jpg 2\n", "batch_size: 2", "list.txt:3: `"),
        ("colour.jpg 1\nbroken.jpg 2\n", "batch_size: 2", "broken.jpg`: the JPEG is damaged"),
        (
            "colour.png 1\nsmall.png 2\n",
            "batch_size: 2",
            "small.png`: the image gives 3 x 5 x 6, the batch began with 3 x 11 x 14",
        ),
        ("colour.png one\n", "", "list.txt:1: `colour.png one` is no path, space and whole number"),
        ("", "", "holds no records"),
        ("colour.png 1\n", "new_height: 4", "new_height and new_width go together"),
        ("colour.png 1\n", "batch_size: 0", "image_data_param has no batch_size"),
    ] {
        let text = message(&folder.image_data(list, settings));
        assert!(text.contains(wanted), "{wanted} is not in: {text}");
    }
    let layer = folder.image_data("colour.png 1\n", "");
    let text = message(&with(layer.clone(), "force_color: true"));
    assert!(text.contains("use is_color"), "{text}");
    let topless = LayerParameter { top: vec!["data".into()], ..layer };
    assert!(message(&topless).contains("has two tops (data, label)"));
}

/// `n` lines, label i at line i.
fn lines(n: usize) -> String {
    (0..n).map(|i| format!("small.png {i}\n")).collect()
}

fn labels(source: &mut dyn Records, tickets: std::ops::Range<u64>) -> Vec<f32> {
    let mut batch = Batch::default();
    let fill = |ticket| {
        source.fill(ticket, &mut batch).unwrap();
        batch.tops[1].clone()
    };
    tickets.flat_map(fill).collect()
}

#[test]
fn shuffled_lists_show_every_image_once_an_epoch_to_all_readers_together() {
    let folder = Folder::new();
    let layer = folder.image_data(&lines(24), "batch_size: 4 shuffle: true");
    let mut alone = open(&layer).unwrap();
    let epochs: Vec<Vec<f32>> =
        (0..3).map(|epoch| labels(&mut *alone, epoch * 6..(epoch + 1) * 6)).collect();
    let all: Vec<f32> = (0..24).map(|i| i as f32).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, all);
        assert_ne!(*epoch, all);
    }
    assert_ne!(epochs[0], epochs[1]);
    // A second reader, and one that starts in the middle, agree.
    for ticket in [17, 3, 9] {
        let again = labels(&mut *open(&layer).unwrap(), ticket..ticket + 1);
        let (epoch, place) = (ticket as usize / 6, ticket as usize % 6 * 4);
        assert_eq!(again, epochs[epoch][place..place + 4]);
    }
    let mut other = readers::open(&layer, Phase::Train, Reading::new(2)).unwrap();
    assert_ne!(labels(&mut *other, 0..6), epochs[0]);
}

#[test]
fn rand_skip_is_a_matter_of_the_seed_and_stays_within_the_list() {
    let folder = Folder::new();
    let layer = folder.image_data(&lines(10), "rand_skip: 9");
    let starts: BTreeSet<_> = (0..40)
        .map(|seed| {
            let mut source = readers::open(&layer, Phase::Train, Reading::new(seed)).unwrap();
            labels(&mut *source, 0..1)[0] as i32
        })
        .collect();
    assert!(starts.len() > 4 && starts.iter().all(|start| (0..9).contains(start)), "{starts:?}");
    let error = (0..40).find_map(|seed| {
        let layer = folder.image_data(&lines(2), "rand_skip: 1000");
        readers::open(&layer, Phase::Train, Reading::new(seed)).err()
    });
    assert!(error.unwrap().to_string().contains("but the list has 2 lines"));
}

#[test]
fn any_number_of_threads_makes_the_same_batch() {
    let folder = Folder::new();
    let list: String = (0..13).map(|i| format!("colour.jpg {i}\ncolour.png {i}\n")).collect();
    let layer = with(folder.image_data(&list, "batch_size: 26"), "crop_size: 8 mirror: true");
    let mut batches = [1, 2, 5].map(|threads| {
        let reading = Reading { threads, ..Reading::new(7) };
        let mut source = readers::open(&layer, Phase::Train, reading).unwrap();
        let mut batch = Batch::default();
        source.fill(3, &mut batch).unwrap();
        assert!(source.decodes());
        batch.tops
    });
    let one = std::mem::take(&mut batches[0]);
    assert!(batches[1..].iter().all(|tops| *tops == one));
}

#[test]
fn a_net_follows_images_of_differing_size() {
    let folder = Folder::new();
    let data = folder.image_data("colour.png 1\nsmall.png 2\ncolour.png 3\n", "");
    let pool = layer(
        "name: 'pool' type: 'Pooling' bottom: 'data' top: 'pool' \
         pooling_param { pool: AVE global_pooling: true }",
    );
    let param = NetParameter { layer: vec![data.clone(), pool], ..Default::default() };
    let mut net = Net::new(&param, &Origin::default(), &NetOptions::new(Phase::Train)).unwrap();
    let mut source = open(&data).unwrap();
    let mut batches = vec![Batch::default()];
    let blob = net.blob("pool").unwrap();
    for (ticket, size) in [[11, 14], [5, 6], [11, 14]].into_iter().enumerate() {
        source.fill(ticket as u64, &mut batches[0]).unwrap();
        assert_eq!(batches[0].shapes[0][2..], size);
        let plane = size[0] * size[1];
        let means: Vec<f32> = batches[0].tops[0]
            .chunks(plane)
            .map(|values| values.iter().sum::<f32>() / plane as f32)
            .collect();
        net.feed(&mut batches).unwrap();
        net.forward().unwrap();
        let data = net.blob("data").unwrap();
        assert_eq!(net.store().blobs[data].shape.dims()[2..], size);
        let pooled = net.data(blob).unwrap();
        assert!(pooled.iter().zip(&means).all(|(a, b)| (a - b).abs() < 1e-3), "{pooled:?}");
    }
}

/// Two images; four background windows, two foreground ones, one that is neither.
const WINDOWS: &str = "# 0\ncolour.png\n3\n11\n14\n4\n\
    5 0.9 2 1 9 8\n1 0.1 0 0 3 3\n1 0.0 5 5 13 10\n1 0.45 1 1 8 8\n\
    # 1\ncolour.jpg\n3\n11\n14\n3\n\
    6 0.5 0 0 13 10\n1 0.2 3 2 9 9\n1 0.3 0 4 6 10\n";

#[test]
fn windows_are_drawn_in_a_fixed_share() {
    let folder = Folder::new();
    let settings = "fg_threshold: 0.5 bg_threshold: 0.4 fg_fraction: 0.25 context_pad: 1";
    let layer = with(folder.window_data(WINDOWS, settings), "crop_size: 6 mirror: true");
    let mut source = open(&layer).unwrap();
    assert_eq!(source.top_shapes(), [vec![8, 3, 6, 6], vec![8]]);
    let (mut classes, mut all) = (BTreeSet::new(), BTreeSet::new());
    for ticket in 0..40 {
        let mut batch = Batch::default();
        source.fill(ticket, &mut batch).unwrap();
        let (background, foreground) = batch.tops[1].split_at(6);
        assert!(background.iter().all(|&label| label == 0.0));
        classes.extend(foreground.iter().map(|&label| label as i32));
        all.extend(batch.tops[0].chunks(108).map(|crop| format!("{crop:?}")));
    }
    assert_eq!(classes, BTreeSet::from([5, 6]));
    assert_eq!(all.len(), 6 * 2, "each window plain and mirrored");
    // Again, from files kept in memory and on two threads: the same.
    let cached = folder.window_data(WINDOWS, &format!("{settings} cache_images: true"));
    let cached = with(cached, "crop_size: 6 mirror: true");
    let reading = Reading { threads: 2, ..Reading::new(1) };
    let mut other = readers::open(&cached, Phase::Train, reading).unwrap();
    let (mut a, mut b) = (Batch::default(), Batch::default());
    source.fill(17, &mut a).unwrap();
    other.fill(17, &mut b).unwrap();
    assert_eq!((a.tops, a.keys), (b.tops, b.keys));
}

#[test]
fn a_window_is_cut_stretched_and_centred() {
    let folder = Folder::new();
    let one = "# 0\ncolour.png 3 11 14 1\n5 0.9 2 1 9 8\n";
    let layer = |mode: &str| {
        let settings = format!("fg_fraction: 1 crop_mode: '{mode}'");
        with(folder.window_data(one, &settings), "crop_size: 4 mean_value: 7 scale: 2")
    };
    let batch = first(&layer("warp"));
    let part = raster("colour.png", Colour::Bgr).crop([1, 2], [8, 8]).resize(4, 4);
    let wanted: Vec<f32> = planes(&part).iter().map(|value| (value - 7.0) * 2.0).collect();
    assert_eq!(batch.tops[0][..48], wanted);
    assert_eq!(batch.tops[1], [5.0; 8]);
    // R-CNN's squares are a pixel larger than the window.
    let batch = first(&layer("square"));
    let part = raster("colour.png", Colour::Bgr).crop([1, 2], [9, 9]).resize(4, 4);
    let wanted: Vec<f32> = planes(&part).iter().map(|value| (value - 7.0) * 2.0).collect();
    assert_eq!(batch.tops[0][..48], wanted);
}

#[test]
fn wrong_window_layers_are_named() {
    let folder = Folder::new();
    let crop =
        |settings: &str| message(&with(folder.window_data(WINDOWS, settings), "crop_size: 6"));
    assert!(message(&folder.window_data(WINDOWS, "")).contains("no crop_size"));
    assert!(crop("crop_mode: 'round'").contains("`round` is neither warp nor square"));
    assert!(crop("context_pad: 3").contains("context_pad 3 leaves nothing of crop_size 6"));
    assert!(crop("fg_fraction: 2").contains("fg_fraction 2 lies outside"));
    assert!(crop("fg_threshold: 0.95").contains("2 foreground windows, but"));
    assert!(crop("bg_threshold: -1").contains("6 background windows, but"));
    let none = "# 0\ncolour.png 3 11 14 1\n0 0.9 2 1 9 8\n";
    let text = message(&with(folder.window_data(none, ""), "crop_size: 6"));
    assert!(text.contains("windows.txt:3: a foreground window of class 0"), "{text}");
    let outside = "# 0\ncolour.png 3 11 14 1\n1 0.9 20 1 29 8\n";
    let text = message(&with(folder.window_data(outside, "fg_fraction: 1"), "crop_size: 6"));
    assert!(text.contains("windows.txt:3: the window [20, 1, 29, 8] lies outside"), "{text}");
    let gone = WINDOWS.replace("colour.jpg", "gone.jpg");
    let text = message(&with(folder.window_data(&gone, "cache_images: true"), "crop_size: 6"));
    assert!(
        text.contains("windows.txt:12: `") && text.contains("gone.jpg`: cannot read"),
        "{text}"
    );
}

/// `n` records of one byte and label i.
fn numbers(n: i32) -> Vec<Datum> {
    let datum = |i: i32| Datum {
        channels: Some(1),
        height: Some(1),
        width: Some(1),
        data: Some(vec![i as u8].into()),
        label: Some(i),
        ..Datum::default()
    };
    (0..n).map(datum).collect()
}

#[test]
fn shuffled_databases_show_every_record_once_an_epoch_whichever_their_kind() {
    let folder = Folder::new();
    let n = 9_000;
    let mut seen = Vec::new();
    for (backend, name) in [(Backend::LevelDb, "LEVELDB"), (Backend::Lmdb, "LMDB")] {
        let path = database(&folder.path(name), backend, &numbers(n));
        let layer = data(&path, name, "batch_size: 90");
        let shuffled = |phase| {
            let reading = Reading { shuffle: true, ..Reading::new(5) };
            readers::open(&layer, phase, reading).unwrap()
        };
        let epochs = labels(&mut *shuffled(Phase::Train), 0..200);
        for epoch in epochs.chunks(n as usize) {
            let all: BTreeSet<_> = epoch.iter().map(|&label| label as i32).collect();
            assert_eq!(all.len(), n as usize);
        }
        assert_ne!(epochs[..9_000], epochs[9_000..]);
        // A run that resumes at ticket 137, and the two replicas of another, see the same.
        assert_eq!(labels(&mut *shuffled(Phase::Train), 137..140), epochs[137 * 90..140 * 90]);
        let mut second = shuffled(Phase::Train);
        for ticket in (1..20).step_by(2) {
            let from = ticket as usize * 90;
            assert_eq!(labels(&mut *second, ticket..ticket + 1), epochs[from..from + 90]);
        }
        let tested = labels(&mut *shuffled(Phase::Test), 0..1);
        assert_eq!(tested, (0..90).map(|i| i as f32).collect::<Vec<_>>());
        seen.push(epochs);
    }
    assert!(seen[0] == seen[1]);
}
