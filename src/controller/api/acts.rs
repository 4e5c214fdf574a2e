//! What can be asked of a gateway through the API, which right it takes, and how the answers of its pods go
//! together. The list is closed: what is not in it does not reach a pod. Pure.

use axum::http::Method;

use super::merge::Merge;
use super::who::Right;

pub const AUDIT: Right = Right { verb: "get", subresource: "audit" };
const QUEUE_READ: Right = Right { verb: "get", subresource: "queue" };
const QUEUE_ACT: Right = Right { verb: "update", subresource: "queue" };
const HELD_READ: Right = Right { verb: "get", subresource: "quarantine" };
const HELD_ACT: Right = Right { verb: "update", subresource: "quarantine" };
/// A whole message is somebody's letter: reading it is a right of its own.
const LETTERS: Right = Right { verb: "get", subresource: "messages" };
const PROBE: Right = Right { verb: "update", subresource: "probe" };

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// As it stands in the audit log.
    pub name: &'static str,
    pub right: Right,
    pub merge: Merge,
    /// It does something: what came of it is recorded too.
    pub changes: bool,
    /// The message or decision that is meant.
    pub id: Option<String>,
    /// As the pods' control port calls it.
    pub method: Method,
    pub path: String,
}

/// `rest`: the path below the gateway.
pub fn of(method: &Method, rest: &str) -> Option<Act> {
    let parts: Vec<&str> = rest.split('/').collect();
    if !parts.iter().all(|part| is_plain(part)) {
        return None;
    }
    let get = method == Method::GET;
    if !get && method != Method::POST {
        return None;
    }
    let (name, right, merge, id) = match (get, parts.as_slice()) {
        (true, ["queue"]) => ("queue list", QUEUE_READ, Merge::Pages, None),
        (true, ["queue", id]) => ("queue show", QUEUE_READ, Merge::First, Some(id)),
        (true, ["queue", id, "content"]) => ("queue content", LETTERS, Merge::First, Some(id)),
        (false, ["queue", "retry"]) => ("queue retry", QUEUE_ACT, Merge::Sums, None),
        (false, ["queue", "drop"]) => ("queue drop", QUEUE_ACT, Merge::Sums, None),
        (false, ["queue", "pause"]) => ("queue pause", QUEUE_ACT, Merge::All, None),
        (false, ["queue", "resume"]) => ("queue resume", QUEUE_ACT, Merge::Any, None),
        (false, ["queue", id, "retry"]) => ("queue retry", QUEUE_ACT, Merge::First, Some(id)),
        (false, ["queue", id, "drop"]) => ("queue drop", QUEUE_ACT, Merge::First, Some(id)),
        (true, ["quarantine"]) => ("quarantine list", HELD_READ, Merge::Pages, None),
        (true, ["quarantine", id]) => ("quarantine show", HELD_READ, Merge::First, Some(id)),
        (true, ["quarantine", id, "raw"]) => ("quarantine raw", LETTERS, Merge::First, Some(id)),
        (false, ["quarantine", id, "release"]) => ("quarantine release", HELD_ACT, Merge::First, Some(id)),
        (false, ["quarantine", id, "deny"]) => ("quarantine deny", HELD_ACT, Merge::First, Some(id)),
        (false, ["quarantine", id, "extend"]) => ("quarantine extend", HELD_ACT, Merge::First, Some(id)),
        (false, ["probe"]) => ("probe", PROBE, Merge::Each, None),
        (true, ["decisions", reference]) => ("trace search", QUEUE_READ, Merge::Each, Some(reference)),
        _ => return None,
    };
    let id = id.map(|id| (*id).to_owned());
    Some(Act { name, right, merge, changes: !get, id, method: method.clone(), path: format!("/{rest}") })
}

/// Ids and words of paths; nothing that a path could mean otherwise.
fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 64
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
