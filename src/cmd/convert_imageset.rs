//! `caffe convert_imageset`: image files named in a list become a database.

use std::path::PathBuf;

use crate::data::Backend;
use crate::data::convert::{Encoding, Imageset, ImagesetStep};
use crate::data::image::Format;
use crate::log::Log;
use crate::{Result, bail};

const EXAMPLES: &str = "\
Examples:
  caffe convert_imageset -resize_height=256 -resize_width=256 -shuffle data/train/ train.txt ilsvrc12_train_lmdb
  caffe convert_imageset -backend=leveldb -gray data/ list.txt db
  caffe convert_imageset -encoded -encode_type=jpg data/ list.txt db

ROOTFOLDER is put before each path of the list as it stands, so it ends with a slash. Lines are a
path, a space and a label. Images that cannot be read are named and left out.";

/// Convert images named in a list to a database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertImagesetArgs {
    /// Put before each path
    #[arg(value_name = "ROOTFOLDER/")]
    root: String,
    /// Paths and labels
    #[arg(value_name = "LISTFILE")]
    list: PathBuf,
    /// Database to make
    #[arg(value_name = "DB_NAME")]
    output: PathBuf,
    /// Treat images as grayscale ones
    #[arg(long)]
    gray: bool,
    /// Shuffle the order of images
    #[arg(long)]
    shuffle: bool,
    /// Seed of -shuffle
    #[arg(long, value_name = "N", default_value_t = 1701)]
    seed: u64,
    /// Kind of database: lmdb or leveldb
    #[arg(long, value_name = "DB_TYPE", default_value = "lmdb")]
    backend: Backend,
    /// Width images are resized to; 0: as they are
    #[arg(long = "resize_width", value_name = "N", default_value_t = 0)]
    resize_width: u16,
    /// Height images are resized to; 0: as they are
    #[arg(long = "resize_height", value_name = "N", default_value_t = 0)]
    resize_height: u16,
    /// Check that all images have the same size
    #[arg(long = "check_size")]
    check_size: bool,
    /// Store images compressed
    #[arg(long)]
    encoded: bool,
    /// Format of compressed images, png or jpg [default: what the file's name ends with]
    #[arg(
        long = "encode_type",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    encode_type: String,
}

impl ConvertImagesetArgs {
    /// Converts.
    ///
    /// # Errors
    /// A list that cannot be read, no image that could be read, sizes that differ with -check_size,
    /// output that exists or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let set = self.imageset()?;
        if self.shuffle {
            log.info("convert_imageset.cpp:78", "Shuffling data");
        }
        if !self.encode_type.is_empty() && !self.encoded {
            log.info("convert_imageset.cpp:84", "encode_type specified, assuming encoded=true.");
        }
        let mut left_out = 0;
        let written = set.convert(|step| match step {
            ImagesetStep::Listed(images) => {
                log.info("convert_imageset.cpp:81", format!("A total of {images} images."));
            }
            ImagesetStep::Written(files) => {
                log.info("convert_imageset.cpp:143", format!("Processed {files} files."));
            }
            ImagesetStep::LeftOut(error) => {
                left_out += 1;
                log.warning("io.cpp:80", format!("left out: {error}"));
            }
        })?;
        log.info("convert_imageset.cpp:149", format!("Processed {written} files."));
        if left_out > 0 {
            let text = format!("{left_out} images could not be read and are left out");
            log.warning("convert_imageset.cpp:149", text);
        }
        Ok(())
    }

    fn imageset(&self) -> Result<Imageset> {
        let size = match [self.resize_height, self.resize_width] {
            [0, 0] => None,
            [0, _] | [_, 0] => bail!("-resize_height and -resize_width go together; give both"),
            sides => Some(sides.map(usize::from)),
        };
        let encoding = match (self.encode_type.as_str(), self.encoded) {
            ("", false) => Encoding::None,
            ("", true) => Encoding::AsNamed,
            (name, _) => match Format::of_extension(name) {
                Some(format) => Encoding::As(format),
                None => bail!("-encode_type {name}: images are written as png or jpg"),
            },
        };
        Ok(Imageset {
            root: self.root.clone(),
            list: self.list.clone(),
            output: self.output.clone(),
            backend: self.backend,
            grey: self.gray,
            shuffle: self.shuffle.then_some(self.seed),
            size,
            check_size: self.check_size,
            encoding,
        })
    }
}
