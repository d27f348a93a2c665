//! `convert_cifar_data INPUT_FOLDER OUTPUT_FOLDER DB_TYPE`.
//!
//! CIFAR-10's binary form: records of one label byte and 3 × 32 × 32 pixel bytes (red, green, blue
//! planes), 10,000 a file. Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::data::datum::encode_bytes;
use crate::data::{Backend, DataError, Writer};

use super::wrong;

/// (channels, height, width).
pub const CIFAR_SHAPE: [i32; 3] = [3, 32, 32];
/// Bytes a record: label and pixels.
pub const CIFAR_RECORD: usize = 1 + 3 * 32 * 32;
/// Records a file; keys count on from file to file by it.
const FILE_RECORDS: u64 = 10_000;
const TRAINING_FILES: u64 = 5;

/// One database made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Where it is.
    pub path: PathBuf,
    /// Its number of records.
    pub records: u64,
}

/// What a conversion made, and what it had to do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CifarConversion {
    /// `cifar10_train_leveldb` or `cifar10_train_lmdb`.
    pub train: Converted,
    /// `cifar10_test_leveldb` or `cifar10_test_lmdb`.
    pub test: Converted,
    /// Training files that were not there; tell the user when there are any.
    pub missing: Vec<PathBuf>,
}

/// Converts `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` of `input` into
/// `cifar10_train_leveldb` and `cifar10_test_leveldb` (or `…_lmdb`) in `output` (created when
/// absent).
///
/// Keys are the record's number in the whole set, `%05d`; training files that are absent leave a
/// gap, so that a record's key never depends on which files are at hand.
///
/// # Errors
/// [`DataError::Input`] when no training file or no test file is there, or one has a length no
/// whole number of records has, or a label above 9; [`DataError::Exists`]; [`DataError::Io`].
pub fn convert_cifar(
    input: &Path,
    output: &Path,
    backend: Backend,
) -> Result<CifarConversion, DataError> {
    let name = |file| input.join(format!("data_batch_{}.bin", file + 1));
    let (there, missing): (Vec<u64>, Vec<u64>) =
        (0..TRAINING_FILES).partition(|&file| name(file).exists());
    if there.is_empty() {
        let reason = "holds none of data_batch_1.bin … data_batch_5.bin; give the folder of \
                      CIFAR-10's binary version";
        return Err(wrong(input, reason));
    }
    let test_file = input.join("test_batch.bin");
    if !test_file.exists() {
        return Err(wrong(&test_file, "is missing; it belongs to CIFAR-10's binary version"));
    }
    std::fs::create_dir_all(output).map_err(|source| DataError::io("create", output, source))?;
    // Both writers first: an output that exists is refused before any work is done.
    let suffix = backend.to_string().to_lowercase();
    let [train_path, test_path] =
        ["train", "test"].map(|set| output.join(format!("cifar10_{set}_{suffix}")));
    let mut train = Writer::create(&train_path, backend)?;
    let mut test = Writer::create(&test_path, backend)?;
    for &file in &there {
        convert_file(&name(file), file * FILE_RECORDS, &mut train)?;
    }
    convert_file(&test_file, 0, &mut test)?;
    let train = Converted { path: train_path, records: train.finish()? };
    let test = Converted { path: test_path, records: test.finish()? };
    Ok(CifarConversion { train, test, missing: missing.into_iter().map(name).collect() })
}

fn convert_file(path: &Path, first_key: u64, writer: &mut Writer) -> Result<(), DataError> {
    let read = |source| DataError::io("read", path, source);
    let file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let records = length / CIFAR_RECORD as u64;
    if length % CIFAR_RECORD as u64 != 0 || !(1..=FILE_RECORDS).contains(&records) {
        return Err(wrong(
            path,
            format!(
                "is {length} bytes long, which is not 1 to {FILE_RECORDS} records of \
                 {CIFAR_RECORD} bytes; cut short, or not CIFAR-10's binary version?"
            ),
        ));
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut value = Vec::new();
    for index in 0..records {
        let mut record = vec![0; CIFAR_RECORD];
        reader.read_exact(&mut record).map_err(read)?;
        let record = Bytes::from(record);
        let label = record[0];
        if label > 9 {
            let at = index * CIFAR_RECORD as u64;
            return Err(wrong(path, format!("label {label} at byte {at}; CIFAR-10 has 0 to 9")));
        }
        encode_bytes(CIFAR_SHAPE, record.slice(1..), label.into(), &mut value);
        writer.put(format!("{:05}", first_key + index).as_bytes(), &value)?;
    }
    Ok(())
}
