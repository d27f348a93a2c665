//! What a recurrent layer's blobs are, and whether they fit each other.

use caffe_proto::RecurrentParameter;

use crate::blob::Shape;
use crate::layers::dims;
use crate::{Result, ensure};

/// The names of the states that `expose_hidden` makes bottoms and tops.
pub type States = &'static [&'static str];

/// Sizes of sequences and states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// T: steps of each sequence in a pass.
    pub steps: usize,
    /// N: independent sequences.
    pub streams: usize,
    /// Elements of an input.
    pub inputs: usize,
    /// Elements of the input that is the same in every step, where there is one.
    pub fixed: Option<usize>,
    /// Elements of a state, `num_output`.
    pub hidden: usize,
    /// Whether states are bottoms and tops.
    pub exposed: bool,
}

impl Sizes {
    /// Reads the parameter, for a layer with these states.
    ///
    /// # Errors
    /// A missing `num_output`, `debug_info`, or other numbers of bottoms and tops than that makes.
    pub fn new(
        param: &RecurrentParameter,
        states: States,
        bottoms: &[Shape],
        tops: usize,
    ) -> Result<Sizes> {
        ensure!(param.num_output() > 0, "needs num_output, the length of its state");
        ensure!(
            !param.debug_info(),
            "remove debug_info: it prints the blobs of an unrolled net, and none is made here"
        );
        let exposed = if param.expose_hidden() { states } else { &[] };
        let also = match exposed {
            [] => String::new(),
            names => format!(", and {} because of expose_hidden", names.join(", ")),
        };
        ensure!(
            (2..=3).contains(&bottoms.len().wrapping_sub(exposed.len())),
            "takes the bottoms x and cont, or x, cont and an input that is the same in every step\
             {also}; the prototxt names {}",
            bottoms.len()
        );
        ensure!(
            tops == 1 + exposed.len(),
            "makes {} top(s): the outputs of all steps{also}; the prototxt names {tops}",
            1 + exposed.len()
        );
        let fixed = bottoms.len() > 2 + exposed.len();
        let hidden = param.num_output() as usize;
        let mut sizes = Sizes {
            hidden,
            exposed: param.expose_hidden(),
            fixed: fixed.then_some(0),
            ..Sizes::default()
        };
        sizes.measure(bottoms)?;
        Ok(sizes)
    }

    /// Takes the sizes of the bottoms.
    ///
    /// # Errors
    /// Bottoms that do not fit each other; the message names both shapes.
    pub fn measure(&mut self, bottoms: &[Shape]) -> Result<()> {
        let (x, cont) = (&bottoms[0], &bottoms[1]);
        ensure!(
            x.axes() >= 3 && x[0] > 0 && x[1] > 0,
            "needs inputs with axes T (steps), N (sequences) and further ones; their shape is {x}"
        );
        dims::expect("cont (bottom 1) against T and N of x", &Shape::from([x[0], x[1]]), cont)?;
        (self.steps, self.streams, self.inputs) = (x[0], x[1], x.count_from(2));
        if self.fixed.is_some() {
            let fixed = &bottoms[2];
            ensure!(
                fixed.axes() >= 2 && fixed[0] == x[1],
                "the input that is the same in every step (bottom 2) needs axes N ({} here, by x of \
                 shape {x}) and further ones; its shape is {fixed}",
                x[1]
            );
            self.fixed = Some(fixed.count_from(1));
        }
        let state = self.state();
        for (i, bottom) in bottoms.iter().enumerate().skip(self.first_state()) {
            dims::expect(&format!("bottom {i}, a state"), &state, bottom)?;
        }
        Ok(())
    }

    /// Checks that weights made for `old` sizes serve these, too.
    ///
    /// # Errors
    /// When inputs have another number of elements.
    pub fn expect_weights_of(&self, old: &Sizes, bottoms: &[Shape]) -> Result<()> {
        ensure!(
            self.inputs == old.inputs && self.fixed == old.fixed,
            "was set up for other inputs: {} elements instead of those of {}, {:?} instead of {:?} \
             for the input that is the same in every step",
            old.inputs,
            bottoms[0],
            old.fixed,
            self.fixed
        );
        Ok(())
    }

    /// Number of the first bottom that is a state.
    pub fn first_state(&self) -> usize {
        2 + usize::from(self.fixed.is_some())
    }

    /// Shape of a state as a blob.
    pub fn state(&self) -> Shape {
        Shape::from([1, self.streams, self.hidden])
    }

    /// Shapes of the tops.
    pub fn tops(&self, states: States) -> Vec<Shape> {
        let mut tops = vec![Shape::from([self.steps, self.streams, self.hidden])];
        if self.exposed {
            tops.extend(states.iter().map(|_| self.state()));
        }
        tops
    }

    /// Steps of all sequences together.
    pub fn rows(&self) -> usize {
        self.steps * self.streams
    }
}
