//! What the last node to arrive at a collective makes of all nodes' loads.

use smallvec::SmallVec;

use crate::wire::{self, CHUNK, Pieces, Wire};

/// What a collective carries.
#[derive(Debug)]
pub(super) enum Load {
    Words(Vec<u64>),
    Floats(Vec<f32>),
    /// Data and rest of a rounded sum.
    Rounded(Vec<f32>, Vec<f32>),
}

/// Working memory of whoever arrives last.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    words: Vec<u64>,
    sent: Vec<u16>,
    received: Vec<u16>,
    all: Vec<u16>,
    sum: Vec<f32>,
}

/// Sums all loads in rank order and gives every rank the sum in its own buffer.
pub(super) fn sum(loads: &mut [Option<Load>], scratch: &mut Scratch) -> Result<(), String> {
    let (first, rest) = loads.split_at_mut(1);
    let Some(Some(Load::Floats(total))) = first.first_mut() else {
        return Err("rank 0 joined a sum with something else".into());
    };
    for load in &*rest {
        match load {
            Some(Load::Floats(data)) if data.len() == total.len() => {
                for (sum, value) in total.iter_mut().zip(data) {
                    *sum += value;
                }
            }
            _ => return Err("nodes joined one sum with buffers of different length".into()),
        }
    }
    spread(loads, scratch)
}

/// Sums all loads as ranks with a wire between them would.
pub(super) fn rounded_sum(
    wire: Wire,
    loads: &mut [Option<Load>],
    scratch: &mut Scratch,
) -> Result<(), String> {
    let mut parts: SmallVec<[(&mut [f32], &mut [f32]); 16]> = SmallVec::new();
    for load in loads {
        match load {
            Some(Load::Rounded(data, rest)) if data.len() == rest.len() => parts.push((data, rest)),
            _ => return Err("nodes joined one sum with buffers of different kinds".into()),
        }
    }
    let (nodes, len) = (parts.len(), parts[0].0.len());
    if parts.iter().any(|(data, _)| data.len() != len) {
        return Err("nodes joined one sum with buffers of different length".into());
    }
    let Scratch { sent, received, all, sum, .. } = scratch;
    for from in (0..len).step_by(CHUNK) {
        let chunk = from..(from + CHUNK).min(len);
        let pieces = Pieces { len: chunk.len(), nodes };
        let words = pieces.words();
        sent.resize(nodes * pieces.all_words(), 0);
        all.resize(pieces.all_words(), 0);
        for ((data, rest), sent) in parts.iter_mut().zip(sent.chunks_mut(pieces.all_words())) {
            let (data, rest) = (&data[chunk.clone()], &mut rest[chunk.clone()]);
            wire::spread(wire, data, rest, nodes, sent);
        }
        for (node, out) in all.chunks_mut(words).enumerate() {
            received.clear();
            for sent in sent.chunks(pieces.all_words()) {
                received.extend_from_slice(&sent[node * words..(node + 1) * words]);
            }
            let rest = &mut parts[node].1[chunk.clone()][pieces.of(node)];
            wire::combine(wire, received, rest, sum, out);
        }
        for (data, _) in &mut parts {
            wire::collect(wire, all, nodes, &mut data[chunk.clone()]);
        }
    }
    Ok(())
}

/// Copies rank 0's load into everybody's.
pub(super) fn spread(loads: &mut [Option<Load>], _: &mut Scratch) -> Result<(), String> {
    let (first, rest) = loads.split_at_mut(1);
    let Some(Some(Load::Floats(source))) = first.first() else {
        return Err("rank 0 joined a broadcast with something else".into());
    };
    for load in rest {
        match load {
            Some(Load::Floats(data)) if data.len() == source.len() => data.copy_from_slice(source),
            _ => return Err("nodes joined one broadcast with different lengths".into()),
        }
    }
    Ok(())
}

/// Gives every rank all ranks' words, in rank order, in its own buffer.
pub(super) fn gather(loads: &mut [Option<Load>], scratch: &mut Scratch) -> Result<(), String> {
    let all = &mut scratch.words;
    all.clear();
    for load in &*loads {
        match load {
            Some(Load::Words(words)) => all.extend_from_slice(words),
            _ => return Err("a node joined a header with something else".into()),
        }
    }
    for load in loads.iter_mut().flatten() {
        if let Load::Words(words) = load {
            words.clone_from(all);
        }
    }
    Ok(())
}
