//! What a pod says of itself: the revision its next transaction is judged by (spec R153).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::ObjectId;
use super::manifest::{Revision, Sequence};

/// The answer of a gateway pod on `/ack`. `GET /ack?after=N&refused=M` waits (long poll, at most 25 s) until
/// the running sequence exceeds N or a refusal of a sequence above M is known, and answers at once when
/// that is so already. With `&tested=K` news is also that the count of tests is not K, with `&highest=H` that a
/// sequence above H ran here once, with `&left=L` that a leaving pod has another number of messages left, or became
/// empty (who knows that says `left=-1`). `published=N` says which sequence is the published one, `pods=N` how many
/// pods are ready and share the limits of routes, `within=S` asks for an answer after S seconds at most.
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
    /// The highest sequence that ever ran here, in this process or one before it: nothing below is loaded.
    #[serde(default)]
    pub highest: Sequence,
    /// What the pod did since it loaded the revision that runs.
    #[serde(default)]
    pub counts: Counts,
    /// Only of a pod that the running manifest names as leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
}

/// What became of mail under one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Messages answered after their data.
    pub messages: u64,
    /// Of these, rejected by policy.
    pub rejected: u64,
    /// Of these, deferred by policy.
    pub deferred: u64,
    /// Recipients that a delivery was tried for.
    pub attempts: u64,
    /// Of these, those that TLS kept from their delivery.
    pub tls_failures: u64,
}

impl Counts {
    pub fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            rejected: self.rejected + other.rejected,
            deferred: self.deferred + other.deferred,
            attempts: self.attempts + other.attempts,
            tls_failures: self.tls_failures + other.tls_failures,
        }
    }

    /// What has come since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(before.messages),
            rejected: self.rejected.saturating_sub(before.rejected),
            deferred: self.deferred.saturating_sub(before.deferred),
            attempts: self.attempts.saturating_sub(before.attempts),
            tls_failures: self.tls_failures.saturating_sub(before.tls_failures),
        }
    }
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
#[serde(from = "String")]
pub enum NackReason {
    SecretMissing,
    ListenerFailed,
    FormatTooNew,
    CompileFailed,
    /// A word of a newer release.
    Other,
}

impl NackReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            NackReason::SecretMissing => "SecretMissing",
            NackReason::ListenerFailed => "ListenerFailed",
            NackReason::FormatTooNew => "FormatTooNew",
            NackReason::CompileFailed => "CompileFailed",
            NackReason::Other => "Other",
        }
    }

    /// What the world around the pod may cure; the others stay as they are.
    pub const fn may_pass(self) -> bool {
        match self {
            NackReason::SecretMissing | NackReason::ListenerFailed | NackReason::Other => true,
            NackReason::FormatTooNew | NackReason::CompileFailed => false,
        }
    }
}

/// A pod of a newer release must be heard, whatever its reasons are called.
impl From<String> for NackReason {
    fn from(word: String) -> Self {
        const KNOWN: [NackReason; 4] = [
            NackReason::SecretMissing,
            NackReason::ListenerFailed,
            NackReason::FormatTooNew,
            NackReason::CompileFailed,
        ];
        KNOWN.into_iter().find(|reason| reason.as_str() == word).unwrap_or(NackReason::Other)
    }
}
