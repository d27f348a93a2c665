//! Every fault of a net that can be told from its prototxt, where building it stops at the first.

use std::collections::HashSet;

use caffe_proto::NetParameter;

use super::build::Builder;
use super::select::select;
use super::split::insert_splits;
use super::{Net, NetOptions, Origin};
use crate::Error;

impl Net {
    /// Builds the net as [`Net::new`] does, but goes on behind a fault: layers that read what a faulty
    /// layer would have made are passed over, since whatever they said would be about its fault.
    ///
    /// # Errors
    /// All faults, in the order of the layers; at least one.
    pub fn survey(
        param: &NetParameter,
        origin: &Origin,
        options: &NetOptions,
    ) -> Result<Net, Vec<Error>> {
        let placed = select(param, &options.state).map_err(|e| vec![e])?;
        let mut builder = Builder::new(options, &placed).map_err(|e| vec![e])?;
        let mut faults = Vec::new();
        // Blobs of which nothing is known.
        let mut unknown: HashSet<String> = HashSet::new();
        for (index, layer) in insert_splits(placed).into_iter().enumerate() {
            let tops = layer.param.top.clone();
            if layer.param.bottom.iter().any(|bottom| unknown.contains(bottom)) {
                unknown.extend(tops);
            } else if let Err(fault) = builder.add_placed(index, layer, origin) {
                faults.push(fault);
                unknown.extend(tops);
            }
        }
        drop(builder);
        if faults.is_empty() {
            // What is left concerns the net as a whole: its memory, the weights that it brings.
            return Net::new(param, origin, options).map_err(|e| vec![e]);
        }
        Err(faults)
    }
}
