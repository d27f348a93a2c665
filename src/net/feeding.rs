//! Batches on their way into a net.
//!
//! On a device a batch is copied into one of two places, and the next one may be copied into the other
//! while the first is computed on.

use std::rc::Rc;

use super::Net;
use crate::Result;
use crate::data::Batch;
use crate::device::Run;
use crate::device::cuda::backend::{Backend, Event, Queue};
use crate::device::cuda::step_record::Now;
use crate::device::cuda::{CudaRun, Kind};
use crate::layers::CudaLayer;

/// The places.
#[derive(Default)]
pub(super) struct Places {
    /// Behind the last pass that used each.
    used: [Option<Event>; 2],
}

impl Net {
    /// Hands each data layer its next batch. Where images have another size than the last ones, the
    /// layers behind are reshaped.
    ///
    /// # Errors
    /// When a layer cannot take the new shapes; a device that failed.
    pub fn feed(&mut self, batches: &mut [Batch]) -> Result<()> {
        self.follow_batches(batches)?;
        for (&layer, batch) in self.data_layers.iter().zip(batches) {
            self.nodes[layer].layer.feed(batch);
        }
        if self.data_layers.is_empty() {
            return Ok(());
        }
        let Run::Cuda(cuda) = &mut self.run else { return Ok(()) };
        cuda.place = 1 - cuda.place;
        let place = cuda.place;
        self.wait_for_place(place)?;
        self.on_data_layers(|layer, cuda, _| layer.send(cuda, place))
    }

    /// Sends the batches to the device that the data layers will be fed next, beside the computation on those
    /// that they have been fed; without a device, or with images of another size, it does nothing.
    ///
    /// # Errors
    /// A device that failed.
    pub fn feed_ahead(&mut self, batches: &[Batch]) -> Result<()> {
        let Run::Cuda(cuda) = &self.run else { return Ok(()) };
        let place = 1 - cuda.place;
        let same = |(&layer, batch): (&usize, &Batch)| {
            let tops = self.nodes[layer].top.iter().zip(&batch.shapes);
            tops.into_iter().all(|(&top, dims)| self.store.blobs[top].shape.dims() == dims)
        };
        if batches.len() != self.data_layers.len()
            || !self.data_layers.iter().zip(batches).all(same)
        {
            return Ok(());
        }
        self.wait_for_place(place)?;
        self.on_data_layers(|layer, cuda, i| layer.send_ahead(cuda, &batches[i], place))
    }

    /// Lets copies wait until nobody computes on what is in a place.
    fn wait_for_place(&self, place: usize) -> Result<()> {
        match (self.run.cuda(), self.places.used[place]) {
            (Some(cuda), Some(used)) => cuda.device.follow(Queue::CopyIn, used),
            _ => Ok(()),
        }
    }

    fn on_data_layers(
        &mut self,
        mut call: impl FnMut(&mut dyn CudaLayer, &CudaRun, usize) -> Result<()>,
    ) -> Result<()> {
        for i in 0..self.data_layers.len() {
            let index = self.data_layers[i];
            if let (Some(layer), Some(cuda)) = (self.nodes[index].layer.cuda(), self.run.cuda()) {
                call(layer, cuda, i).map_err(|e| self.nodes[index].blame(e))?;
            }
        }
        Ok(())
    }

    /// What has been asked for is the last that uses the present batch's place.
    pub(super) fn free_place(&mut self) -> Result<()> {
        let Some(cuda) = self.run.cuda() else { return Ok(()) };
        let event = match self.places.used[cuda.place] {
            Some(event) => event,
            None => *self.places.used[cuda.place].insert(cuda.device.event()?),
        };
        cuda.device.set(event, Queue::Compute)
    }

    /// Gives a device what only the host has of parameters and inputs.
    pub(super) fn settle_values(&mut self, device: &Rc<dyn Backend>) -> Result<()> {
        self.params.settle_on(device)?;
        self.now += 1;
        for &id in &self.inputs {
            let blob = &self.store.blobs[id];
            let floats = (device, Kind::F32);
            let slab = &self.store.slabs[blob.data];
            slab.read_on(floats, self.now, &blob.shape, self.run.threads())?;
        }
        Ok(())
    }

    /// Tells a device what has changed since the last pass.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(cuda) = self.run.cuda() else { return Ok(()) };
        cuda.record.write(Now {
            first_record: cuda.host.step.first_record,
            loss_scale: self.loss_scale,
            place: cuda.place as u32,
        })
    }
}
