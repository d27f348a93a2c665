//! Convolutions.

use std::ffi::c_int;

use super::algorithms::choices;
use super::{Fault, Library, Status, answer, bad, unsupported};
use crate::convolution::{Convolution, Direction};
use crate::places::get;
use crate::stream::Op;
use crate::world::World;

impl Library {
    /// Computes, when the stream comes to it.
    fn run(
        &self,
        world: &mut World,
        handle: u64,
        number: c_int,
        mut convolution: Convolution,
    ) -> Result<(), Fault> {
        let Convolution { direction, windows, tensors, workspace, .. } = &convolution;
        let stream = self.here(world, handle)?;
        let all = choices(*direction, windows, tensors);
        let known = all.iter().find(|choice| choice.number == number && choice.works);
        let Some(choice) = known else {
            return Err(unsupported(format!("algorithm {number} for {:?}", windows)));
        };
        if workspace.1 < choice.bytes {
            let why = format!("{} bytes of workspace for {}", workspace.1, choice.bytes);
            return Err(bad(why));
        }
        self.note(world, handle, &number.to_string(), *direction, windows, tensors)?;
        if !choice.repeats {
            convolution.alpha *= 1.0 + world.shake;
        }
        convolution.check(&world.memory).map_err(|fault| bad(fault.why))?;
        let work = move |world: &mut World| convolution.run(&world.memory);
        Ok(world.ask(stream, Op::new("a convolution of cuDNN's", work))?)
    }
}

/// What the three calls have in common: factors, the arrays' descriptions and places by name.
struct Call {
    direction: Direction,
    handle: u64,
    factors: [*const f32; 2],
    x: (u64, u64),
    w: (u64, u64),
    y: (u64, u64),
    windows: u64,
    number: c_int,
    workspace: (u64, usize),
}

fn compute(call: &str, of: Call) -> Status {
    answer(call, |world, library| {
        let (windows, tensors) = library.fitting([of.x.0, of.w.0, of.y.0], of.windows)?;
        let [alpha, beta] = of.factors;
        let convolution = Convolution {
            direction: of.direction,
            windows,
            tensors,
            at: [of.x.1, of.w.1, of.y.1],
            alpha: get(alpha)?,
            beta: get(beta)?,
            workspace: of.workspace,
        };
        library.run(world, of.handle, of.number, convolution)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnConvolutionForward(
    handle: u64,
    alpha: *const f32,
    x_of: u64,
    x: u64,
    w_of: u64,
    w: u64,
    windows: u64,
    number: c_int,
    workspace: u64,
    bytes: usize,
    beta: *const f32,
    y_of: u64,
    y: u64,
) -> Status {
    let (x, w, y, workspace) = ((x_of, x), (w_of, w), (y_of, y), (workspace, bytes));
    let (direction, factors) = (Direction::Forward, [alpha, beta]);
    let call = Call { direction, handle, factors, x, w, y, windows, number, workspace };
    compute("cudnnConvolutionForward", call)
}

#[unsafe(no_mangle)]
extern "C" fn cudnnConvolutionBackwardData(
    handle: u64,
    alpha: *const f32,
    w_of: u64,
    w: u64,
    y_of: u64,
    y: u64,
    windows: u64,
    number: c_int,
    workspace: u64,
    bytes: usize,
    beta: *const f32,
    x_of: u64,
    x: u64,
) -> Status {
    let (x, w, y, workspace) = ((x_of, x), (w_of, w), (y_of, y), (workspace, bytes));
    let (direction, factors) = (Direction::Data, [alpha, beta]);
    let call = Call { direction, handle, factors, x, w, y, windows, number, workspace };
    compute("cudnnConvolutionBackwardData", call)
}

#[unsafe(no_mangle)]
extern "C" fn cudnnConvolutionBackwardFilter(
    handle: u64,
    alpha: *const f32,
    x_of: u64,
    x: u64,
    y_of: u64,
    y: u64,
    windows: u64,
    number: c_int,
    workspace: u64,
    bytes: usize,
    beta: *const f32,
    w_of: u64,
    w: u64,
) -> Status {
    let (x, w, y, workspace) = ((x_of, x), (w_of, w), (y_of, y), (workspace, bytes));
    let (direction, factors) = (Direction::Filter, [alpha, beta]);
    let call = Call { direction, handle, factors, x, w, y, windows, number, workspace };
    compute("cudnnConvolutionBackwardFilter", call)
}
