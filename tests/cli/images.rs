//! `convert_imageset`, `db`, and training on what they make.

use std::fs;
use std::path::PathBuf;

use caffe::data::{Backend, Database};
use caffe_proto::{Datum, Message};

use crate::support::{Folder, fails, succeeds};

/// A folder with some of the image fixtures under `images/` and a list of them.
fn photos() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("images")).unwrap();
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    for name in ["colour.jpg", "colour.png", "grey.jpg"] {
        fs::copy(fixtures.join(name), folder.path("images").join(name)).unwrap();
    }
    fs::write(folder.path("images/broken.jpg"), b"\xff\xd8\xff").unwrap();
    folder.write("list.txt", "colour.jpg 3\nbroken.jpg 1\ncolour.png 4\ngrey.jpg 5\n");
    folder
}

fn convert(folder: &Folder, flags: &[&str], database: &str) -> Vec<String> {
    let mut args = vec!["convert_imageset".to_owned()];
    args.extend(flags.iter().map(ToString::to_string));
    args.extend([format!("{}/", folder.name("images")), folder.name("list.txt")]);
    args.push(folder.name(database));
    args
}

fn records(folder: &Folder, database: &str, backend: Backend) -> Vec<(String, Datum)> {
    let mut cursor = Database::open(folder.path(database), backend).unwrap().cursor().unwrap();
    let mut records = Vec::new();
    while let Some(record) = cursor.next_record().unwrap() {
        let key = String::from_utf8(record.key.to_vec()).unwrap();
        records.push((key, Datum::decode(record.value).unwrap()));
    }
    records
}

#[test]
fn images_become_records_with_caffes_keys_and_bytes() {
    let folder = photos();
    let (out, log) = succeeds(&convert(&folder, &[], "plain"));
    assert_eq!(out, "");
    for sentence in [
        "convert_imageset.cpp:81] A total of 4 images.\n",
        "list.txt:2: `",
        "broken.jpg`: the JPEG is damaged",
        "convert_imageset.cpp:149] Processed 3 files.\n",
        "1 images could not be read and are left out",
    ] {
        assert!(log.contains(sentence), "{sentence} is not in\n{log}");
    }
    let made = records(&folder, "plain", Backend::Lmdb);
    let keys: Vec<_> = made.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["00000000_colour.jpg", "00000002_colour.png", "00000003_grey.jpg"]);
    let png = &made[1].1;
    assert_eq!((png.channels(), png.height(), png.width(), png.label()), (3, 11, 14, 4));
    let answer =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/colour.png.colour");
    let interleaved = fs::read(answer).unwrap();
    let blue: Vec<u8> = interleaved.iter().step_by(3).copied().collect();
    assert_eq!(png.data()[..154], blue);
    // Caffe writes the field although it says what is the default.
    assert_eq!(png.encoded, Some(false));
    assert!(fails(&convert(&folder, &[], "plain")).contains("exists already"));
}

#[test]
fn every_flag_of_the_original_does_its_work() {
    let folder = photos();
    let flags = ["-backend=leveldb", "-gray", "-resize_height=8", "-resize_width=6", "-check_size"];
    succeeds(&convert(&folder, &flags, "grey"));
    let made = records(&folder, "grey", Backend::LevelDb);
    assert!(made.iter().all(|(_, d)| (d.channels(), d.height(), d.width()) == (1, 8, 6)));

    let (_, log) = succeeds(&convert(&folder, &["-shuffle", "--encoded"], "encoded"));
    assert!(log.contains("] Shuffling data\n"), "{log}");
    for (key, datum) in records(&folder, "encoded", Backend::Lmdb) {
        let (number, name) = key.split_once('_').unwrap();
        assert!(number.len() == 8 && datum.encoded(), "{key}");
        assert_eq!(datum.data(), fs::read(folder.path("images").join(name)).unwrap(), "{key}");
    }
    let (_, log) = succeeds(&convert(&folder, &["-encode_type=png"], "png"));
    assert!(log.contains("] encode_type specified, assuming encoded=true.\n"), "{log}");
    let made = records(&folder, "png", Backend::Lmdb);
    assert!(made.iter().all(|(_, datum)| datum.data().starts_with(b"\x89PNG")));

    fs::write(folder.path("images/grey.jpg"), b"").unwrap();
    fs::write(folder.path("list.txt"), "grey.jpg 1\n").unwrap();
    let before = folder.entries();
    assert!(fails(&convert(&folder, &[], "none")).contains("none of its 1 images could be read"));
    assert_eq!(folder.entries(), before);
}

#[test]
fn images_of_differing_size_are_named_when_that_is_to_be_checked() {
    let folder = photos();
    succeeds(&convert(&folder, &["-resize_height=4", "-resize_width=4", "-encode_type=png"], "a"));
    let small = records(&folder, "a", Backend::Lmdb).remove(0).1;
    fs::write(folder.path("images/small.png"), small.data()).unwrap();
    folder.write("list.txt", "colour.jpg 3\nsmall.png 4\n");
    let text = fails(&convert(&folder, &["-check_size"], "b"));
    assert!(text.contains("list.txt:2: `") && text.contains("3 x 4 x 4"), "{text}");
    succeeds(&convert(&folder, &[], "c"));
}

#[test]
fn databases_are_described_copied_divided_and_verified() {
    let folder = photos();
    succeeds(&convert(&folder, &["-encoded"], "lmdb"));
    let lmdb = folder.name("lmdb");
    let (out, _) = succeeds(&["db", "stat", &lmdb]);
    for sentence in [
        ": LMDB, 3 records, ",
        "keys    00000000_colour.jpg to 00000003_grey.jpg\n",
        ", 3 encoded\n",
        "shape   1 x 11 x 14: 1\nshape   3 x 11 x 14: 2\n",
        "labels  3 different, 3 to 5, 1 to 1 records each\n",
    ] {
        assert!(out.contains(sentence), "{sentence} is not in\n{out}");
    }
    let leveldb = folder.name("leveldb");
    succeeds(&["db", "copy", &lmdb, &leveldb, "-backend=leveldb"]);
    let same = records(&folder, "leveldb", Backend::LevelDb);
    assert!(same == records(&folder, "lmdb", Backend::Lmdb));
    succeeds(&["db", "shard", &leveldb, &folder.name("part"), "--shards=2"]);
    let keys = |name: &str| -> Vec<String> {
        records(&folder, name, Backend::LevelDb).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys("part_0"), ["00000000_colour.jpg", "00000003_grey.jpg"]);
    assert_eq!(keys("part_1"), ["00000002_colour.png"]);
    assert!(succeeds(&["db", "verify", &leveldb]).1.contains("3 records, all good"));
    assert!(fails(&["db", "copy", &lmdb]).contains("output is missing"));
    assert!(fails(&["db", "copy", &lmdb, &leveldb]).contains("exists already"));
    assert!(fails(&["db", "stat", &lmdb, &leveldb]).contains("nothing else"));
}

#[test]
fn verify_names_every_bad_record() {
    let folder = Folder::new();
    let mut writer = caffe::data::Writer::create(folder.path("db"), Backend::Lmdb).unwrap();
    let good = Datum { data: Some(vec![1].into()), ..Default::default() };
    let good = Datum { channels: Some(1), height: Some(1), width: Some(1), ..good };
    let bad = Datum { encoded: Some(true), ..good.clone() };
    for (key, datum) in [("a", &good), ("b", &bad), ("c", &good), ("d", &bad)] {
        writer.put(key.as_bytes(), &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
    let output = crate::support::run(&["db", "verify", &folder.name("db")]);
    let log = crate::support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for sentence in ["record `b`:", "record `d`:", "2 of 4 records are bad"] {
        assert!(log.contains(sentence), "{sentence} is not in\n{log}");
    }
}

#[test]
fn image_data_and_encoded_databases_train() {
    let folder = photos();
    folder.write("list.txt", "colour.jpg 0\ncolour.png 1\ngrey.jpg 2\n");
    succeeds(&convert(&folder, &["-encoded"], "db"));
    succeeds(&convert(&folder, &[], "plain"));
    succeeds(&["compute_image_mean", &folder.name("plain"), &folder.name("mean")]);
    let (list, root) = (folder.name("list.txt"), folder.name("images"));
    let image_data = format!(
        "type: 'ImageData' image_data_param {{ source: '{list}' root_folder: '{root}/' \
         batch_size: 3 shuffle: true new_height: 11 new_width: 14 }}"
    );
    let data = format!(
        "type: 'Data' data_param {{ source: '{}' backend: LMDB batch_size: 3 \
         force_encoded_color: true }}",
        folder.name("db")
    );
    for (i, source) in [image_data, data].into_iter().enumerate() {
        let mean = folder.name("mean");
        let net = format!(
            "layer {{ name: 'data' top: 'data' top: 'label' {source} \
               transform_param {{ mean_file: '{mean}' crop_size: 8 mirror: true scale: 0.01 }} }} \
             layer {{ name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' \
               inner_product_param {{ num_output: 3 weight_filler {{ type: 'xavier' }} }} }} \
             layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}"
        );
        let net = folder.write("net.prototxt", net);
        let solver = format!(
            "net: '{net}' base_lr: 0.1 lr_policy: 'fixed' max_iter: 40 display: 20 random_seed: 1 \
             snapshot_prefix: '{}' snapshot_after_train: false",
            folder.name("snapshot")
        );
        let solver = folder.write("solver.prototxt", solver);
        for flags in [&["--workers=1"][..], &["--workers=2", "--readers=4", "--shuffle"]] {
            let mut args = vec!["train", "--solver", &solver];
            args.extend(flags);
            let (_, log) = succeeds(&args);
            assert!(log.contains("Iteration 40"), "{log}");
            let last = log.lines().rev().find_map(|line| line.split_once(", loss = "));
            let loss: f32 = last.unwrap().1.trim().parse().unwrap();
            assert!(loss < 0.7, "source {i}, {flags:?}: {loss}\n{log}");
        }
    }
}
