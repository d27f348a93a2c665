//! What several test files need: example files, a seeded random source, random messages.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The developers' folder of recorded facts, or `None` (and a line saying so) where it is absent.
pub fn shared() -> Option<PathBuf> {
    let folder =
        env::var_os("CAFFE_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is absent (CAFFE_SHARED names it)", folder.display());
    None
}

/// All files below `folder` whose name ends in `.prototxt`, in order.
pub fn prototxts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(prototxts(&path));
        } else if path.extension().is_some_and(|ext| ext == "prototxt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The repository's example prototxts and, where they are at hand, the recorded ones.
pub fn corpus() -> Vec<PathBuf> {
    let mut files = prototxts(&root().join("examples"));
    if let Some(shared) = shared() {
        files.extend(prototxts(&shared.join("conformance")));
    }
    files
}

/// Whether a prototxt is a solver's: by its name, as people name them.
pub fn is_solver(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().contains("solver")
}

/// A small generator of pseudo-random numbers (splitmix64), the same on each run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A message with about one in `rarity` of its fields set to random values.
pub fn random_message(
    random: &mut Random,
    desc: &MessageDescriptor,
    rarity: usize,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(desc.clone());
    for field in desc.fields() {
        let required = field.cardinality() == Cardinality::Required;
        if !required && random.below(rarity) != 0 {
            continue;
        }
        let value = if field.is_list() {
            let length = 1 + random.below(3);
            Value::List((0..length).map(|_| random_value(random, &field, rarity)).collect())
        } else {
            random_value(random, &field, rarity)
        };
        message.set_field(&field, value);
    }
    message
}

fn random_value(random: &mut Random, field: &FieldDescriptor, rarity: usize) -> Value {
    let bits = random.next() >> random.below(64);
    match field.kind() {
        Kind::Bool => Value::Bool(bits.is_multiple_of(2)),
        Kind::Float => Value::F32(random_float(random) as f32),
        Kind::Double => Value::F64(random_float(random)),
        Kind::Int32 => Value::I32(bits as i32),
        Kind::Int64 => Value::I64(bits as i64),
        Kind::Uint32 => Value::U32(bits as u32),
        Kind::String => Value::String(random_text(random)),
        Kind::Bytes => Value::Bytes((0..random.below(9)).map(|_| random.next() as u8).collect()),
        Kind::Message(desc) => Value::Message(random_message(random, &desc, rarity + 2)),
        Kind::Enum(desc) => {
            let numbers: Vec<_> = desc.values().map(|value| value.number()).collect();
            Value::EnumNumber(*random.pick(&numbers))
        }
        other => panic!("the format has no {other:?}"),
    }
}

fn random_float(random: &mut Random) -> f64 {
    let plain = [0.0, -0.0, 1.0, 0.1, 1e-5, 227.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    if random.below(2) == 0 {
        return *random.pick(&plain);
    }
    let value = f64::from_bits(random.next());
    if value.is_nan() { f64::NAN } else { value }
}

fn random_text(random: &mut Random) -> String {
    let letters =
        ['a', 'Z', '_', '/', ' ', '"', '\'', '\\', '\n', '\t', '\0', '\u{7f}', 'é', '層', '#', '{'];
    (0..random.below(10)).map(|_| *random.pick(&letters)).collect()
}
