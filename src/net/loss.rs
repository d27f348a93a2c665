//! The loss of a pass: summed on a device where the net computes on one, and looked at when somebody asks.

use super::Net;
use crate::blob::BlobId;
use crate::device::Run;
use crate::device::cuda::source::Source;
use crate::device::cuda::{CudaRun, Kind};
use crate::{Result, bail};

/// A loss's sum, and its first gradient.
pub static KERNELS: Source = Source {
    name: "net_loss",
    text: r#"
// loss = (loss if accumulate) + weight * the sum of a top: one block.
extern "C" __global__ void add_loss(int64 n, const float* top, int64 floats, float weight,
                                    float* loss, int accumulate) {
  float sum = 0.0f;
  for (int64 i = threadIdx.x; i < floats; i += BLOCK) sum += top[i];
  sum = block_sum(sum);
  if (blockIdx.x == 0 && threadIdx.x == 0) put_sum(loss, weight * sum, accumulate);
}
// The gradient of the loss by a top is the top's weight, times the scale.
extern "C" __global__ void seed_loss(int64 n, float* diff, float weight, const Step* step) {
  KERNEL_LOOP(i, n) { diff[i] = weight * step->loss_scale; }
}
"#,
    functions: &["add_loss", "seed_loss"],
};

/// What is known of a net's loss.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// The value that was seen last, or, on the host, the sum so far.
    value: f32,
    /// How many tops have been added on the device in this pass.
    added: usize,
    /// Whether the device has a newer one.
    away: bool,
}

impl Net {
    /// The loss of the last forward pass that somebody has looked at.
    pub fn loss(&self) -> f32 {
        self.loss.value
    }

    /// The loss of the last forward pass; waits for a device that was asked to report it, or asks it.
    ///
    /// # Errors
    /// A device that failed.
    pub fn see_loss(&mut self) -> Result<f32> {
        if let (true, Some(cuda)) = (self.loss.away, self.run.cuda()) {
            let reported = cuda.report.get()?;
            self.loss.away = false;
            self.loss.value = if self.has_loss() { reported.loss } else { 0.0 };
            if reported.fault {
                self.explain()?;
            }
        }
        Ok(self.loss.value)
    }

    /// Finds the layer that has met something on the device that it cannot use.
    fn explain(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            self.with_layer(index, |layer, _, io| layer.explain(io))?;
        }
        bail!(
            "internal: a layer of net `{}` has met something that it does not find again",
            self.name
        )
    }

    /// A pass begins.
    pub(super) fn clear_loss(&mut self) -> Result<()> {
        self.loss = Loss::default();
        self.loss_changes();
        self.run.cuda().map_or(Ok(()), |cuda| cuda.report.clear_fault())
    }

    /// A pass has been asked for: whether there is anything to wait for.
    pub(super) fn loss_asked(&mut self) {
        self.loss.away =
            self.run.cuda().is_some_and(|cuda| cuda.report.judged() || self.has_loss());
    }

    /// Whether a device has something to report that nobody has looked at.
    pub(super) fn loss_is_away(&self) -> bool {
        self.loss.away
    }

    fn loss_changes(&self) {
        if let Some(cuda) = self.run.cuda() {
            cuda.report.changes();
        }
    }

    /// A pass has been asked for that was asked for before.
    pub(super) fn loss_again(&mut self) {
        self.loss = Loss::default();
        self.loss_changes();
        self.loss_asked();
    }

    /// Whether any top has a weight in the loss.
    pub(super) fn has_loss(&self) -> bool {
        self.nodes.iter().flat_map(|node| &node.loss_weight).any(|weight| *weight != 0.0)
    }

    /// Adds what a layer has computed of the loss.
    pub(super) fn add_loss(&mut self, index: usize) -> Result<()> {
        for j in 0..self.nodes[index].top.len() {
            let weight = self.nodes[index].loss_weight[j];
            if weight == 0.0 {
                continue;
            }
            let id = self.nodes[index].top[j];
            match self.run {
                Run::Cpu(_) => self.loss.value += weight * self.data(id)?.iter().sum::<f32>(),
                Run::Cuda(_) => self.add_loss_on_device(id, weight)?,
            }
        }
        Ok(())
    }

    fn add_loss_on_device(&mut self, id: BlobId, weight: f32) -> Result<()> {
        self.now += 1;
        let Some(cuda) = self.run.cuda() else { return Ok(()) };
        let (blob, floats) = (&self.store.blobs[id], (&cuda.device, Kind::F32));
        let slab = &self.store.slabs[blob.data];
        let top = slab.read_on(floats, self.now, &blob.shape, cuda.host.threads)?;
        let args = [
            top.into(),
            blob.shape.count().into(),
            weight.into(),
            cuda.report.loss().into(),
            i32::from(self.loss.added > 0).into(),
        ];
        cuda.rows(&KERNELS, "add_loss", 1, &args)?;
        self.loss.added += 1;
        Ok(())
    }

    /// Gives every loss top its gradient.
    pub(super) fn seed_losses(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            for j in 0..self.nodes[index].top.len() {
                let (id, weight) = (self.nodes[index].top[j], self.nodes[index].loss_weight[j]);
                if weight == 0.0 {
                    continue;
                }
                self.now += 1;
                match &self.run {
                    Run::Cpu(_) => {
                        let slope = weight * self.loss_scale;
                        self.diff_mut(id)?.fill(slope);
                    }
                    Run::Cuda(cuda) => self.seed_on_device(cuda, id, weight)?,
                }
            }
        }
        Ok(())
    }

    fn seed_on_device(&self, cuda: &CudaRun, id: BlobId, weight: f32) -> Result<()> {
        let blob = &self.store.blobs[id];
        let slab = &self.store.slabs[blob.diff];
        let diff = slab.write_on((&cuda.device, Kind::F32), self.now, &blob.shape)?;
        let args = [diff.into(), weight.into(), cuda.record.at().into()];
        cuda.each(&KERNELS, "seed_loss", blob.shape.count(), &args)
    }
}
