//! Memory of sources that fill batch after batch: a binary of its own, so that nothing else runs.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;

use caffe::data::image::{Format, Raster};
use caffe::data::{Backend, Batch, Reading, Writer, readers};
use caffe_proto::text::parse;
use caffe_proto::{Datum, LayerParameter, Message, Phase};

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn ten_thousand_batches_take_no_more_memory_than_one_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..24 * 24 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let raster = Raster { height: 24, width: 24, channels: 3, pixels };
    let plain = Datum {
        channels: Some(3),
        height: Some(24),
        width: Some(24),
        data: Some(raster.planes().into()),
        ..Datum::default()
    };
    let jpeg = raster.encode(Format::Jpeg).unwrap();
    let jpeg = Datum { data: Some(jpeg.into()), encoded: Some(true), ..Datum::default() };
    for (backend, datum, threads) in [
        (Backend::LevelDb, &plain, 1),
        (Backend::Lmdb, &plain, 1),
        (Backend::LevelDb, &jpeg, 1),
        (Backend::Lmdb, &jpeg, 2),
    ] {
        let path = dir.path().join(format!("{backend}{}", datum.encoded()));
        let mut writer = Writer::create(&path, backend).unwrap();
        for i in 0..3_000 {
            writer.put(format!("{i:08}").as_bytes(), &datum.encode_to_vec()).unwrap();
        }
        writer.finish().unwrap();
        let text = format!(
            "name: 'data' type: 'Data' top: 'data' top: 'label' \
             transform_param {{ crop_size: 20 mirror: true }} \
             data_param {{ source: '{}' backend: {} batch_size: 4 }}",
            path.display(),
            backend.to_string().to_uppercase()
        );
        let layer: LayerParameter = parse("layer", &text).unwrap();
        for shuffle in [false, true] {
            let reading = Reading { shuffle, threads, ..Reading::new(1) };
            let mut source = readers::open(&layer, Phase::Train, reading).unwrap();
            let mut batch = Batch::default();
            let mut early = 0;
            for ticket in 0..10_000 {
                source.fill(ticket, &mut batch).unwrap();
                if ticket == 1_000 {
                    early = resident();
                }
            }
            let grown = resident().saturating_sub(early);
            assert!(grown < 2 << 20, "{backend} {shuffle} {threads}: {grown} bytes more");
        }
    }
}
