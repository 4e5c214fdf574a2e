//! What the spool keeps of a message beside its bytes. A change of these types, or of the mail
//! types inside them, changes the format on disk: raise `segment::VERSION`.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::hold::Held;
use super::id::QueueId;
use crate::mail::edit::Edit;
use crate::mail::envelope::{Recipient, Sender, Via};

/// What one 250 promises besides the bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub sender: Sender,
    #[serde(with = "jiff::fmt::serde::timestamp::nanosecond::required")]
    pub received_at: Timestamp,
    /// Where it came from, for reports: `client.example ([192.0.2.1])`.
    pub origin: String,
    /// The policy revision that judged it.
    pub revision: String,
    /// Written by the gateway itself (a report): never evaluated, never reported on.
    pub own: bool,
    /// The recipients are held: of a target only `recipient` counts, the rest is decided on release.
    pub held: Option<Arc<Held>>,
    pub targets: Vec<Target>,
}

/// One delivery that is owed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub recipient: Recipient,
    pub via: Via,
    pub require_tls: bool,
    pub edits: Arc<[Edit]>,
    /// Failures and delays are not told to the sender (spec R85).
    pub suppress_bounces: bool,
}

/// Where one recipient stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fate {
    Waiting(Waiting),
    /// In a quarantine.
    Held(Holding),
    Delivered,
    /// Given up: reported, or not to be reported.
    Failed,
    /// Held no more: its deliveries belong to another message, committed with this fate.
    Released,
    /// Another pod has it: it was durable there before this was written here.
    HandedOver,
    /// Stands for no recipient: keeps a note (see [`super::handover`]) until somebody takes it away.
    Noted,
}

impl Fate {
    /// Whether nothing more will happen for this recipient.
    pub fn is_final(&self) -> bool {
        match self {
            Fate::Waiting(_) | Fate::Held(_) | Fate::Noted => false,
            Fate::Delivered | Fate::Failed | Fate::Released | Fate::HandedOver => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub attempts: u32,
    #[serde(with = "jiff::fmt::serde::timestamp::nanosecond::required")]
    pub next_attempt: Timestamp,
    pub last_error: Option<String>,
    /// Whether the sender was told of the delay.
    pub warned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    #[serde(with = "jiff::fmt::serde::timestamp::nanosecond::required")]
    pub until: Timestamp,
}

/// One message to be committed.
#[derive(Debug, Clone)]
pub struct Submission {
    pub id: QueueId,
    pub entry: Entry,
    pub content: Content,
}
