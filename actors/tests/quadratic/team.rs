//! Replicas of one node that add their gradients up among themselves, as devices with a link of their own do.

use std::sync::{Barrier, Mutex};

/// So many replicas of one node.
#[derive(Debug)]
pub struct Team {
    all: Barrier,
    parts: Mutex<Vec<Vec<f32>>>,
}

impl Team {
    pub fn new(replicas: usize) -> Team {
        Team { all: Barrier::new(replicas), parts: Mutex::new(vec![Vec::new(); replicas]) }
    }

    /// The sum, in the replicas' order, for the last of them; nothing for the others. All of them call this.
    pub fn sum<'a>(&self, local: usize, gradient: &'a mut [f32]) -> &'a [f32] {
        self.parts.lock().unwrap()[local] = gradient.to_vec();
        self.all.wait();
        let parts = self.parts.lock().unwrap().clone();
        // Nobody writes the next part before everybody has these.
        self.all.wait();
        if local + 1 < parts.len() {
            return &[];
        }
        for (i, sum) in gradient.iter_mut().enumerate() {
            *sum = parts.iter().skip(1).fold(parts[0][i], |sum, part| sum + part[i]);
        }
        gradient
    }
}
