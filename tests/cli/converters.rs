//! The commands that make databases and mean files.

use std::fs;
use std::path::Path;

use caffe::data::{Backend, Database};
use caffe_proto::{BlobProto, Datum, Message};

use crate::support::{Folder, fails, succeeds};

/// A file of CIFAR-10's form: `n` records, label i mod 10, all pixels i.
fn cifar(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| [vec![(i % 10) as u8], vec![i as u8; 3072]].concat()).collect()
}

#[test]
fn mnist_is_converted_and_its_mean_computed() {
    let folder = Folder::new();
    let [images, labels] = folder.idx(5);
    let database = folder.name("mnist_leveldb");
    let convert = ["convert_mnist_data", "-backend", "leveldb", &images, &labels, &database];
    let (out, log) = succeeds(&convert);
    assert!(
        out.is_empty() && log.contains("convert_mnist_data.cpp:117] Processed 5 files."),
        "{log}"
    );
    assert!(fails(&convert).contains("exists already"));

    let mean = folder.name("mean.binaryproto");
    let (_, log) = succeeds(&["compute_image_mean", "--backend=leveldb", &database, &mean]);
    assert!(
        log.contains("] Processed 5 files.") && log.contains("] Number of channels: 1"),
        "{log}"
    );
    assert!(log.contains("] mean_value channel [0]: 2\n"), "{log}");
    let blob = BlobProto::decode(fs::read(&mean).unwrap().as_slice()).unwrap();
    assert_eq!(blob.data, [2.0; 4]);
    let (_, log) = succeeds(&["compute_image_mean", &database]);
    assert!(log.contains("mean_value") && !log.contains("Write to"), "{log}");
    let nowhere = folder.name("no/such/mean");
    assert!(fails(&["compute_image_mean", &database, &nowhere]).contains("cannot write"));
}

#[test]
fn mnist_becomes_pairs_of_images() {
    let folder = Folder::new();
    let [images, labels] = folder.idx(40);
    let make = |name: &str, seed: &str| {
        let path = folder.name(name);
        let (_, log) = succeeds(&["convert_mnist_siamese_data", &images, &labels, &path, seed]);
        assert!(log.contains("A total of 40 pairs."), "{log}");
        let mut database = Database::open(&path, Backend::LevelDb).unwrap();
        let mut cursor = database.cursor().unwrap();
        let next = || cursor.next_record().unwrap().map(|r| Datum::decode(r.value).unwrap());
        std::iter::from_fn(next).collect::<Vec<_>>()
    };
    let pairs = make("a", "-seed=1");
    assert_eq!(pairs.len(), 40);
    for pair in &pairs {
        assert_eq!([pair.channels(), pair.height(), pair.width()], [2, 2, 2]);
        let pixels = pair.data();
        // Image i has the pixels i and the label i mod 10.
        let same = pixels[0] % 10 == pixels[4] % 10;
        assert_eq!((pixels[1], pixels[5]), (pixels[0], pixels[4]));
        assert_eq!(pair.label(), i32::from(same));
    }
    assert!(pairs.iter().any(|pair| pair.label() == 1));
    assert_eq!(make("b", "-seed=1"), pairs);
    assert_ne!(make("c", "-seed=2"), pairs);
}

#[test]
fn a_conversion_that_fails_leaves_nothing_behind() {
    let folder = Folder::new();
    let [images, labels] = folder.idx(5);
    let cut = fs::read(&images).unwrap();
    fs::write(&images, &cut[..cut.len() - 3]).unwrap();
    let before = folder.entries();
    let database = folder.name("db");
    assert!(fails(&["convert_mnist_data", &images, &labels, &database]).contains("cut short"));
    assert!(fails(&["convert_mnist_data", &labels, &images, &database]).contains("swapped"));
    assert_eq!(folder.entries(), before);
}

#[test]
fn cifar_is_converted_from_what_there_is() {
    let (input, output) = (Folder::new(), Folder::new());
    let folder = |f: &Folder| f.0.path().display().to_string();
    let convert =
        ["convert_cifar_data".to_owned(), folder(&input), folder(&output), "leveldb".into()];
    assert!(fails(&convert).contains("holds none of data_batch_1.bin"));
    input.write("data_batch_1.bin", cifar(20));
    input.write("data_batch_3.bin", cifar(10));
    assert!(fails(&convert).contains("is missing; it belongs to CIFAR-10"));
    input.write("test_batch.bin", &cifar(10)[..100]);
    assert!(fails(&convert).contains("cut short"));
    assert_eq!(output.entries(), [""; 0]);

    input.write("test_batch.bin", cifar(10));
    let (_, log) = succeeds(&convert);
    for sentence in [
        "convert_cifar_data.cpp:52] Writing Training data\n",
        "convert_cifar_data.cpp:55] Training Batch 1\n",
        "convert_cifar_data.cpp:55] Training Batch 3\n",
        "data_batch_2.bin is missing",
        "] Training data: 30 records in ",
        "] Testing data: 10 records in ",
    ] {
        assert!(log.contains(sentence), "{sentence} is not in\n{log}");
    }
    assert!(!log.contains("Training Batch 2"), "{log}");
    assert_eq!(output.entries(), ["cifar10_test_leveldb", "cifar10_train_leveldb"]);
    assert!(fails(&convert).contains("exists already"));
}

#[test]
fn a_generated_set_has_as_many_records_as_asked_for() {
    let folder = Folder::new();
    let set = folder.name("set");
    let (_, log) = succeeds(&["generate_data", &set, "--train=30", "--test", "10", "-seed", "3"]);
    assert!(log.contains("30 generated records") && log.contains("10 generated"), "{log}");
    let train = Path::new(&set).join("cifar10_train_leveldb").display().to_string();
    assert!(succeeds(&["compute_image_mean", &train]).1.contains("Processed 30 files."));
}
