//! What an emulated device knows of its net: the plan of its parameters, and when in an iteration
//! each bucket is complete. No weights, no blobs.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use caffe_actors::{Digest, Plan};
use caffe_proto::{BlobShape, InputParameter, LayerParameter};

use super::DeviceSpec;
use crate::data::readers::{batch_size_mut, reads_records};
use crate::net::{Net, NetOptions};
use crate::solver::NetPlan;
use crate::tools::profile::Profile;
use crate::trainer::buckets;
use crate::{Result, ensure};

/// A net's parameters and its iteration's course, in undilated seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// Name of the net.
    pub net: String,
    /// What the times come from.
    pub source: String,
    /// Length of the flat parameter vector, in floats.
    pub params: usize,
    /// As in the plan of a real replica.
    pub buckets: Vec<Range<usize>>,
    /// End of the forward pass.
    pub forward: f64,
    /// When backward has completed each bucket.
    pub ready: Vec<f64>,
    /// End of the backward pass.
    pub total: f64,
}

impl Blueprint {
    /// Builds the net once, to look at it. Layers that read records need no database where their
    /// crop_size tells the size of a record.
    ///
    /// # Errors
    /// A net that cannot be built; a profile of another net.
    pub fn new(plan: &NetPlan, device: &DeviceSpec) -> Result<Blueprint> {
        let mut param = plan.param.clone();
        param.layer.iter_mut().for_each(without_database);
        let state = plan.state.clone();
        let options = NetOptions { exact: true, ..NetOptions::new(state.phase()) };
        let net = Net::new(&param, &plan.origin, &NetOptions { state, ..options })?;
        let profile = match &device.profile {
            Some(path) => Profile::read(path)?,
            None => Profile::estimated(&net),
        };
        let profile = match device.total {
            Some(total) => profile.scaled(1e3 * total.as_secs_f64()),
            None => profile,
        };
        Blueprint::of(&net, &profile)
    }

    /// Lays a profile's times along the net's layers.
    ///
    /// # Errors
    /// A layer with parameters that the profile does not name.
    pub fn of(net: &Net, profile: &Profile) -> Result<Blueprint> {
        let named: HashMap<&str, [f64; 2]> = profile
            .layers
            .iter()
            .map(|l| (l.name.as_str(), [l.forward_ms, l.backward_ms].map(|ms| 1e-3 * ms)))
            .collect();
        let mut times = Vec::new();
        for node in net.layers() {
            let known = named.get(node.name()).copied();
            ensure!(
                known.is_some() || node.params.is_empty(),
                "the profile of net `{}` has no layer `{}`, which net `{}` has",
                profile.net,
                node.name(),
                net.name()
            );
            times.push(known.unwrap_or_default());
        }
        let cut = buckets::cut(net);
        let forward: f64 = times.iter().map(|t| t[0]).sum();
        let mut now = forward;
        let mut ready = Vec::new();
        for (index, time) in times.iter().enumerate().rev() {
            now += time[1];
            while cut.get(ready.len()).is_some_and(|bucket| bucket.layer >= index) {
                ready.push(now);
            }
        }
        Ok(Blueprint {
            net: net.name().to_owned(),
            source: profile.machine.clone(),
            params: net.arena().learnable_len(),
            buckets: cut.into_iter().map(|bucket| bucket.range).collect(),
            forward,
            ready,
            total: now,
        })
    }

    /// Bytes of all buckets.
    pub fn bytes(&self) -> usize {
        self.buckets.iter().map(|b| b.len() * size_of::<f32>()).sum()
    }

    /// The plan of a replica of this net.
    pub(super) fn plan(&self) -> Plan {
        let mut digest = Digest::default();
        (self.params, &self.buckets).hash(&mut digest);
        Plan {
            params: self.params,
            buckets: self.buckets.clone(),
            statistics: 0,
            history: 0,
            train_outputs: 0,
            test_outputs: Vec::new(),
            hash: digest.finish(),
        }
    }
}

/// Makes an input of a layer that reads square images whose size its crop_size tells.
fn without_database(layer: &mut LayerParameter) {
    let crop = layer.transform_param.as_ref().map_or(0, |t| t.crop_size());
    let batch = batch_size_mut(layer).map_or(0, |batch| *batch);
    if !reads_records(layer.r#type()) || crop == 0 || batch == 0 {
        return;
    }
    let [batch, crop] = [batch, crop].map(i64::from);
    let shapes = [vec![batch, 3, crop, crop], vec![batch]].map(|dim| BlobShape { dim });
    let shape = shapes.into_iter().take(layer.top.len()).collect();
    *layer = LayerParameter {
        name: layer.name.clone(),
        r#type: Some("Input".into()),
        top: layer.top.clone(),
        include: layer.include.clone(),
        exclude: layer.exclude.clone(),
        input_param: Some(Box::new(InputParameter { shape })),
        ..LayerParameter::default()
    };
}
