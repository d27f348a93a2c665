//! What must be equal on all ranks, by hash: ranks that were given something else are refused by
//! name before the first iteration.

use std::hash::{Hash, Hasher};
use std::path::Path;

use caffe_actors::{Digest, Identity};

use super::job::Job;
use crate::data::identity;
use crate::{Error, Result};

impl Job {
    /// Solver, nets, weights, program and settings, by hash.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identities(&self) -> Result<Vec<Identity>> {
        let of = |what: &str, hash: u64| Identity { what: what.into(), hash };
        let (train, tests) = (&self.plans.train.param, &self.plans.test);
        let tests = tests.iter().map(|net| caffe_proto::text::print(&net.param));
        let files = self.weights.iter().chain(&self.snapshot);
        Ok(vec![
            of("the version", hashed(env!("CARGO_PKG_VERSION"))),
            of("the program (its executable file)", program()),
            of("the solver", hashed(caffe_proto::text::print(&self.solver))),
            of("the train net", hashed(caffe_proto::text::print(train))),
            of("the test nets", hashed(tests.collect::<Vec<_>>())),
            of("random_seed", self.seed),
            of("--exact", u64::from(self.exact)),
            of("--shuffle", u64::from(self.shuffle)),
            of("--on-nan", hashed(self.on_nan.to_string())),
            of("--loss-scale or --precision", hashed(self.loss_scale.to_string())),
            of(
                "the weights or snapshot to start from (--resume=auto needs a snapshot_prefix in a \
                folder that all ranks share)",
                self.of_files(files)?,
            ),
        ])
    }

    /// What the data layers read, by hash.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn data_identities(&self) -> Result<[Identity; 2]> {
        let of = |what: &str, hash: u64| Identity { what: what.into(), hash };
        let (train, tests) = self.data(1)?;
        let digest = |layers: &crate::solver::DataLayers| -> Result<u64> {
            let each = layers.layers.iter().map(|layer| Ok(identity::digest(layer)?));
            Ok(hashed(each.collect::<Result<Vec<_>>>()?))
        };
        let train = of("the train data", digest(&train)?);
        let tests = tests.iter().map(digest).collect::<Result<Vec<_>>>()?;
        Ok([train, of("the test data", hashed(tests))])
    }

    /// Content of weights, or of a state and what lies beside it.
    fn of_files<P: AsRef<Path>>(&self, files: impl Iterator<Item = P>) -> Result<u64> {
        let mut digest = Digest::default();
        self.resumed.iter.hash(&mut digest);
        if let Some(sums) = self.resumed.sidecar.as_ref().and_then(|s| s.sums) {
            (sums.model.crc, sums.state.crc).hash(&mut digest);
        }
        for path in files {
            let path = path.as_ref();
            let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
            crc32c::crc32c(&bytes).hash(&mut digest);
        }
        Ok(digest.finish())
    }
}

fn hashed(what: impl Hash) -> u64 {
    let mut digest = Digest::default();
    what.hash(&mut digest);
    digest.finish()
}

/// Hash of the running program; 0 where the system does not show it.
fn program() -> u64 {
    std::fs::read("/proc/self/exe").map_or(0, |bytes| u64::from(crc32c::crc32c(&bytes)))
}
