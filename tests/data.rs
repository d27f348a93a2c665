//! From databases to batches, and from other formats to databases.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::fs;
use std::path::{Path, PathBuf};

use caffe::data::convert::{compute_mean, convert_cifar, convert_mnist};
use caffe::data::mean::MeanImage;
use caffe::data::order::Order;
use caffe::data::readers::{self, Records};
use caffe::data::records::RecordCursor;
use caffe::data::synthetic::write_synthetic;
use caffe::data::{Backend, Batch, DataError, Database, Reading, RecordProblem, Writer, leveldb};
use caffe_proto::{
    DataParameter, Datum, LayerParameter, Message, Phase, TransformationParameter, data_parameter,
};

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

fn layer(source: &Path, batch_size: u32, transform: TransformationParameter) -> LayerParameter {
    LayerParameter {
        name: Some("data".to_owned()),
        r#type: Some("Data".to_owned()),
        top: vec!["data".to_owned(), "label".to_owned()],
        data_param: Some(
            DataParameter {
                source: Some(source.to_str().unwrap().to_owned()),
                batch_size: Some(batch_size),
                ..DataParameter::default()
            }
            .into(),
        ),
        transform_param: Some(transform.into()),
        ..LayerParameter::default()
    }
}

fn open(layer: &LayerParameter) -> Result<Box<dyn Records>, DataError> {
    readers::open(layer, Phase::Train, Reading::new(1))
}

fn message(layer: &LayerParameter) -> String {
    open(layer).err().unwrap().to_string()
}

/// A database of 1 × 1 × 2 images: (i mod 256, 7), label i.
fn numbers(path: &Path, n: i32) {
    let mut writer = Writer::create(path, Backend::LevelDb).unwrap();
    for i in 0..n {
        let datum = datum([1, 1, 2], vec![i as u8, 7], i);
        writer.put(format!("{i:05}").as_bytes(), &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
}

fn datum([channels, height, width]: [i32; 3], data: Vec<u8>, label: i32) -> Datum {
    Datum {
        channels: Some(channels),
        height: Some(height),
        width: Some(width),
        data: Some(data.into()),
        label: Some(label),
        ..Datum::default()
    }
}

#[test]
fn batches_follow_each_other_over_the_end_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 1_300);
    let mut source = open(&layer(&path, 7, TransformationParameter::default())).unwrap();
    assert_eq!(source.top_shapes(), [vec![7, 1, 1, 2], vec![7]]);
    let mut batch = Batch::default();
    for ticket in 0..400 {
        source.fill(ticket, &mut batch).unwrap();
        let wanted: Vec<u64> = (ticket * 7..ticket * 7 + 7).map(|p| p % 1_300).collect();
        assert_eq!(batch.records, wanted);
        let labels: Vec<f32> = wanted.iter().map(|&i| i as f32).collect();
        assert_eq!(batch.tops[1], labels);
        let keys: Vec<Vec<u8>> = wanted.iter().map(|i| format!("{i:05}").into_bytes()).collect();
        assert_eq!(batch.keys, keys);
        assert_eq!(batch.tops[0][12], (wanted[6] % 256) as f32);
        assert_eq!(batch.shapes, source.top_shapes());
    }
}

#[test]
fn any_order_of_tickets_gives_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 2_000);
    let layer = layer(&path, 3, TransformationParameter::default());
    let mut batch = Batch::default();
    // A resumed run, or the second of two nodes, starts anywhere: also epochs ahead.
    for start in [0, 700, 5_000, 123_456] {
        let mut source = open(&layer).unwrap();
        for ticket in [start, start + 1, start + 500, start + 200, start + 201, start, 0] {
            source.fill(ticket, &mut batch).unwrap();
            let wanted: Vec<u64> = (ticket * 3..ticket * 3 + 3).map(|p| p % 2_000).collect();
            assert_eq!(batch.records, wanted, "start {start}, ticket {ticket}");
        }
    }
}

#[test]
fn a_record_cursor_serves_random_positions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 1_536); // a multiple of the distance between remembered keys
    let mut database = Database::open(&path, Backend::LevelDb).unwrap();
    let mut random = caffe::rng::Philox::new(1, 2).sequence();
    for _ in 0..20 {
        let mut cursor = RecordCursor::new(&mut database, Order::Sequential).unwrap();
        for _ in 0..50 {
            let position = random.below(5_000);
            let (index, record) = cursor.read(position).unwrap();
            assert_eq!(index, position % 1_536);
            assert_eq!(record.key, format!("{index:05}"));
        }
    }
}

#[test]
fn replicas_that_share_out_tickets_see_every_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 90);
    let transform = TransformationParameter { mirror: Some(true), ..Default::default() };
    let layer = layer(&path, 5, transform);
    let mut alone = open(&layer).unwrap();
    let mut seen = vec![0; 90];
    let (mut batch, mut same) = (Batch::default(), Batch::default());
    for replica in 0..3 {
        let mut source = open(&layer).unwrap();
        for ticket in (replica..18).step_by(3) {
            source.fill(ticket, &mut batch).unwrap();
            batch.records.iter().for_each(|&record| seen[record as usize] += 1);
            alone.fill(ticket, &mut same).unwrap();
            assert_eq!(batch.tops, same.tops, "also the same flips");
        }
    }
    assert_eq!(seen, [1; 90]);
}

#[test]
fn rand_skip_shifts_the_start_by_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 60);
    let mut layer = layer(&path, 1, TransformationParameter::default());
    layer.data_param.as_mut().unwrap().rand_skip = Some(50);
    let mut batch = Batch::default();
    let mut start = |seed| {
        let source = readers::open(&layer, Phase::Train, Reading::new(seed));
        source.unwrap().fill(0, &mut batch).unwrap();
        batch.records[0]
    };
    assert_eq!(start(1), start(1));
    let starts: std::collections::BTreeSet<_> = (0..40).map(start).collect();
    assert!(starts.len() > 15 && starts.iter().all(|&record| record < 50), "{starts:?}");
}

#[test]
fn wrong_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    numbers(&path, 5);
    let plain = layer(&path, 2, TransformationParameter::default());
    let with = |change: &dyn Fn(&mut DataParameter)| {
        let mut layer = plain.clone();
        change(layer.data_param.as_mut().unwrap());
        message(&layer)
    };
    assert!(with(&|data| data.batch_size = Some(0)).contains("layer `data`: data_param has no"));
    assert!(with(&|data| data.source = None).contains("no source"));
    assert!(with(&|data| data.source = Some("nowhere".into())).contains("`nowhere`"));
    let lmdb = with(&|data| data.backend = Some(data_parameter::Db::Lmdb as i32));
    assert!(lmdb.contains("is a LevelDB; say so with `backend: LEVELDB`"), "{lmdb}");
    let missing = LayerParameter { data_param: None, ..plain.clone() };
    assert!(message(&missing).contains("data_param is missing"));
    let topless = LayerParameter { top: vec![], ..plain.clone() };
    assert!(message(&topless).contains("one top"));

    let transformed = |transform| message(&layer(&path, 2, transform));
    let crop = transformed(TransformationParameter { crop_size: Some(2), ..Default::default() });
    assert!(crop.contains("record `00000`: crop_size 2 is larger than the image, 1 x 1 x 2"));
    let file = dir.path().join("mean");
    let mean_file = TransformationParameter {
        mean_file: Some(file.to_str().unwrap().into()),
        ..Default::default()
    };
    assert!(transformed(mean_file.clone()).contains("no such file"));
    fs::write(&file, "what is this").unwrap();
    assert!(transformed(mean_file.clone()).contains("BlobProto"));
    MeanImage { shape: [1, 2, 2], data: vec![0.0; 4] }.write(&file).unwrap();
    assert!(transformed(mean_file.clone()).contains("the mean file has shape 1 x 2 x 2"));
    let cut = fs::read(&file).unwrap();
    fs::write(&file, &cut[..cut.len() - 4]).unwrap();
    assert!(transformed(mean_file).contains("BlobProto"));

    let empty = dir.path().join("empty");
    Writer::create(&empty, Backend::LevelDb).unwrap().finish().unwrap();
    assert!(message(&layer(&empty, 2, Default::default())).contains("holds no records"));
}

#[test]
fn images_of_different_size_need_a_crop_or_a_batch_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut writer = Writer::create(&path, Backend::LevelDb).unwrap();
    for (key, side) in [("a", 4), ("b", 5), ("c", 4)] {
        let image = datum([1, side, side], vec![9; (side * side) as usize], 1);
        writer.put(key.as_bytes(), &image.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
    let mut batch = Batch::default();
    let error =
        open(&layer(&path, 2, Default::default())).unwrap().fill(0, &mut batch).unwrap_err();
    let DataError::Record { key, problem, .. } = &error else { panic!("{error}") };
    assert_eq!(key, "b");
    assert_eq!(*problem, RecordProblem::Differs { image: [1, 5, 5], batch: [1, 4, 4] });

    let crop = TransformationParameter { crop_size: Some(3), ..Default::default() };
    open(&layer(&path, 3, crop)).unwrap().fill(0, &mut batch).unwrap();
    assert_eq!(batch.shapes[0], [3, 1, 3, 3]);
    let mut single = open(&layer(&path, 1, Default::default())).unwrap();
    single.fill(1, &mut batch).unwrap();
    assert_eq!((batch.shapes[0].as_slice(), batch.tops[0].len()), ([1, 1, 5, 5].as_slice(), 25));
}

#[test]
fn the_mean_of_the_reference_database_has_the_reference_bytes() {
    let Some(train) = shared("conformance/train/train_leveldb") else { return };
    let Some(reference) = shared("conformance/train/mean.binaryproto") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mean.binaryproto");
    let (mean, count) = compute_mean(&train, Backend::LevelDb).unwrap();
    assert_eq!((mean.shape, count), ([3, 32, 32], 512));
    mean.write(&file).unwrap();
    assert!(fs::read(&file).unwrap() == fs::read(&reference).unwrap());
    assert_eq!(MeanImage::read(&reference).unwrap(), mean);
    let channels = mean.channel_means();
    assert!(channels.len() == 3 && channels.iter().all(|mean| (100.0..150.0).contains(mean)));
}

/// A CIFAR-10 folder with the given training files of 20 records each.
fn cifar_folder(path: &Path, files: &[u8]) {
    fs::create_dir_all(path).unwrap();
    let file = |fill: u8| -> Vec<u8> {
        (0..20).flat_map(|label| [vec![label % 10], vec![fill; 3072]].concat()).collect()
    };
    for &i in files {
        fs::write(path.join(format!("data_batch_{i}.bin")), file(i)).unwrap();
    }
    fs::write(path.join("test_batch.bin"), file(9)).unwrap();
}

#[test]
fn cifar_converts_to_the_keys_and_bytes_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    cifar_folder(&dir.path().join("in"), &[1, 2, 4]);
    let output = dir.path().join("new/out");
    let made = convert_cifar(&dir.path().join("in"), &output, Backend::LevelDb).unwrap();
    assert_eq!((made.train.records, made.test.records), (60, 20));
    let missing: Vec<_> = made.missing.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(missing, ["data_batch_3.bin", "data_batch_5.bin"]);

    let mut train = leveldb::Database::open(output.join("cifar10_train_leveldb")).unwrap();
    let value = train.get(b"30003").unwrap().unwrap();
    // channels 3, height 32, width 32, 3072 bytes of data, label 3
    let head = [0x08, 3, 0x10, 32, 0x18, 32, 0x22, 0x80, 0x18];
    assert_eq!(value, [&head[..], &[4; 3072], &[0x28, 3]].concat());
    assert!(train.get(b"20000").unwrap().is_none());
    let mut test = leveldb::Database::open(output.join("cifar10_test_leveldb")).unwrap();
    assert!(test.get(b"00019").unwrap().is_some());

    let again = convert_cifar(&dir.path().join("in"), &output, Backend::LevelDb).unwrap_err();
    assert!(matches!(again, DataError::Exists { .. }), "{again}");
}

#[test]
fn cifar_input_that_is_not_whole_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    let failure = || {
        let error = convert_cifar(&input, &output, Backend::LevelDb).unwrap_err().to_string();
        assert!(!output.exists() || fs::read_dir(&output).unwrap().count() == 0, "{error}");
        error
    };
    cifar_folder(&input, &[]);
    assert!(failure().contains("holds none of data_batch_1.bin"));
    cifar_folder(&input, &[1, 2]);
    fs::write(input.join("data_batch_2.bin"), [0; 3073 * 3 - 1]).unwrap();
    assert!(failure().contains("is 9218 bytes long"));
    fs::write(input.join("data_batch_2.bin"), [77; 3073 * 3]).unwrap();
    assert!(failure().contains("label 77 at byte 0"));
    fs::remove_file(input.join("test_batch.bin")).unwrap();
    assert!(failure().contains("test_batch.bin"));
}

#[test]
fn real_mnist_converts_from_its_gzip_files() {
    let Some(folder) = shared("data/mnist") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mnist_test_leveldb");
    let images = folder.join("t10k-images-idx3-ubyte.gz");
    let labels = folder.join("t10k-labels-idx1-ubyte.gz");
    assert_eq!(convert_mnist(&images, &labels, &path, Backend::LevelDb).unwrap(), 10_000);
    let mut database = leveldb::Database::open(&path).unwrap();
    let first = Datum::decode(database.get(b"00000000").unwrap().unwrap()).unwrap();
    assert_eq!((first.channels(), first.height(), first.width(), first.label()), (1, 28, 28, 7));
    assert!(database.get(b"00009999").unwrap().is_some());

    let swapped = convert_mnist(&labels, &images, &dir.path().join("x"), Backend::LevelDb)
        .unwrap_err()
        .to_string();
    assert!(swapped.contains("are the two files swapped?"), "{swapped}");
    let train = folder.join("train-labels-idx1-ubyte.gz");
    let uneven = convert_mnist(&images, &train, &dir.path().join("x"), Backend::LevelDb)
        .unwrap_err()
        .to_string();
    assert!(uneven.contains("60000 labels for 10000 images"), "{uneven}");
}

#[test]
fn idx_files_of_the_wrong_length_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (images, labels) = (dir.path().join("images"), dir.path().join("labels"));
    let output = dir.path().join("out");
    let numbers =
        |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>();
    let good = [numbers(&[0x803, 3, 2, 2]), vec![5; 12]].concat();
    fs::write(&labels, [numbers(&[0x801, 3]), vec![1; 3]].concat()).unwrap();
    for (bytes, wanted) in [
        (good[..good.len() - 1].to_vec(), "is cut short"),
        ([good.clone(), vec![0]].concat(), "is longer"),
        (numbers(&[0x803, 3, 2, 0]), "3 images of 2 x 0"),
        (numbers(&[0x802, 3, 2, 2]), "begins with 0x00000802"),
        (vec![0, 0], "is cut short"),
    ] {
        fs::write(&images, bytes).unwrap();
        let error =
            convert_mnist(&images, &labels, &output, Backend::LevelDb).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{wanted}");
    }
    fs::write(&images, &good).unwrap();
    assert_eq!(convert_mnist(&images, &labels, &output, Backend::LevelDb).unwrap(), 3);
}

#[test]
fn the_generated_set_is_a_cifar_set_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let [train, test] = write_synthetic(dir.path(), 300, 100, 1).unwrap();
    assert_eq!((train.records, test.records), (300, 100));
    assert!(fs::read_to_string(dir.path().join("GENERATED.txt")).unwrap().contains("not CIFAR-10"));
    let source = open(&layer(&train.path, 100, Default::default())).unwrap();
    assert_eq!(source.top_shapes(), [vec![100, 3, 32, 32], vec![100]]);
}

/// Records a second from LevelDB to floats, printed: `cargo test --release --test data speed --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(folder) = shared("data/cifar10") else { return };
    let started = std::time::Instant::now();
    let made = convert_cifar(&folder, dir.path(), Backend::LevelDb).unwrap();
    println!("converted {} + {} in {:?}", made.train.records, made.test.records, started.elapsed());
    let started = std::time::Instant::now();
    let (mean, count) = compute_mean(&made.train.path, Backend::LevelDb).unwrap();
    println!("mean of {count} in {:?}: {:?}", started.elapsed(), mean.channel_means());
    let file = dir.path().join("mean.binaryproto");
    mean.write(&file).unwrap();
    let mean_file = Some(file.to_str().unwrap().to_owned());
    let plain = TransformationParameter { mean_file, ..Default::default() };
    let augmented =
        TransformationParameter { mirror: Some(true), crop_size: Some(28), ..plain.clone() };
    for (name, transform) in [("mean file", plain), ("mean file, crop, mirror", augmented)] {
        let mut source = open(&layer(&made.train.path, 100, transform)).unwrap();
        let mut batch = Batch::default();
        source.fill(0, &mut batch).unwrap();
        let started = std::time::Instant::now();
        let tickets = 3_000;
        for ticket in 1..=tickets {
            source.fill(ticket, &mut batch).unwrap();
        }
        let rate = (tickets * 100) as f64 / started.elapsed().as_secs_f64();
        println!("{name}: {rate:.0} records/s");
    }
}
