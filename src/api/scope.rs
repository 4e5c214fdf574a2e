//! Which messages a rule looks at: directions and envelope filters. Shared by both kinds of rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::cel;

/// Where a message comes from and goes to. Internal means that both ends are within the
/// gateway's `domains`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    Outbound,
    Inbound,
    InternalSending,
    InternalReceiving,
}

/// Narrows a rule to some envelope senders, some envelope recipients, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::ENVELOPE_SOMETHING]))]
pub struct Envelope {
    /// Only messages with such an envelope sender (MAIL FROM, the return path).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<AddressFilter>,
    /// Only recipients (RCPT TO) of this kind; the rule is judged for each recipient on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<AddressFilter>,
}

/// Exactly one of `address` and `pattern`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::FILTER_ONE_OF]))]
pub struct AddressFilter {
    /// One address, such as `a@b.c`. Case is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: Option<String>,
    /// A regular expression that must match the whole address, such as
    /// `(?i)(user1|user2)@solarmora\.com`. Case counts unless it starts with `(?i)`. Linear time:
    /// there are no look-around and no back-references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096), transform = cel(&[checks::PATTERN]))]
    pub pattern: Option<String>,
}

pub(super) fn enabled() -> bool {
    true
}

pub(super) fn priority() -> u16 {
    500
}
