//! ComplianceRule: what happens to messages by what they contain.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::checks;
use super::expression::Expression;
use super::refs::{ConfigMapKeyRef, GatewayRef};
use super::schema::{atomic, cel, each_len};
use super::scope::{self, AccountType, AddressLists, Direction, Envelope, Mode};
use super::status::RuleStatus;

/// Searches messages for words and expressions, and decides what happens to those that match.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "ComplianceRule",
    namespaced,
    shortname = "cpr",
    category = "postern",
    status = "RuleStatus",
    derive = "PartialEq",
    doc = "A ComplianceRule searches messages for words and expressions, and decides what happens to those that match."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(checks::RULE))]
pub struct ComplianceRuleSpec {
    /// The OutboundGateway that obeys this rule.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what the rule is for. Two rules of one unit with the same description get a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// A rule that is not enabled does nothing.
    #[serde(default = "scope::enabled")]
    pub enabled: bool,
    /// Enforce: the rule acts. Shadow: it is judged and counted, and has no effect.
    #[serde(default)]
    pub mode: Mode,
    /// Decides which of two rules wins where they contradict each other: 1 before 1000.
    #[serde(default = "scope::priority")]
    #[schemars(range(min = 1, max = 1000))]
    pub priority: u16,
    /// The unit of the gateway's Directory that the rule is for, such as `/sales/export`; units below
    /// inherit it. `/` is everybody. The sender's unit counts for sent mail, the recipient's for received
    /// mail.
    #[serde(default = "scope::root_unit")]
    #[schemars(length(min = 1, max = 255), transform = cel(&[checks::UNIT]))]
    pub organizational_unit: String,
    /// Units below cannot disable the rule, and it goes ahead of theirs.
    #[serde(default)]
    pub mandatory: bool,
    /// Which messages: at least one of Outbound, Inbound, InternalSending, InternalReceiving.
    #[schemars(length(min = 1, max = 4), transform = atomic)]
    pub messages: Vec<Direction>,
    /// Whose mail: at least one of Users, Groups (mail that a group forwards or receives) and Unrecognized
    /// (mail to own addresses that the Directory does not know; received mail only).
    #[serde(default = "scope::users")]
    #[schemars(length(min = 1, max = 3), transform = atomic)]
    pub account_types: Vec<AccountType>,
    /// Narrows the rule by address lists, or exempts from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_lists: Option<AddressLists>,
    /// Narrows the rule to some senders or recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// What to search for: words, expressions, or both.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What to do when a message is too large, too deep or too broken to be searched to its end:
    /// TreatAsMatch, TreatAsNoMatch, or Defer (the sender tries again later).
    #[serde(default)]
    pub on_scan_limit: OnScanLimit,
    /// What to do about containers that cannot be opened (encrypted, damaged, of an unknown kind):
    /// TreatAsNoMatch, TreatAsMatch or Defer. Counted and traced whatever is chosen.
    #[serde(default)]
    pub on_unreadable: OnUnreadable,
    /// What happens to a message that matches: exactly one of `reject`, `quarantine` and `modify`.
    pub action: Action,
}

/// Words and expressions. All words together count as one condition, which one word fulfils.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::MATCH_SOMETHING]))]
pub struct Match {
    /// Words and phrases, searched in the subject, the text and HTML bodies and the text attachments. Case
    /// is ignored and only whole words match: `bad` is found in `[BAD]` but not in `badminton`. An entry with
    /// blanks is a phrase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5000), transform = atomic, transform = each_len(1, 256))]
    pub words: Vec<String>,
    /// More words, from ConfigMaps of this namespace; for long or shared lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), transform = atomic)]
    pub words_from: Vec<WordsFrom>,
    /// How words compare.
    #[serde(default)]
    pub word_options: WordOptions,
    /// Search the source of HTML parts too (tags, attributes, comments), not only what a reader sees.
    #[serde(default)]
    pub search_html_source: bool,
    /// Further conditions: on the text of one place, on size, origin or attachments, or on what a detector finds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), transform = atomic)]
    pub expressions: Vec<Expression>,
    /// Whether any condition suffices or all must hold: Any, or All.
    #[serde(default)]
    pub combine: Combine,
}

/// A list of words kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WordsFrom {
    /// A key of a ConfigMap whose text holds words separated by blanks, commas or line breaks; quotes make
    /// a phrase: `"top secret"`.
    pub config_map_ref: ConfigMapKeyRef,
}

/// How words compare.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WordOptions {
    /// `resume` finds `résumé` too.
    #[serde(default)]
    pub ignore_accents: bool,
    /// Letters of other scripts that look alike: Disabled, MixedScript (only in words that mix scripts), All.
    #[serde(default)]
    pub confusables: Confusables,
    /// Turkish case: `I` is the capital of `ı`, `İ` of `i`.
    #[serde(default)]
    pub turkish: bool,
    /// Words that are found inside longer words too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), transform = atomic, transform = each_len(1, 256))]
    pub substrings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Confusables {
    Disabled,
    #[default]
    MixedScript,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Combine {
    #[default]
    Any,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnScanLimit {
    #[default]
    TreatAsMatch,
    TreatAsNoMatch,
    Defer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnUnreadable {
    TreatAsMatch,
    #[default]
    TreatAsNoMatch,
    Defer,
}
