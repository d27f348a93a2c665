//! The record sources of a solver's nets, read on the calling thread: for the bare loop.

use caffe_proto::{LayerParameter, Phase};

use super::nets::{NetPlan, NetPlans};
use crate::data::readers::{self, Records, batch_size_mut, reads_records};
use crate::data::{Batch, Reading};
use crate::net::is_included;
use crate::{Error, Result};

/// The data layers of one net, in net order.
#[derive(Clone, Debug)]
pub struct DataLayers {
    /// Phase of the net.
    pub phase: Phase,
    /// The layers' prototxt.
    pub layers: Vec<LayerParameter>,
}

impl DataLayers {
    /// The data layers of a net, in net order, without building it.
    ///
    /// # Errors
    /// A layer with contradictory include and exclude rules, or one that only a program can feed.
    pub fn of(plan: &NetPlan) -> Result<Self> {
        refuse_memory_data(plan)?;
        let mut layers = Vec::new();
        for layer in &plan.param.layer {
            if reads_records(layer.r#type()) && is_included(layer, &plan.state)? {
                layers.push(layer.clone());
            }
        }
        Ok(DataLayers { phase: plan.state.phase(), layers })
    }

    /// Records in a batch of the first data layer; 0 for a net without one.
    pub fn batch_size(&self) -> u64 {
        let first = self.layers.first().cloned();
        first.and_then(|mut layer| batch_size_mut(&mut layer).copied()).unwrap_or(0).into()
    }

    /// Kind and place of what the first layer reads, as in "LevelDB cifar10_train_leveldb".
    pub fn describe(&self) -> String {
        self.layers.first().map_or_else(|| "nothing".into(), readers::describe)
    }

    /// Opens their sources.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn open(&self, reading: Reading) -> Result<Source> {
        let open = |layer| readers::open(layer, self.phase, reading).map_err(Error::from);
        Ok(Source { layers: self.layers.iter().map(open).collect::<Result<_>>()? })
    }

    /// In what form records come to a device that transforms them, in a sentence for each layer that
    /// can be opened.
    pub fn forms(&self, seed: u64) -> Vec<String> {
        let reading = Reading { raw: true, ..Reading::new(seed) };
        let form = |layer: &LayerParameter| {
            let source = readers::open(layer, self.phase, reading).ok()?;
            Some(match source.is_raw() {
                true => format!(
                    "layer `{}`: records are bytes, transformed on the device",
                    layer.name()
                ),
                false => format!(
                    "layer `{}`: records come as floats, transformed by the reader: they are no whole \
                     images of bytes",
                    layer.name()
                ),
            })
        };
        self.layers.iter().filter_map(form).collect()
    }
}

/// A `MemoryData` layer gets its records from a program that uses this library; under a command it
/// would wait for ever.
fn refuse_memory_data(plan: &NetPlan) -> Result<()> {
    for (block, layer) in plan.param.layer.iter().enumerate() {
        if layer.r#type() == "MemoryData" && is_included(layer, &plan.state)? {
            return Err(Error::Layer {
                name: layer.name().to_owned(),
                type_name: layer.r#type().to_owned(),
                place: plan.origin.place(block),
                source: Box::new(Error::Invalid(
                    "nothing feeds this layer here: it takes records from a program that calls \
                     Net::set_memory_data; use a Data layer with a database instead"
                        .to_owned(),
                )),
            });
        }
    }
    Ok(())
}

/// Open sources of one net.
pub struct Source {
    layers: Vec<Box<dyn Records>>,
}

impl Source {
    /// Fills one batch per data layer.
    ///
    /// # Errors
    /// What a source reports.
    pub fn fill(&mut self, ticket: u64, batches: &mut Vec<Batch>) -> Result<()> {
        batches.resize_with(self.layers.len(), Batch::default);
        for (source, batch) in self.layers.iter_mut().zip(batches) {
            source.fill(ticket, batch)?;
        }
        Ok(())
    }

    /// Records in a batch of the first data layer; 0 for a net without one.
    pub fn batch_size(&self) -> u64 {
        self.layers.first().map_or(0, |s| s.batch_size() as u64)
    }

    /// Whether several threads would fill batches sooner than one.
    pub fn decodes(&self) -> bool {
        self.layers.iter().any(|s| s.decodes())
    }

    /// Bytes of one batch over all data layers.
    pub fn batch_bytes(&self) -> usize {
        self.layers.iter().map(|s| s.batch_bytes()).sum()
    }
}

/// The sources of a train net and its test nets.
pub struct Feeds {
    train: Source,
    tests: Vec<Source>,
    batches: Vec<Batch>,
}

impl Feeds {
    /// Opens the sources of all nets of a solver.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn open(nets: &NetPlans, reading: Reading) -> Result<Self> {
        let open = |plan: &NetPlan| DataLayers::of(plan)?.open(reading);
        Ok(Feeds {
            train: open(&nets.train)?,
            tests: nets.test.iter().map(open).collect::<Result<_>>()?,
            batches: Vec::new(),
        })
    }

    /// Position of a train ticket's first record.
    pub fn first_record(&self, ticket: u64) -> u64 {
        ticket * self.train.batch_size()
    }

    /// The batches of a train ticket.
    ///
    /// # Errors
    /// What a source reports.
    pub fn train(&mut self, ticket: u64) -> Result<&mut [Batch]> {
        self.train.fill(ticket, &mut self.batches)?;
        Ok(&mut self.batches)
    }

    /// Batch number `index` of a test net.
    ///
    /// # Errors
    /// What a source reports.
    pub fn test(&mut self, net: usize, index: u64) -> Result<&mut [Batch]> {
        self.tests[net].fill(index, &mut self.batches)?;
        Ok(&mut self.batches)
    }
}
