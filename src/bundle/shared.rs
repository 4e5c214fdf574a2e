//! What several rules share: address lists, the directory, quarantines. Part of the wire format of
//! [`super::document`].

mod entries;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::entries::{ListEntry, Listed};
use super::document::{ObjectId, Origin};
use super::rule::UnitPath;
use crate::mail::address::Mailbox;

/// Addresses and domains under one name (spec R108).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressList {
    pub origin: Origin,
    pub entries: ListEntries,
}

/// The entries of a list, compact enough for millions: text, not objects. Each shard holds the entries
/// whose hash leads to it, so that one changed entry rewrites one shard.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListEntries {
    /// A power of two of them, or none.
    pub shards: Vec<Shard>,
}

/// Sorted lines without repetitions, each ended by LF: folded addresses (with `@`) and domains in ASCII
/// form (without).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shard {
    /// Entries that count only for authenticated senders (the default, spec R113).
    pub authenticated: std::sync::Arc<str>,
    /// Entries that count whoever claims them.
    pub unauthenticated: std::sync::Arc<str>,
}

/// Who belongs to the organisation (spec R117-R120).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub origin: Origin,
    /// Units that say something of their own; a unit needs no record to exist.
    pub units: Vec<Unit>,
    pub unknown_senders: UnknownSenders,
    /// Sorted by address.
    pub accounts: Vec<Account>,
    /// It cannot be read and has no last good form: what depends on it is deferred. Says why.
    #[serde(default)]
    pub broken: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub path: UnitPath,
    /// Rules of units above that do not apply here and below; mandatory ones are not among them.
    pub disabled: Vec<ObjectId>,
}

/// An own sender the directory does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UnknownSenders {
    /// Counts as a user of the root unit.
    #[default]
    RootUnit,
    /// Is refused.
    Refuse,
}

/// One address of the directory. Aliases have records of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Folded, as [`Mailbox::folded`] gives it.
    pub address: String,
    pub kind: AccountKind,
    /// Groups that some rule names and this account is a member of, directly or through other groups;
    /// folded addresses, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    User(UnitPath),
    /// Groups have no unit: rules of the root are for them.
    Group,
}

/// A place for held mail (spec R74).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    pub origin: Origin,
    /// How long mail is held before it is deleted; default 30 days.
    pub retention_ms: u64,
    pub on_deny: OnDeny,
    pub digest: Option<Digest>,
}

impl Quarantine {
    pub const DEFAULT_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnDeny {
    #[default]
    Drop,
    /// The sender gets the default reject message as a report (spec R69).
    Reject,
}

/// A regular summary of what is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub to: Vec<Mailbox>,
    pub every_ms: u64,
}
