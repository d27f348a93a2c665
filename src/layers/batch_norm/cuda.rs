//! BatchNorm on a CUDA device, alone or with the Scale and ReLU behind it in the same kernels: what they
//! read and write separately is three times as much.

use super::BatchNorm;
use super::kernels::KERNELS;
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::sums::{By, Sums};
use crate::layers::dims::Around;
use crate::layers::{Behind, CudaLayer, DeviceIo, Orders, Reals};

/// What the layer keeps on a device.
#[derive(Default)]
pub(super) struct OnDevice {
    /// Per channel: mean, inverse, and the means of two sums.
    channels: Scratch,
    /// In place: the normalized values, for the gradient.
    normal: Scratch,
    behind: Option<Behind>,
}

/// A pass's sizes, and its arrays for each channel.
struct Plan {
    channels: usize,
    /// Elements of a channel.
    count: usize,
    inner: Divisor,
    /// Whether elements of different channels lie side by side.
    columns: bool,
    at: Address,
}

impl Plan {
    /// Array `i`: mean, inverse, and the means of two sums.
    fn array(&self, i: usize) -> Arg {
        self.at.plus(i * self.channels).into()
    }

    /// Both means of a kernel's two sums over each channel.
    fn means(
        &self,
        cuda: &CudaRun,
        [by_block, by_thread]: [&'static str; 2],
        args: &[Arg],
    ) -> Result<()> {
        let factor = 1.0 / self.count.max(1) as f32;
        let to = Sums { at: self.at.plus(2 * self.channels), each: 2, factor, accumulate: false };
        let (function, by) =
            if self.columns { (by_thread, By::Thread) } else { (by_block, By::Block) };
        cuda.sums((&KERNELS, function, by), (self.channels, self.count), args, to)
    }
}

fn int(number: usize) -> Arg {
    Arg::Int(number as i32)
}

fn flag(there: bool) -> Arg {
    int(usize::from(there))
}

impl BatchNorm {
    fn plan(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<Plan> {
        let shape = io.bottom_shape(0);
        let around = match shape.axes() < 2 {
            true => Around { outer: shape.count(), extent: 1, inner: 1 },
            false => Around::on(io.order(), shape, 1..2),
        };
        let (channels, count) = (around.extent, around.outer * around.inner);
        let at = self.on_device.channels.room(&cuda.device, 4 * channels)?;
        let columns = around.inner == 1 && channels > 1;
        Ok(Plan { channels, count, inner: Divisor::new(around.inner), columns, at })
    }

    /// Scale and bias, and whether there are some, and a ReLU.
    fn behind(&self, io: &DeviceIo<'_>, plan: &Plan) -> Result<([Arg; 2], [Arg; 3])> {
        let Some(behind) = &self.on_device.behind else {
            return Ok(([plan.array(0); 2], [flag(false); 3]));
        };
        let scale = io.param_of(behind.scale)?;
        let bias = behind.bias.map(|id| io.param_of(id)).transpose()?;
        let flags = [true, bias.is_some(), behind.relu].map(flag);
        Ok(([scale.into(), bias.unwrap_or(scale).into()], flags))
    }

    /// Where the normalized values are kept, where the layer writes over what they are made of.
    fn kept(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<Option<Address>> {
        let used = !self.use_global_stats || self.on_device.behind.is_some();
        if !(used && io.in_place() && io.propagate_down(0)) {
            return Ok(None);
        }
        let floats = cuda.real.floats(io.bottom_shape(0).count());
        self.on_device.normal.room(&cuda.device, floats).map(Some)
    }

    /// Mean and 1 / deviation of each channel.
    fn moments(&self, cuda: &CudaRun, io: &DeviceIo<'_>, plan: &Plan, x: Address) -> Result<()> {
        let statistic = |i| if self.use_global_stats { io.param(i) } else { io.param_mut(i) };
        let running = [statistic(0)?, statistic(1)?, statistic(2)?].map(Arg::from);
        let [means, variances, weight] = running;
        let (mean, inverse) = (plan.array(0), plan.array(1));
        if self.use_global_stats {
            let args = [means, variances, weight, mean, inverse, self.eps.into()];
            return cuda.each(&KERNELS, "norm_recall", plan.channels, &args);
        }
        let (x, inner) = (Arg::from(x), Arg::from(plan.inner));
        plan.means(
            cuda,
            ["norm_measure", "norm_measure_columns"],
            &[x, plan.channels.into(), plan.count.into(), inner],
        )?;
        let args = [
            x,
            plan.array(2),
            mean,
            inverse,
            means,
            variances,
            weight,
            int(plan.count),
            inner,
            self.fraction.into(),
            self.eps.into(),
        ];
        cuda.each(&KERNELS, "norm_moments", plan.channels, &args)
    }

    /// The means over each channel of the gradients and of these times the normalized values; their sums
    /// into the gradients of what is behind.
    fn slopes(
        &self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        plan: &Plan,
        (dy, hat, keeps): (Address, Address, bool),
    ) -> Result<()> {
        let ([scale, bias], [scaled, biased, relu]) = self.behind(io, plan)?;
        let args = [
            dy.into(),
            hat.into(),
            plan.array(0),
            plan.array(1),
            scale,
            bias,
            plan.channels.into(),
            plan.count.into(),
            plan.inner.into(),
            flag(keeps),
            scaled,
            biased,
            relu,
        ];
        plan.means(cuda, ["norm_slopes", "norm_slopes_columns"], &args)?;
        let Some(behind) = &self.on_device.behind else { return Ok(()) };
        let means = plan.array(2);
        let (mut slopes, mut learns) = ([means; 2], [false; 2]);
        for (i, id) in [Some(behind.scale), behind.bias].into_iter().enumerate() {
            if let Some(id) = id.filter(|_| behind.learns[i]) {
                (slopes[i], learns[i]) = (io.param_diff_of(id)?.into(), true);
            }
        }
        if learns == [false; 2] {
            return Ok(());
        }
        let [scale_learns, bias_learns] = learns.map(flag);
        let args = [means, slopes[0], slopes[1], int(plan.count), scale_learns, bias_learns];
        cuda.each(&KERNELS, "norm_learn", plan.channels, &args)
    }
}

impl CudaLayer for BatchNorm {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let plan = self.plan(cuda, &io)?;
        let kept = self.kept(cuda, &io)?;
        let (x, y) = io.through()?;
        self.moments(cuda, &io, &plan, x)?;
        let ([scale, bias], [scaled, biased, relu]) = self.behind(&io, &plan)?;
        let args = [
            x.into(),
            y.into(),
            kept.unwrap_or(y).into(),
            plan.array(0),
            plan.array(1),
            scale,
            bias,
            Divisor::new(plan.channels).into(),
            plan.inner.into(),
            flag(kept.is_some()),
            scaled,
            biased,
            relu,
        ];
        cuda.packs_of_channels(&KERNELS, "norm_forward", io.bottom_shape(0).count(), &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let plan = self.plan(cuda, &io)?;
        let kept = self.kept(cuda, &io)?;
        let (dy, dx) = io.back_through()?;
        // Alone with fixed statistics it does not look at values at all.
        let hat = match kept {
            Some(kept) => kept,
            None if io.in_place() => dy,
            None => io.bottom(0)?,
        };
        if !self.use_global_stats || self.on_device.behind.is_some() {
            self.slopes(cuda, &io, &plan, (dy, hat, kept.is_some()))?;
        }
        let ([scale, bias], [scaled, biased, relu]) = self.behind(&io, &plan)?;
        let args = [
            dy.into(),
            hat.into(),
            dx.into(),
            plan.array(0),
            plan.array(1),
            scale,
            bias,
            plan.array(2),
            plan.array(3),
            Divisor::new(plan.channels).into(),
            plan.inner.into(),
            flag(kept.is_some()),
            scaled,
            biased,
            relu,
            flag(self.use_global_stats),
        ];
        cuda.packs_of_channels(&KERNELS, "norm_backward", io.bottom_shape(0).count(), &args)
    }

    fn take_scale(&mut self, behind: Behind) -> bool {
        self.on_device.behind = Some(behind);
        true
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}
