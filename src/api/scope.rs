//! Which messages a rule looks at: directions, account types, address lists and envelope filters. Shared by
//! both kinds of rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::{atomic, cel, each, each_len};

/// Whether a rule acts or only counts what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

/// Where a message comes from and goes to. Internal means that both ends are within the
/// gateway's `domains`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    Outbound,
    Inbound,
    InternalSending,
    InternalReceiving,
}

impl Direction {
    /// Mail of an own sender, rather than mail to an own recipient.
    pub fn is_sent(self) -> bool {
        matches!(self, Direction::Outbound | Direction::InternalSending)
    }
}

/// Whose mail a rule looks at, as the Directory knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AccountType {
    Users,
    Groups,
    Unrecognized,
}

/// Address lists that narrow a rule, or that exempt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressLists {
    /// Bypass: a match exempts from the rule, whatever else the rule says. OnlyApply: a match is one more
    /// condition of the rule.
    pub mode: ListMode,
    /// Which address is looked up. Correspondent: the From address of received mail, the recipient of sent
    /// mail. Recipient: always the recipient.
    #[serde(rename = "match", default)]
    pub by: ListMatch,
    /// Names of AddressList objects of this namespace that are attached to the same gateway. One match in
    /// any of them suffices.
    #[schemars(length(min = 1, max = 32), transform = atomic, transform = each_len(1, 253))]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ListMode {
    Bypass,
    OnlyApply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ListMatch {
    #[default]
    Correspondent,
    Recipient,
}

/// Narrows a rule to some envelope senders, some envelope recipients, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::ENVELOPE_SOMETHING]))]
pub struct Envelope {
    /// Only messages with such an envelope sender (MAIL FROM, the return path). `groups` works on sent
    /// mail only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<AddressFilter>,
    /// Only recipients (RCPT TO) of this kind; the rule is judged for each recipient on its own. `groups`
    /// works on received mail only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<AddressFilter>,
}

/// Exactly one of `address`, `pattern` and `groups`.
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
    /// Addresses of groups of the gateway's Directory: members of any of them. Members of groups inside
    /// these groups count too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 100), transform = atomic, transform = each_len(1, 320), transform = each(&[checks::ADDRESS]))]
    pub groups: Vec<String>,
}

pub(super) fn enabled() -> bool {
    true
}

pub(super) fn priority() -> u16 {
    500
}

pub(super) fn root_unit() -> String {
    "/".to_owned()
}

pub(super) fn users() -> Vec<AccountType> {
    vec![AccountType::Users]
}
