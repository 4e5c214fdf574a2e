//! The sentences of conditions: what is so, and what to do about it.

use jiff::Timestamp;

use crate::bundle::document::{Gateway, ObjectId};
use crate::controller::rollout::{Arrival, Progress};

pub const NO_CLIENTS: &str =
    "no client may hand over mail yet; add the addresses of your mail servers to the OutboundGateway:
spec:
  clients:
    cidrs: [192.0.2.0/24]";

/// `2 networks, 1 user and holders of certificates`
pub fn clients(gateway: &Gateway) -> String {
    let some = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let kinds = [
        some(gateway.clients.len(), "network"),
        some(gateway.users.len(), "user"),
        gateway.mutual_tls.as_ref().map(|_| "holders of certificates".to_owned()),
    ];
    let mut kinds: Vec<String> = kinds.into_iter().flatten().collect();
    match (kinds.pop(), kinds.is_empty()) {
        (Some(last), false) => format!("{} and {last}", kinds.join(", ")),
        (last, _) => last.unwrap_or_else(|| "nobody".to_owned()),
    }
}

/// Why an object that is in force does nothing.
pub const DISABLED: &str = "disabled: nothing is done by it; ";
pub const UNUSED: &str = "not used: nothing names it; ";

/// Times as people compare them: to the millisecond.
pub fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// `3 of 3 pods since 2026-11-22T10:00:00.184Z, 143 ms after the change`
pub fn arrived(arrival: &Arrival, started: Timestamp, idle: Option<&str>) -> String {
    let Arrival { at, pods, not_counting } = arrival;
    let mut text =
        format!("{pods} of {pods} pods since {}, {} ms after the change", time(*at), arrival.after(started));
    if let Some(idle) = idle {
        text.insert_str(0, idle);
    }
    if !not_counting.is_empty() {
        text.push_str(&format!("; not serving: {}", list(not_counting.iter().map(String::as_str), 5)));
    }
    text
}

pub fn underway(progress: &Progress) -> String {
    let Progress { total, updated, stale, not_counting, .. } = progress;
    let missing = total.saturating_sub(*updated) as usize;
    let (waiting, idle) = stale.split_at(missing.min(stale.len()));
    let mut text =
        format!("{updated} of {total} pods; waiting for {}", list(waiting.iter().map(String::as_str), 5));
    if *not_counting > 0 && !idle.is_empty() {
        text.push_str(&format!("; not serving: {}", list(idle.iter().map(String::as_str), 5)));
    }
    text
}

pub fn nobody(progress: &Progress) -> String {
    match progress.stale.as_slice() {
        [] => "there is no pod yet".to_owned(),
        pods => format!("no pod is serving; not ready: {}", list(pods.iter().map(String::as_str), 5)),
    }
}

/// Which pod refused the revision, and why.
pub fn refused(progress: &Progress) -> Option<String> {
    let (pod, nack) = progress.refused.first()?;
    let reason = nack.reason.as_str();
    let mut text = format!("pod {pod} refuses revision {}: {reason}: {}", nack.revision, nack.message);
    if let Some(object) = &nack.object {
        text.push_str(&format!(" ({object})"));
    }
    if progress.refused.len() > 1 {
        text.push_str(&format!("; so do {} more pods", progress.refused.len() - 1));
    }
    Some(text)
}

pub fn missing_route(object: &ObjectId, route: &str) -> String {
    format!("{object} names OutboundRoute {route}, which does not exist: create it, or name another")
}

/// The first `shown` of a list, and how many more there are.
pub fn list<'a>(items: impl Iterator<Item = &'a str>, shown: usize) -> String {
    let items: Vec<&str> = items.collect();
    let mut text = items[..items.len().min(shown)].join(", ");
    if items.len() > shown {
        text.push_str(&format!(" and {} more", items.len() - shown));
    }
    text
}

pub const NO_RANGES: &str = "no client may relay yet, because DNS has not said which networks the spfDomains name; see ResolvedRefs and ClientRangesHeld";
