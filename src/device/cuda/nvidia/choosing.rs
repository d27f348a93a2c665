//! Which of cuDNN's algorithms a correlation gets: the one that a table says, else the fastest within the
//! limit of working memory, found by trying them all; exactly: by number, without trying.

use std::time::Instant;

use cudarc::cudnn::sys;

use super::algorithm::{ARITHMETIC, Algorithm, Offer};
use super::convolution::{Choice, Convolutions, convolution, release};
use super::{Kind, Math, WORKSPACE};
use crate::device::cuda::algorithms::{Direction, Record, Settled, Table, Wanted};
use crate::device::cuda::backend::Correlation;
use crate::{Error, Result};

impl Convolutions {
    /// The shape's place and its algorithm for one direction, found when it is first asked for.
    pub(super) fn choose<A: Algorithm>(
        &mut self,
        shape: &Correlation,
        kind: Kind,
    ) -> Result<(usize, Choice<A>)> {
        let place = self.place(shape, kind)?;
        match *A::slot(&mut self.shapes[place].2) {
            Some(choice) => Ok((place, choice)),
            None => Ok((place, self.found::<A>(place)?.1)),
        }
    }

    /// The fastest algorithm, as measured now. Exactly: of those whose sums come out the same each time
    /// the one with the lowest number, as times differ from run to run and from rank to rank.
    fn found<A: Algorithm>(&mut self, place: usize) -> Result<(Offer<A>, Choice<A>)> {
        let exact = self.exact;
        let (shape, kind, of) = &mut self.shapes[place];
        let math = math_type(self.table.of.math, *kind);
        let trial = convolution(shape, math)?;
        // SAFETY: both are alive as long as this object is, or until `release`.
        let offers = unsafe { A::offers(self.handle, of, trial, !exact) };
        // A guess may name an algorithm that does not work.
        let works = |offer: &Offer<A>| {
            // SAFETY: as above.
            let bytes = unsafe { offer.algorithm.workspace(self.handle, of, trial) }.ok()?;
            (bytes <= WORKSPACE).then_some(Offer { bytes, ..*offer })
        };
        let best = offers.map(|offers| match exact {
            false => offers.into_iter().next(),
            true => {
                let repeats = offers.iter().filter(|offer| offer.repeats).filter_map(works);
                repeats.min_by_key(|offer| offer.algorithm.number())
            }
        });
        release(trial);
        let best = best?.ok_or_else(|| {
            Error::Invalid(format!(
                "cuDNN has no {}algorithm for the {} of {shape:?} within {} MB",
                if exact { "exact " } else { "" },
                A::DIRECTION.name(),
                WORKSPACE >> 20
            ))
        })?;
        // Whatever cuDNN says that it took: without TF32 means without.
        let fma = sys::cudnnMathType_t::CUDNN_FMA_MATH;
        let arithmetic = if math == fma { fma } else { best.arithmetic };
        let Offer { algorithm, bytes, .. } = best;
        let choice = Choice { algorithm, bytes, convolution: convolution(shape, arithmetic)? };
        *A::slot(of) = Some(choice);
        Ok((Offer { arithmetic, ..best }, choice))
    }

    /// Settles the algorithms of all these, and adds them to the table. Exactly there is nothing to settle.
    pub(super) fn settle(&mut self, wanted: &[Wanted], recorded: &[Record]) -> Result<Settled> {
        let (begun, mut settled) = (Instant::now(), Settled::default());
        if self.exact {
            return Ok(settled);
        }
        for one in wanted {
            let record = recorded.iter().find(|record| record.wanted == *one);
            let settle = match one.direction {
                Direction::Forward => Self::settle_one::<sys::cudnnConvolutionFwdAlgo_t>,
                Direction::Back => Self::settle_one::<sys::cudnnConvolutionBwdDataAlgo_t>,
                Direction::Weights => Self::settle_one::<sys::cudnnConvolutionBwdFilterAlgo_t>,
            };
            settle(self, one, record, &mut settled)?;
        }
        settled.took = begun.elapsed();
        Ok(settled)
    }

    fn settle_one<A: Algorithm>(
        &mut self,
        wanted: &Wanted,
        record: Option<&Record>,
        settled: &mut Settled,
    ) -> Result<()> {
        let place = self.place(&wanted.shape, wanted.kind)?;
        if A::slot(&mut self.shapes[place].2).is_some() {
            return Ok(());
        }
        if let Some(record) = record {
            match self.again::<A>(place, record) {
                Ok(bytes) => {
                    settled.recorded += 1;
                    let bytes = bytes as u64;
                    self.table.records.push(Record { bytes, ..record.clone() });
                    return Ok(());
                }
                Err(why) => settled.refused.push(format!(
                    "the recorded algorithm {} for {wanted} does not serve and is measured anew: {why}",
                    record.algorithm
                )),
            }
        }
        let (offer, _) = self.found::<A>(place)?;
        settled.measured += 1;
        self.table.records.push(Record {
            wanted: wanted.clone(),
            algorithm: offer.algorithm.number(),
            arithmetic: offer.arithmetic as u32,
            bytes: offer.bytes as u64,
            ms: offer.ms,
        });
        Ok(())
    }

    /// Takes a recorded algorithm, if it works here: bytes of its working memory, or why it does not.
    fn again<A: Algorithm>(&mut self, place: usize, record: &Record) -> Result<usize, String> {
        let (shape, _, of) = &mut self.shapes[place];
        let mut algorithms = A::ALL.iter().copied();
        let mut arithmetics = ARITHMETIC.into_iter();
        let (Some(algorithm), Some(arithmetic)) = (
            algorithms.find(|algorithm| algorithm.number() == record.algorithm),
            arithmetics.find(|arithmetic| *arithmetic as u32 == record.arithmetic),
        ) else {
            return Err("cuDNN has none of this number".into());
        };
        let convolution = convolution(shape, arithmetic).map_err(|error| error.to_string())?;
        // SAFETY: both are alive.
        let bytes = match unsafe { algorithm.workspace(self.handle, of, convolution) } {
            Ok(bytes) if bytes <= WORKSPACE => bytes,
            refused => {
                release(convolution);
                return Err(match refused {
                    Ok(bytes) => format!("it works in {} MB of {}", bytes >> 20, WORKSPACE >> 20),
                    Err(error) => format!("{:?}", error.0),
                });
            }
        };
        *A::slot(of) = Some(Choice { algorithm, bytes, convolution });
        Ok(bytes)
    }

    /// What was settled; `None` where no time decides.
    pub(super) fn table(&self) -> Option<Table> {
        (!self.exact).then(|| self.table.clone())
    }
}

/// The arithmetic to try with: what cuDNN then finds may be stricter.
fn math_type(math: Math, kind: Kind) -> sys::cudnnMathType_t {
    match (kind, math) {
        (Kind::Bf16 | Kind::F16, _) => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        (Kind::F32, Math::Tf32) => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        (Kind::F32, _) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
    }
}
