//! What tools say about a net without training it: its cost, its table, its picture, how it differs
//! from another; and what a run's log says.
//!
//! * [`cost`]: floating-point operations and bytes of a layer, the only place that counts them
//! * [`summary`]: the table of a net's layers, as text and JSON
//! * [`draw`]: the net as a graph in Graphviz's DOT language
//! * [`diff`]: what changed from one prototxt to another
//! * [`parse_log`]: the numbers in a training log
//! * [`chart`]: charts as SVG and PNG
//! * [`plot`]: the chart of one or several training logs
//! * [`plan`]: what a job of many nodes would do, from a model
//! * [`profile`]: how long each layer takes, as a file
//! * [`trace`]: what the traces of a run's ranks say
//!
//! Not here: the commands themselves; they are in [`cmd`](crate::cmd).

pub mod chart;
pub mod cost;
pub mod diff;
pub mod draw;
pub mod parse_log;
pub mod plan;
pub mod plot;
pub mod profile;
pub mod summary;
pub mod trace;
