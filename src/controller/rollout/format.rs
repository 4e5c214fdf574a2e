//! Which format a bundle is written in: the newest that every pod reads, so that an upgrade of the operator, and
//! the way back, never leaves a pod with a bundle it cannot read. Pure.

use std::collections::HashMap;

use super::Pod;
use crate::bundle::Ack;

/// `writes` are the formats that this controller writes, the newest last; `published` is the one in force. A pod
/// that has not said anything reads what is in force, as far as we know.
pub fn format(writes: &[u32], published: Option<u32>, pods: &[Pod], acks: &HashMap<String, Ack>) -> u32 {
    let newest = *writes.last().expect("there is a format to write");
    let reads = |pod: &Pod, format: u32| match acks.get(&pod.uid) {
        Some(ack) => ack.formats.contains(&format),
        // Starting: it may never say anything, and must hold nobody up.
        None => !pod.counts() || published.is_none_or(|published| published == format),
    };
    let all = |format: &&u32| pods.iter().filter(|pod| !pod.terminating).all(|pod| reads(pod, **format));
    match writes.iter().rev().find(all) {
        Some(format) => *format,
        // No format suits all: those that serve decide, and the others say FormatTooNew.
        None => {
            let serving = |format: &&u32| {
                pods.iter().filter(|pod| !pod.terminating && pod.counts()).all(|pod| reads(pod, **format))
            };
            let in_force = published.filter(|published| writes.contains(published));
            writes.iter().rev().find(serving).copied().or(in_force).unwrap_or(newest)
        }
    }
}

#[cfg(test)]
mod tests;
