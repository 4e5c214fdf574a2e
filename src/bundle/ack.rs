//! What a pod says of itself: the revision its next transaction is judged by (spec R153).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::ObjectId;
use super::manifest::{Revision, Sequence};

/// The answer of a gateway pod on `/ack`. `GET /ack?after=N&refused=M` waits (long poll, at most 25 s) until
/// the running sequence exceeds N or a refusal of a sequence above M is known, and answers at once when
/// that is so already. With `&tested=K` news is also that the count of tests is not K, with
/// `&left=L` that a leaving pod has another number of messages left, or became empty (who knows that says `left=-1`). `published=N` says which
/// sequence is the published one, `pods=N` how many pods are ready and share the limits of routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// The pod's own name.
    pub pod: String,
    /// Changes with each start of the process.
    pub instance: String,
    /// What decides the next transaction; `None` before the first complete bundle.
    pub running: Option<Running>,
    /// Bundle formats this pod reads.
    pub formats: Vec<u32>,
    /// The newest bundle this pod refused, if that is newer than what runs.
    pub refused: Option<Nack>,
    /// How many results of tests of routes were new so far: see [`super::probe::Probes`].
    #[serde(default)]
    pub tested: u64,
    /// Messages in this pod's spool that still have a recipient to serve.
    pub queued: u64,
    /// Only of a pod that the running manifest names as leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
}

/// How far a pod that is to leave has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    /// Messages that are left here, held ones among them.
    pub left: u64,
    /// Messages that other pods have taken.
    pub handed_over: u64,
    /// Nothing is left here and nothing can come: the pod and its volume may go. Stays true as long as the pod is
    /// to leave, whatever happens.
    pub empty: bool,
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Leaving {
    /// What a poll compares: the number of messages left; -1: empty.
    pub fn key(&self) -> i64 {
        if self.empty { -1 } else { i64::try_from(self.left).unwrap_or(i64::MAX) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub sequence: Sequence,
    pub revision: Revision,
    pub loaded_at: Timestamp,
}

/// Why a pod keeps its last good revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nack {
    pub sequence: Sequence,
    pub revision: Revision,
    pub reason: NackReason,
    pub message: String,
    /// The object at fault, where one can be named.
    pub object: Option<ObjectId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NackReason {
    SecretMissing,
    ListenerFailed,
    FormatTooNew,
    CompileFailed,
}
