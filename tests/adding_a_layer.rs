//! `docs/adding-a-layer.md` shows a layer that exists: its blocks against the files they name.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

/// The layer that the page goes through.
const EXAMPLE: &str = "src/layers/embed.rs";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The blocks of the page that name a file, in order: (file, text).
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(file) = line.strip_prefix("```rust ") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            blocks.push((file.to_owned(), text.map(|line| format!("{line}\n")).collect()));
        }
    }
    blocks
}

#[test]
fn every_block_stands_in_the_file_it_names() {
    let blocks = blocks(&read("docs/adding-a-layer.md"));
    assert!(blocks.len() > 8);
    for (file, text) in blocks {
        assert!(read(&file).contains(&text), "{file} does not contain this block:\n{text}");
    }
}

#[test]
fn the_example_is_shown_from_its_first_line_to_its_tests() {
    let page = blocks(&read("docs/adding-a-layer.md"));
    let shown: String =
        page.into_iter().filter(|(file, _)| file == EXAMPLE).map(|(_, text)| text).collect();
    let file = read(EXAMPLE);
    let (layer, _tests) = file.split_once("\n#[cfg(test)]").unwrap();
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(lines(&shown), lines(layer));
}
