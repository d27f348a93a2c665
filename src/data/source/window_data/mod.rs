//! `WindowData`: windows of images, foreground and background in a fixed share, for detectors.
//!
//! Windows are drawn anew for every place of every batch; which one is a function of seed, layer
//! and record position. A batch begins with its background windows (label 0), then come
//! `fg_fraction` of foreground ones (their class).
//!
//! As in Caffe, mean and scale act on what lies in the image; the rest of the blob is 0. A mean
//! file's middle is used, as for a crop.

mod crop;
mod list;

use std::path::PathBuf;
use std::sync::OnceLock;

use bytes::Bytes;
use caffe_proto::{LayerParameter, WindowDataParameter};

use super::Batch;
use super::settings::{self, wrong};
use crate::data::image::{Colour, Picture, Raster};
use crate::data::list::file;
use crate::data::readers::Records;
use crate::data::transform::Mean;
use crate::data::{DataError, Reading, RecordProblem, parallel};
use crate::rng::{Philox, below, stream_id};
use crop::{Cropping, Placed};
use list::{Listed, Window};

/// Colours of every image.
const CHANNELS: usize = 3;

/// The windows of a `WindowData` layer's file.
pub struct Windows {
    path: PathBuf,
    root: String,
    images: Vec<Listed>,
    /// The image files that were used before, with `cache_images`.
    cache: Vec<OnceLock<Bytes>>,
    /// Background, foreground.
    windows: [Vec<Window>; 2],
    batch_size: usize,
    /// Background windows in a batch.
    background: usize,
    cropping: Cropping,
    mirror: bool,
    scale: f32,
    mean: Mean,
    threads: usize,
    random: Philox,
}

/// Reads the window file of `layer`.
///
/// # Errors
/// [`DataError::Layer`] for settings that make no sense, [`DataError::Line`] for a file that makes
/// none.
pub fn open(layer: &LayerParameter, reading: Reading) -> Result<Windows, DataError> {
    let none = || {
        wrong(
            layer,
            "window_data_param is missing; add `window_data_param { source: \"…\" batch_size: … }`",
        )
    };
    let data: &WindowDataParameter = layer.window_data_param.as_deref().ok_or_else(none)?;
    let path = settings::source(layer, "window_data_param", data.source(), "the window file")?;
    let batch_size = settings::batch_size(layer, "window_data_param", data.batch_size())?;
    settings::two_tops(layer)?;
    let transform = layer.transform_param.as_deref().cloned().unwrap_or_default();
    if transform.force_color() || transform.force_gray() {
        return Err(wrong(layer, "force_color and force_gray are for encoded records"));
    }
    let cropping = cropping(layer, data, transform.crop_size())?;
    let mean = Mean::new(layer.name(), &transform)?;
    check_mean(layer, &mean, cropping.side)?;
    let fraction = data.fg_fraction();
    if !(0.0..=1.0).contains(&fraction) {
        return Err(wrong(layer, format!("fg_fraction {fraction} lies outside of 0 … 1")));
    }
    let (images, windows) = list::read(path)?;
    let cached = if data.cache_images() { images.len() } else { 0 };
    let windows = Windows {
        path: path.to_owned(),
        root: data.root_folder().to_owned(),
        images,
        cache: vec![OnceLock::new(); cached],
        windows: divide(layer, windows, data)?,
        batch_size,
        background: batch_size - (batch_size as f32 * fraction) as usize,
        cropping,
        mirror: transform.mirror(),
        scale: transform.scale(),
        mean,
        threads: reading.threads,
        random: Philox::new(reading.seed, stream_id(layer.name())),
    };
    windows.check_supply(layer)?;
    Ok(windows)
}

fn cropping(
    layer: &LayerParameter,
    data: &WindowDataParameter,
    crop_size: u32,
) -> Result<Cropping, DataError> {
    let square = match data.crop_mode() {
        "warp" => false,
        "square" => true,
        other => {
            return Err(wrong(layer, format!("crop_mode `{other}` is neither warp nor square")));
        }
    };
    if crop_size == 0 {
        return Err(wrong(layer, "transform_param has no crop_size; give the side of the blob"));
    }
    let context = data.context_pad();
    if 2 * u64::from(context) >= u64::from(crop_size) {
        let text = format!("context_pad {context} leaves nothing of crop_size {crop_size}");
        return Err(wrong(layer, text));
    }
    Ok(Cropping { side: crop_size as usize, context: context as usize, square })
}

fn check_mean(layer: &LayerParameter, mean: &Mean, side: usize) -> Result<(), DataError> {
    match mean {
        Mean::Image(mean)
            if mean.shape[0] != CHANNELS || mean.shape[1..].iter().any(|&s| s < side) =>
        {
            let [c, h, w] = mean.shape;
            let text = format!(
                "the mean file has shape {c} x {h} x {w}; 3 channels of at least {side} x {side} are needed"
            );
            Err(wrong(layer, text))
        }
        Mean::Values(values) if ![1, CHANNELS].contains(&values.len()) => {
            Err(wrong(layer, format!("{} mean_value given; give one or three", values.len())))
        }
        _ => Ok(()),
    }
}

/// Background windows, with label 0, and foreground ones; those between the thresholds are neither.
fn divide(
    layer: &LayerParameter,
    windows: Vec<Window>,
    data: &WindowDataParameter,
) -> Result<[Vec<Window>; 2], DataError> {
    let (mut background, mut foreground) = (Vec::new(), Vec::new());
    for mut window in windows {
        if window.overlap >= data.fg_threshold() {
            if window.label <= 0 {
                return Err(DataError::Line {
                    list: data.source().into(),
                    line: window.line,
                    reason: format!(
                        "a foreground window of class {}; layer `{}` needs classes from 1 on",
                        window.label,
                        layer.name()
                    ),
                });
            }
            foreground.push(window);
        } else if window.overlap < data.bg_threshold() {
            window.label = 0;
            background.push(window);
        }
    }
    Ok([background, foreground])
}

impl Windows {
    /// That there is something to draw from.
    fn check_supply(&self, layer: &LayerParameter) -> Result<(), DataError> {
        let wanted = [self.background, self.batch_size - self.background];
        for (i, what) in ["background", "foreground"].into_iter().enumerate() {
            if wanted[i] > 0 && self.windows[i].is_empty() {
                let (n, path) = (wanted[i], self.path.display());
                let text = format!("a batch wants {n} {what} windows, but `{path}` holds none");
                return Err(wrong(layer, text));
            }
        }
        Ok(())
    }

    fn read(&self, image: usize) -> Result<Bytes, DataError> {
        let cached = self.cache.get(image);
        if let Some(bytes) = cached.and_then(OnceLock::get) {
            return Ok(bytes.clone());
        }
        let read = std::fs::read(file(&self.root, &self.images[image].name)).map(Bytes::from);
        let bytes = read.map_err(|source| {
            self.bad_image(image, RecordProblem::Unreadable(source.to_string()))
        })?;
        if let Some(place) = cached {
            // Another thread may have read it meanwhile; it is the same.
            let _ = place.set(bytes.clone());
        }
        Ok(bytes)
    }

    fn bad_image(&self, image: usize, problem: RecordProblem) -> DataError {
        let Listed { name, line } = &self.images[image];
        DataError::Image {
            list: self.path.clone(),
            line: *line,
            file: file(&self.root, name),
            problem,
        }
    }

    /// The window for place `i` of a batch at `position`, and whether it is flipped.
    fn draw(&self, i: usize, position: u64) -> (&Window, bool) {
        let [pick, flip, ..] = self.random.at(position);
        let windows = &self.windows[usize::from(i >= self.background)];
        let window = &windows[below(pick, windows.len() as u32) as usize];
        (window, self.mirror && flip >> 31 == 1)
    }

    /// Cuts a window out of its image and writes it to `out`.
    fn place(&self, window: &Window, mirror: bool, out: &mut [f32]) -> Result<(), DataError> {
        let bad = |problem| self.bad_image(window.image, problem);
        let image = Picture::inspect(self.read(window.image)?)
            .and_then(|picture| picture.decode(Colour::Bgr))
            .map_err(|problem| bad(problem.into()))?;
        let Some(placed) = self.cropping.place(window.corners, [image.height, image.width], mirror)
        else {
            return Err(DataError::Line {
                list: self.path.clone(),
                line: window.line,
                reason: format!(
                    "the window {:?} lies outside of its image, {} x {}",
                    window.corners, image.width, image.height
                ),
            });
        };
        out.fill(0.0);
        let [height, width] = placed.size;
        if height > 0 && width > 0 {
            let part = image.crop(placed.corner, placed.part).resize(height, width);
            self.write(&part, placed, mirror, out);
        }
        Ok(())
    }

    /// (pixel − mean) · scale into place.
    fn write(&self, part: &Raster, placed: Placed, mirror: bool, out: &mut [f32]) {
        let (side, [top, left]) = (self.cropping.side, placed.at);
        for (row, pixels) in part.pixels.chunks_exact(part.width * CHANNELS).enumerate() {
            for (column, pixel) in pixels.chunks_exact(CHANNELS).enumerate() {
                let column = if mirror { part.width - 1 - column } else { column };
                let (y, x) = (top + row, left + column);
                for (channel, &value) in pixel.iter().enumerate() {
                    let mean = self.mean_at(channel, y, x);
                    out[(channel * side + y) * side + x] = (f32::from(value) - mean) * self.scale;
                }
            }
        }
    }

    fn mean_at(&self, channel: usize, y: usize, x: usize) -> f32 {
        match &self.mean {
            Mean::None => 0.0,
            Mean::Values(values) => values[if values.len() == 1 { 0 } else { channel }],
            Mean::Image(mean) => {
                let [_, height, width] = mean.shape;
                let middle = |len: usize| (len - self.cropping.side) / 2;
                mean.data[(channel * height + y + middle(height)) * width + x + middle(width)]
            }
        }
    }
}

impl Records for Windows {
    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn top_shapes(&self) -> Vec<Vec<usize>> {
        let (n, side) = (self.batch_size, self.cropping.side);
        vec![vec![n, CHANNELS, side, side], vec![n]]
    }

    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), DataError> {
        let n = self.batch_size;
        batch.begin(ticket, n, 2);
        let drawn: Vec<(&Window, bool)> =
            batch.positions.clone().enumerate().map(|(i, p)| self.draw(i, p)).collect();
        for (slot, (window, _)) in drawn.iter().enumerate() {
            batch.note(slot, window.image as u64, self.images[window.image].name.as_bytes());
        }
        let labels = batch.shape_top(1, &[n]).iter_mut();
        labels.zip(&drawn).for_each(|(label, (window, _))| *label = window.label as f32);
        let side = self.cropping.side;
        let data = batch.shape_top(0, &[n, CHANNELS, side, side]);
        let jobs = drawn.into_iter().zip(data.chunks_exact_mut(CHANNELS * side * side)).collect();
        parallel::for_each(self.threads, jobs, |((window, mirror), out)| {
            self.place(window, mirror, out)
        })
    }

    fn decodes(&self) -> bool {
        true
    }
}
