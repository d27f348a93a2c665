//! `caffe.proto` is the Caffe format: each row of the table of the format is in it, and no more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, fs};

use caffe_proto::descriptors;
use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind};

/// (message or enum, field or value) → number, label, type, default, options.
type Table = BTreeMap<(String, String), [String; 5]>;

fn expected(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().skip(1) {
        let mut cells: Vec<_> = line.split('\t').map(str::to_owned).collect();
        cells.resize(7, String::new());
        if is_float(&cells[4]) {
            cells[5] = normal(&cells[5]);
        }
        let row = [2, 3, 4, 5, 6].map(|i| cells[i].clone());
        let twice = table.insert((cells[0].clone(), cells[1].clone()), row);
        assert!(twice.is_none(), "{line}");
    }
    table
}

fn compiled() -> Table {
    let mut table = Table::new();
    let short = |full: &str| full.strip_prefix("caffe.").unwrap().to_owned();
    for message in descriptors().all_messages() {
        for field in message.fields() {
            table.insert((short(message.full_name()), field.name().to_owned()), row(&field));
        }
    }
    let values = |e: EnumDescriptor| e.values().collect::<Vec<_>>();
    for value in descriptors().all_enums().flat_map(values) {
        let row = [&value.number().to_string(), "enum", "", "", ""].map(str::to_owned);
        table.insert((short(value.parent_enum().full_name()), value.name().to_owned()), row);
    }
    table
}

fn row(field: &FieldDescriptor) -> [String; 5] {
    let label = match field.cardinality() {
        Cardinality::Optional => "optional",
        Cardinality::Required => "required",
        Cardinality::Repeated => "repeated",
    };
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(e) => e.full_name().to_owned(),
        kind => format!("{kind:?}").to_ascii_lowercase(),
    };
    let proto = field.field_descriptor_proto();
    let mut default = proto.default_value.clone().unwrap_or_default();
    if is_float(&kind) {
        default = normal(&default);
    }
    let packed = proto.options.as_ref().and_then(|options| options.packed) == Some(true);
    let options = if packed { "packed" } else { "" };
    [field.number().to_string(), label.to_owned(), kind, default, options.to_owned()]
}

fn is_float(kind: &str) -> bool {
    matches!(kind, "float" | "double")
}

/// One spelling for each number: `1e-08` and `1e-8` are the same default.
fn normal(number: &str) -> String {
    number.parse::<f64>().map_or(number.to_owned(), |value| format!("{value:e}"))
}

#[test]
fn the_proto_is_the_table_of_the_format() {
    let Some(shared) = common::shared() else { return };
    let text = fs::read_to_string(shared.join("reference/caffe-proto-fields.tsv")).unwrap();
    let (expected, compiled) = (expected(&text), compiled());
    assert!(expected.len() > 500, "the table is short: {} rows", expected.len());
    for (key, row) in &expected {
        assert_eq!(compiled.get(key), Some(row), "{key:?}");
    }
    for key in compiled.keys() {
        assert!(expected.contains_key(key), "{key:?} is not of the format");
    }
}

#[test]
fn defaults_reach_the_accessors() {
    let filler = caffe_proto::FillerParameter::default();
    assert_eq!((filler.r#type(), filler.std(), filler.sparse()), ("constant", 1.0, -1));
    let solver = caffe_proto::SolverParameter::default();
    assert_eq!((solver.momentum2(), solver.delta()), (0.999, 1e-8));
    assert_eq!(
        solver.snapshot_format(),
        caffe_proto::solver_parameter::SnapshotFormat::Binaryproto
    );
    assert_eq!(solver.solver_mode(), caffe_proto::solver_parameter::SolverMode::Gpu);
    assert!(solver.test_initialization() && solver.snapshot_after_train());
    let window = caffe_proto::WindowDataParameter::default();
    assert_eq!((window.crop_mode(), window.fg_fraction()), ("warp", 0.25));
}

#[test]
fn a_layer_is_small() {
    // Its fifty sub-messages are boxed; by value it would be some 3 KB.
    assert!(size_of::<caffe_proto::LayerParameter>() < 800);
}
