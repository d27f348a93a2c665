//! A generated 10-class set of 32 × 32 colour images, for where CIFAR-10 is not at hand.
//!
//! It has CIFAR-10's format and file names, so its nets run on it unchanged, and a net has to learn
//! something: a class is a shape (disc, square, triangle, cross, ring) with a surface (plain or
//! striped), while place, size, angle, colours, background and noise are random. No pixel and no
//! average colour tells anything about the class. It is no benchmark: accuracy on it says nothing
//! about accuracy on CIFAR-10, and `GENERATED.txt` beside the databases says so.

use std::fs;
use std::path::Path;

use crate::rng::{Philox, Sequence, stream_id};

use super::DataError;
use super::convert::{CIFAR_RECORD, CIFAR_SHAPE, Converted};
use super::datum::encode_bytes;
use super::leveldb::Writer;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const CLASSES: u64 = 10;
const NOISE: f64 = 14.0;

const NOTE: &str = "\
The databases in this folder are generated: shapes drawn by `caffe`, not photographs.
They are not CIFAR-10, and accuracies on them do not compare with accuracies on CIFAR-10.
";

/// Writes `cifar10_train_leveldb` and `cifar10_test_leveldb` of so many records into `output`
/// (created when absent), and a note that they are generated. The same seed gives the same bytes.
///
/// # Errors
/// [`DataError::Exists`] when one of them is there, [`DataError::Io`] and [`DataError::LevelDb`]
/// when the disk refuses.
pub fn write_synthetic(
    output: &Path,
    train: u64,
    test: u64,
    seed: u64,
) -> Result<[Converted; 2], DataError> {
    fs::create_dir_all(output).map_err(|source| DataError::io("create", output, source))?;
    let train = write_set(output, "train", train, seed)?;
    let test = write_set(output, "test", test, seed)?;
    let note = output.join("GENERATED.txt");
    fs::write(&note, NOTE).map_err(|source| DataError::io("write", &note, source))?;
    Ok([train, test])
}

fn write_set(output: &Path, set: &str, n: u64, seed: u64) -> Result<Converted, DataError> {
    let path = output.join(format!("cifar10_{set}_leveldb"));
    let mut writer = Writer::create(&path)?;
    let mut value = Vec::new();
    for index in 0..n {
        let (pixels, label) = draw(seed, set, index);
        encode_bytes(CIFAR_SHAPE, pixels.into(), label as i32, &mut value);
        writer.put(format!("{index:05}").as_bytes(), &value)?;
    }
    Ok(Converted { path, records: writer.finish()? })
}

/// What is drawn: all that is random about an image but its noise.
struct Scene {
    shape: u64,
    striped: bool,
    centre: [f64; 2],
    radius: f64,
    angle: f64,
    /// Pixels from stripe to stripe.
    period: f64,
    /// Colours of surface, stripes and background, 0 to 255.
    colours: [[f64; 3]; 3],
    /// Change of the background's brightness over the width and the height.
    gradient: [f64; 2],
}

/// The image `index` of a set ("train", "test"): three planes of bytes, and its class.
fn draw(seed: u64, set: &str, index: u64) -> (Vec<u8>, u64) {
    let mut random = Philox::new(seed, stream_id(set).wrapping_add(index)).sequence();
    let label = random.below(CLASSES);
    let scene = Scene::new(label, &mut random);
    let mut pixels = vec![0; CIFAR_RECORD - 1];
    for place in 0..PLANE {
        let colour = scene.colour((place % SIDE) as f64, (place / SIDE) as f64);
        for (channel, value) in colour.into_iter().enumerate() {
            let noisy = value + NOISE * random.normal();
            pixels[channel * PLANE + place] = noisy.round().clamp(0.0, 255.0) as u8;
        }
    }
    (pixels, label)
}

impl Scene {
    fn new(label: u64, random: &mut Sequence) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * random.uniform_f64();
        let radius = between(8.0, 13.0);
        let mut centre = || between(radius * 0.8, SIDE as f64 - radius * 0.8);
        let centre = [centre(), centre()];
        let mut colour = || [between(0.0, 255.0), between(0.0, 255.0), between(0.0, 255.0)];
        // Neighbouring surfaces must differ enough to be told apart.
        let background = colour();
        let mut unlike = |others: &[[f64; 3]]| loop {
            let new = colour();
            if others.iter().all(|other| distance(&new, other) > 130.0) {
                return new;
            }
        };
        let surface = unlike(&[background]);
        let stripes = unlike(&[surface]);
        Self {
            shape: label / 2,
            striped: label % 2 == 1,
            centre,
            radius,
            angle: between(0.0, std::f64::consts::TAU),
            period: between(4.0, 6.0),
            colours: [surface, stripes, background],
            gradient: [between(-60.0, 60.0), between(-60.0, 60.0)],
        }
    }

    fn colour(&self, x: f64, y: f64) -> [f64; 3] {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let (sine, cosine) = self.angle.sin_cos();
        let (u, v) = (dx * cosine + dy * sine, dy * cosine - dx * sine);
        let [surface, stripes, background] = self.colours;
        if !self.covers(u / self.radius, v / self.radius) {
            let [across, down] = self.gradient;
            let light = across * (x / SIDE as f64 - 0.5) + down * (y / SIDE as f64 - 0.5);
            return background.map(|value| value + light);
        }
        let on_stripe = self.striped && (u / self.period).rem_euclid(1.0) < 0.5;
        if on_stripe { stripes } else { surface }
    }

    /// Whether the shape, drawn with radius 1 around the origin, covers a point.
    fn covers(&self, u: f64, v: f64) -> bool {
        let r = u.hypot(v);
        match self.shape {
            0 => r < 0.9,
            1 => u.abs().max(v.abs()) < 0.75,
            // An equilateral triangle: inside of three lines at 120°.
            2 => v < 0.5 && (0.75_f64.sqrt() * u).abs() - 0.5 * v < 0.5,
            3 => u.abs().min(v.abs()) < 0.28 && u.abs().max(v.abs()) < 1.0,
            _ => (0.5..1.0).contains(&r),
        }
    }
}

fn distance(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_sets_differ() {
        assert_eq!(draw(1, "train", 7), draw(1, "train", 7));
        assert_ne!(draw(1, "train", 7), draw(1, "test", 7));
        assert_ne!(draw(1, "train", 7), draw(2, "train", 7));
        assert_ne!(draw(1, "train", 7), draw(1, "train", 8));
    }

    #[test]
    fn all_classes_come_and_the_mean_image_does_not_tell_them_apart() {
        let mut means = vec![vec![0.0f64; 3 * PLANE]; CLASSES as usize];
        let mut counts = [0.0; CLASSES as usize];
        for index in 0..4_000 {
            let (pixels, label) = draw(3, "train", index);
            counts[label as usize] += 1.0;
            for (sum, pixel) in means[label as usize].iter_mut().zip(pixels) {
                *sum += f64::from(pixel);
            }
        }
        assert!(counts.iter().all(|&count| (320.0..480.0).contains(&count)), "{counts:?}");
        let mut right = 0;
        let tests = 1_000;
        for index in 0..tests {
            let (pixels, label) = draw(3, "test", index);
            let error = |class: usize| -> f64 {
                let mean = means[class].iter().map(|sum| sum / counts[class]);
                pixels.iter().zip(mean).map(|(&p, m)| (f64::from(p) - m).powi(2)).sum()
            };
            let best = (0..10).min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
            right += u64::from(best as u64 == label);
        }
        assert!(right < tests / 4, "the nearest mean image is right {right} times in {tests}");
    }
}
