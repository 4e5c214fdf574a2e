//! What a rule does with a message: refuse it, hold it for review, or change it on its way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::modify::Modify;
use super::schema::cel;

/// Exactly one of `reject`, `quarantine` and `modify`. When several rules match, a reject beats everything
/// and a quarantine beats changes; changes of several rules are merged, the better-ranked rule winning where
/// they contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::ACTION_ONE_OF]))]
pub struct Action {
    /// Refuse the message. Nothing else happens to it: no copy, no change, no other route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<Reject>,
    /// Hold the message until somebody releases or denies it. Only in rules whose `accountTypes` is Users
    /// alone. Changes of other rules are made when it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// Change the message or its way; at least one of the fields must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modify: Option<Modify>,
}

impl Action {
    /// The word the ACTION column shows.
    pub fn verb(&self) -> &'static str {
        match self {
            Action { reject: Some(_), .. } => "Reject",
            Action { quarantine: Some(_), .. } => "Quarantine",
            Action { modify: Some(_), .. } => "Modify",
            Action { reject: None, quarantine: None, modify: None } => "",
        }
    }
}

/// The reply is `550 5.7.1` and a notice; the code cannot be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reject {
    /// Tells the sender why. Plain text; line breaks make a multi-line reply. Default: `Message rejected
    /// by organization policy (rule: <name>, ref: <id>)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), transform = cel(&[checks::NOTICE]))]
    pub notice: Option<String>,
    /// Used instead of `notice` when that is not plain ASCII and the client has not asked for SMTPUTF8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), transform = cel(&[checks::ASCII_NOTICE]))]
    pub ascii_notice: Option<String>,
    /// Leave the rule's name out of the default notice.
    #[serde(default)]
    pub hide_rule: bool,
    /// The enhanced status code of the reply: 5.7.1, or 5.7.900 to 5.7.999.
    #[serde(default = "enhanced_code")]
    #[schemars(length(max = 7), transform = cel(&[checks::ENHANCED_CODE]))]
    pub enhanced_code: String,
}

fn enhanced_code() -> String {
    "5.7.1".to_owned()
}

impl Default for Reject {
    fn default() -> Self {
        Self { notice: None, ascii_notice: None, hide_rule: false, enhanced_code: enhanced_code() }
    }
}

/// Where a message is held. Several rules that quarantine hold it once, in the place of the best-ranked one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Name of a Quarantine of this namespace that is attached to the same gateway. `default` is there
    /// without one. If it does not exist, `default` is used and ResolvedRefs says so.
    #[serde(default = "default_quarantine")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Tell the sender of an outgoing message that it is held. Never sent to a null sender; rate-limited.
    #[serde(default)]
    pub notify_sender: bool,
}

fn default_quarantine() -> String {
    super::DEFAULT_QUARANTINE.to_owned()
}
