//! What a rule does with a message: refuse it, or change it on its way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::RouteRef;
use super::schema::{atomic, cel};

/// Exactly one of `reject` and `modify`. When several rules match, a reject beats everything; changes
/// of several rules are merged, the better-ranked rule winning where they contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::ACTION_ONE_OF]))]
pub struct Action {
    /// Refuse the message. Nothing else happens to it: no copy, no change, no other route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<Reject>,
    /// Change the message or its way; at least one of the fields must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modify: Option<Modify>,
}

impl Action {
    /// The word the ACTION column shows.
    pub fn verb(&self) -> &'static str {
        match self {
            Action { reject: Some(_), .. } => "Reject",
            Action { modify: Some(_), .. } => "Modify",
            Action { reject: None, modify: None } => "",
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

/// Changes. Those of several matching rules are merged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::MODIFY_EMPTY]))]
pub struct Modify {
    /// Header fields to add. Those of several rules all appear; the same name and value once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), transform = atomic)]
    pub headers: Vec<Header>,
    /// Put in brackets before the subject: `Rahasia` turns `Laporan bulanan` into
    /// `[Rahasia] Laporan bulanan`. A prefix that is there already is not repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), transform = cel(&[checks::ONE_LINE]))]
    pub subject_prefix: Option<String>,
    /// Send over this OutboundRoute instead of normal routing. If it does not exist, mail waits; it
    /// never leaves another way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteRef>,
    /// Demands on the transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// A header field to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    /// Name of the field, such as `X-Rule`. Fields that mean something to mail systems (From, To,
    /// Subject, Received, Content-*, DKIM-Signature and the like) cannot be added.
    #[schemars(length(min = 1, max = 76), transform = cel(&[checks::HEADER_NAME, checks::HEADER_FORBIDDEN]))]
    pub name: String,
    /// Value of the field, on one line. `{rule}`, `{revision}` and `{id}` stand for the rule's name, the
    /// revision that decided, and the id of the transaction.
    #[schemars(length(max = 900), transform = cel(&[checks::ONE_LINE]))]
    pub value: String,
}

/// Demands on the transport.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Require TLS on both sides: a message that came in clear text is refused, and one that cannot leave
    /// over TLS is not sent.
    #[serde(default)]
    pub require_tls: bool,
}
