//! Time per layer and per layer type: of each layer the best of all steps, as other work on the
//! machine only adds.

use std::collections::BTreeMap;
use std::fmt::Write;

use caffe::Result;
use caffe::net::{Net, Node, Pass, Watch};
use caffe::params::ParamArena;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::Bench;

/// Which seconds are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Those on the wall.
    Wall,
    /// Those that each of so many threads worked: right on a busy machine, too, as long as threads
    /// sleep when they wait.
    Worked(usize),
}

impl Count {
    fn now(self) -> f64 {
        let (clock, threads) = match self {
            Count::Wall => (ClockId::Monotonic, 1),
            Count::Worked(threads) => (ClockId::ProcessCPUTime, threads),
        };
        let now = clock_gettime(clock);
        (now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9) / threads as f64
    }
}

/// Least seconds of every layer and direction.
struct Clock {
    count: Count,
    start: f64,
    seconds: Vec<[f64; 2]>,
}

impl Watch for Clock {
    fn before(&mut self, _pass: Pass, _index: usize) {
        self.start = self.count.now();
    }

    fn after(&mut self, pass: Pass, index: usize, _params: &mut ParamArena) -> Result<()> {
        let now = self.count.now();
        let least = &mut self.seconds[index][usize::from(pass == Pass::Backward)];
        *least = least.min(now - self.start);
        // Layers without a backward pass are only told to have ended.
        self.start = now;
        Ok(())
    }
}

/// One row.
#[derive(Clone, Default)]
struct Row {
    ms: [f64; 2],
    gflop: [f64; 2],
}

impl Row {
    fn total(&self) -> f64 {
        self.ms[0] + self.ms[1]
    }

    fn add(&mut self, other: &Row) {
        for i in 0..2 {
            self.ms[i] += other.ms[i];
            self.gflop[i] += other.gflop[i];
        }
    }

    fn print(&self, name: &str, note: &str) -> String {
        let rate = |i: usize| match self.gflop[i] {
            0.0 => String::new(),
            gflop => format!("{:.0}", gflop / self.ms[i] * 1e3),
        };
        format!(
            "{name:34} {:9.3} {:9.3} {:9.3} {:>7} {:>7}  {note}",
            self.ms[0],
            self.ms[1],
            self.total(),
            rate(0),
            rate(1)
        )
    }
}

/// The table, and per type what a result file holds, from `steps` steps.
pub fn measure(
    bench: &mut Bench,
    count: Count,
    steps: usize,
    layers: bool,
) -> Result<(String, Value)> {
    let layer_count = bench.solver.train_net().layers().len();
    let mut clock = Clock { count, start: count.now(), seconds: vec![[f64::MAX; 2]; layer_count] };
    let mut step_s = f64::MAX;
    for _ in 0..steps {
        let start = count.now();
        bench.step(&mut clock)?;
        step_s = step_s.min(count.now() - start);
    }
    let net = bench.solver.train_net();
    let rows: Vec<Row> = net
        .layers()
        .iter()
        .zip(&clock.seconds)
        .map(|(node, seconds)| Row { ms: seconds.map(|s| s * 1e3), gflop: gflop(net, node) })
        .collect();
    let mut text = format!(
        "{:34} {:>9} {:>9} {:>9} {:>7} {:>7}\n",
        "ms", "forward", "backward", "both", "GF/s", "GF/s"
    );
    let mut types: BTreeMap<&str, Row> = BTreeMap::new();
    for (node, row) in net.layers().iter().zip(&rows) {
        types.entry(node.def.type_name).or_default().add(row);
        if layers {
            let kernels: Vec<String> = node.kernels().into_iter().map(|k| k.1).collect();
            let _ = writeln!(text, "{}", row.print(node.name(), &kernels.join(" ")));
        }
    }
    let mut sorted: Vec<_> = types.into_iter().collect();
    sorted.sort_by(|a, b| b.1.total().total_cmp(&a.1.total()));
    for (name, row) in &sorted {
        let _ = writeln!(text, "{}", row.print(name, ""));
    }
    let inside: f64 = rows.iter().map(Row::total).sum();
    let _ = writeln!(
        text,
        "{:34} {:9} {:9} {:9.3}",
        "update and the rest",
        "",
        "",
        step_s * 1e3 - inside
    );
    let types = sorted
        .into_iter()
        .map(|(name, row)| {
            (name.to_owned(), json!({ "forward_ms": row.ms[0], "backward_ms": row.ms[1] }))
        })
        .collect();
    Ok((text, Value::Object(types)))
}

/// Operations of a layer's two directions, in units of 1e9; 0 for layers that move memory only.
fn gflop(net: &Net, node: &Node) -> [f64; 2] {
    if !["Convolution", "InnerProduct"].contains(&node.def.type_name) {
        return [0.0; 2];
    }
    let top = &net.store().blobs[node.top[0]].shape;
    let weights = &net.arena().params()[node.params[0]].shape;
    // Every element of the top is a sum over one row of the weights.
    let forward = 2.0 * top.count() as f64 * weights.count_from(1) as f64 / 1e9;
    let wanted = [node.propagate_down[0], node.param_needs_diff[0]];
    [forward, forward * wanted.iter().filter(|w| **w).count() as f64]
}
