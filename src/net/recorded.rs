//! Passes that a device is asked for again and again: as graphs, one call instead of hundreds.
//!
//! Nothing is predicted. A pass is run layer by layer, and the device notes what it is asked for. When two
//! passes that began alike (the same shapes, values in the same places) have asked for the same, bit by bit,
//! graphs are made of it, and every later pass that begins like that is a launch of the graphs. Whatever
//! begins otherwise (images of another size, values that only the host has) is run layer by layer, as
//! before. What changes from pass to pass without changing what is asked for stands in the
//! [step record](crate::device::cuda::step_record).
//!
//! A [`Watch`] that wants to do something between layers (give a gradient away) cuts the pass into pieces.

use std::rc::Rc;

use super::{Net, Pass, Watch};
use crate::Result;
use crate::blob::Slab;
use crate::device::cuda::backend::Backend;
use crate::device::cuda::work::{Graph, Work};
use crate::params::Place;

/// Passes that are remembered: the first, middle and last of an iteration, and some that begin otherwise.
const TAKES: usize = 6;
/// Passes in succession that come to nothing, after which no more are noted.
const PATIENCE: u32 = 24;

/// Where everything is: what a pass begins with, or leaves behind.
#[derive(Clone, Debug)]
struct State {
    slabs: Vec<u8>,
    params: Vec<Place>,
    /// How many times shapes have changed.
    shapes: u64,
}

impl State {
    /// Whether a device that met both would do the same.
    fn alike(&self, other: &State) -> bool {
        let slabs = self.slabs.iter().zip(&other.slabs);
        let params = self.params.iter().zip(&other.params);
        self.shapes == other.shapes
            && slabs.into_iter().all(|(a, b)| Slab::alike(*a, *b))
            && params.into_iter().all(|(a, b)| a.alike(*b))
    }
}

/// What was asked for between two cuts, and what it left behind.
struct Asked {
    works: Vec<Work>,
    after: State,
}

/// A pass that is being noted.
pub(super) struct Taking {
    device: Rc<dyn Backend>,
    cuts: Vec<(Pass, usize)>,
    pieces: Vec<Asked>,
    /// Why it is of no use.
    spoilt: Option<&'static str>,
}

impl Taking {
    fn stop(&mut self, after: State) {
        match self.device.noted() {
            Ok(works) => self.pieces.push(Asked { works, after }),
            Err(why) => self.spoilt = Some(why),
        }
    }
}

/// A pass as it was asked for.
struct Take {
    before: State,
    /// The device's count of memory given back: addresses are good as long as it stands.
    frees: u64,
    cuts: Vec<(Pass, usize)>,
    form: Form,
}

/// What is known of a pass.
enum Form {
    /// It was asked for once.
    Once(Vec<Asked>),
    /// It is asked for as graphs; `None` where there is nothing to do between two cuts.
    Graphs(Vec<(Option<Box<dyn Graph>>, State)>),
}

/// All passes that are remembered.
#[derive(Default)]
pub(super) struct Recorder {
    on: bool,
    takes: Vec<Take>,
    /// Passes in succession that were noted in vain.
    vain: u32,
    about: Option<String>,
}

impl Recorder {
    /// Gives up when noting has come to nothing often enough.
    fn in_vain(&mut self, why: &str) {
        self.vain += 1;
        if self.vain >= PATIENCE {
            self.give_up(why);
        }
    }

    fn give_up(&mut self, why: &str) {
        let about = Some(format!("passes are no CUDA graphs: {why}"));
        *self = Recorder { about, ..Recorder::default() };
    }

    /// Keeps a pass that was noted: as graphs if the same has been `seen` before.
    fn remember(&mut self, taking: Taking, seen: Option<Take>, before: State, frees: u64) {
        let Taking { device, cuts, pieces, spoilt } = taking;
        let moves = (device.frees() != frees).then_some("memory is given back in every pass");
        if let Some(why) = spoilt.or(moves) {
            return self.in_vain(why);
        }
        let operations: usize = pieces.iter().map(|piece| piece.works.len()).sum();
        let form = match seen.map(|take| take.form) {
            Some(Form::Once(before)) if same(&before, &pieces) => match graphs(&*device, pieces) {
                Ok(graphs) => graphs,
                Err(error) => return self.give_up(&error.to_string()),
            },
            _ => Form::Once(pieces),
        };
        if let Form::Graphs(graphs) = &form {
            let form = match graphs.iter().filter(|(graph, _)| graph.is_some()).count() {
                1 => "a CUDA graph".into(),
                number => format!("{number} CUDA graphs"),
            };
            self.about = Some(format!("a pass is {form} of {operations} operations"));
            self.vain = 0;
        } else {
            self.in_vain("each asks for something else than the one before");
        }
        if self.takes.len() == TAKES {
            self.takes.remove(0);
        }
        self.takes.push(Take { before, frees, cuts, form });
    }
}

/// Whether two passes have asked for the same, and left the same behind.
fn same(a: &[Asked], b: &[Asked]) -> bool {
    let alike = |(a, b): (&Asked, &Asked)| a.works == b.works && a.after.alike(&b.after);
    a.len() == b.len() && a.iter().zip(b).all(alike)
}

fn graphs(device: &dyn Backend, pieces: Vec<Asked>) -> Result<Form> {
    let graph = |piece: Asked| {
        let graph = match piece.works.is_empty() {
            true => None,
            false => Some(device.graph(&piece.works)?),
        };
        Ok((graph, piece.after))
    };
    pieces.into_iter().map(graph).collect::<Result<_>>().map(Form::Graphs)
}

impl Net {
    /// Whether passes may become graphs on a device that has them. They do not until somebody says so.
    pub fn set_graphs(&mut self, on: bool) {
        self.recorder = Recorder { on, ..Recorder::default() };
    }

    /// Whether passes have become graphs, in words, or why not; `None` as long as that is open.
    pub fn about_graphs(&self) -> Option<&str> {
        self.recorder.about.as_deref()
    }

    /// Forward and backward, as graphs where that is known to be the same.
    pub(super) fn ask_pass(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let device = self.run.cuda().map(|cuda| cuda.device.clone());
        let cuts = if self.recorder.on { self.cuts(watch) } else { None };
        let (Some(device), Some(cuts)) = (device, cuts) else {
            return self.ask_layers(watch, None);
        };
        self.settle_values(&device)?;
        let (before, frees) = (self.state(), device.frees());
        let takes = &mut self.recorder.takes;
        takes.retain(|take| take.frees == frees);
        let known = takes.iter().position(|t| t.cuts == cuts && t.before.alike(&before));
        let seen = known.map(|index| takes.remove(index));
        if let Some(Take { form: Form::Graphs(graphs), .. }) = &seen {
            self.replay(graphs, &cuts, watch)?;
            self.recorder.takes.extend(seen);
            return Ok(());
        }
        let mut taking = Taking { device, cuts, pieces: Vec::new(), spoilt: None };
        taking.device.note();
        let asked = self.ask_layers(watch, Some(&mut taking));
        taking.stop(self.state());
        asked?;
        self.recorder.remember(taking, seen, before, frees);
        Ok(())
    }

    fn ask_layers(&mut self, watch: &mut dyn Watch, mut taking: Option<&mut Taking>) -> Result<()> {
        self.ask_forward(watch, taking.as_deref_mut())?;
        self.ask_backward(watch, taking)
    }

    /// After which layers somebody does something; `None`: somebody wants to see each.
    fn cuts(&self, watch: &dyn Watch) -> Option<Vec<(Pass, usize)>> {
        let layers = 0..self.nodes.len();
        let forward = layers.clone().map(|index| (Pass::Forward, index));
        let backward = layers.rev().map(|index| (Pass::Backward, index));
        let mut cuts = Vec::new();
        for (pass, index) in forward.chain(backward) {
            if watch.cuts(pass, index)? {
                cuts.push((pass, index));
            }
        }
        Some(cuts)
    }

    /// A layer has been asked for.
    pub(super) fn after_layer(
        &mut self,
        pass: Pass,
        index: usize,
        watch: &mut dyn Watch,
        taking: Option<&mut Taking>,
    ) -> Result<()> {
        let Some(taking) = taking.filter(|taking| taking.cuts.contains(&(pass, index))) else {
            return watch.after(pass, index, &mut self.params);
        };
        taking.stop(self.state());
        let done = watch.after(pass, index, &mut self.params);
        taking.device.note();
        done
    }

    fn replay(
        &mut self,
        graphs: &[(Option<Box<dyn Graph>>, State)],
        cuts: &[(Pass, usize)],
        watch: &mut dyn Watch,
    ) -> Result<()> {
        self.loss_again();
        let mut cuts = cuts.iter();
        for (graph, after) in graphs {
            graph.iter().try_for_each(|graph| graph.launch())?;
            self.put(after);
            if let Some(&(pass, index)) = cuts.next() {
                watch.after(pass, index, &mut self.params)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> State {
        let mut params = Vec::new();
        self.params.places(&mut params);
        let slabs = self.store.slabs.iter().map(Slab::places).collect();
        State { slabs, params, shapes: self.shapes_changed }
    }

    /// Takes it that everything is where it was `then`.
    fn put(&self, then: &State) {
        self.store.slabs.iter().zip(&then.slabs).for_each(|(slab, places)| slab.put(*places));
        self.params.put(&mut then.params.iter().copied());
    }
}
