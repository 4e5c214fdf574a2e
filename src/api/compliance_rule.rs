//! ComplianceRule: what happens to messages by what they contain.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::checks;
use super::refs::{ConfigMapKeyRef, GatewayRef};
use super::schema::{atomic, cel, each_len};
use super::scope::{self, Direction, Envelope};
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
pub struct ComplianceRuleSpec {
    /// The OutboundGateway that obeys this rule.
    #[serde(default)]
    pub gateway_ref: GatewayRef,
    /// For people: what the rule is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub description: Option<String>,
    /// A rule that is not enabled does nothing.
    #[serde(default = "scope::enabled")]
    pub enabled: bool,
    /// Decides which of two rules wins where they contradict each other: 1 before 1000.
    #[serde(default = "scope::priority")]
    #[schemars(range(min = 1, max = 1000))]
    pub priority: u16,
    /// Which messages: at least one of Outbound, Inbound, InternalSending, InternalReceiving.
    #[schemars(length(min = 1, max = 4), transform = atomic)]
    pub messages: Vec<Direction>,
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
    /// What happens to a message that matches: exactly one of `reject` and `modify`.
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
    /// Conditions on one place of the message each.
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

/// A condition on one place of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::EXPRESSION_VALUE, checks::EXPRESSION_NO_VALUE, checks::EXPRESSION_PATTERN]))]
pub struct Expression {
    /// Where to look. Body is the visible text without attachments; HeadersAndBody has attachments too;
    /// RawMessage is the message as it came.
    pub location: Location,
    /// How to compare. Texts ignore case; a regular expression does not, unless it starts with `(?i)`.
    /// AnyWord and AllWords take words separated by blanks.
    #[serde(rename = "type")]
    pub kind: ExpressionType,
    /// What to compare with; every type but IsEmpty needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub value: Option<String>,
    /// How many matches it takes.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_count: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Location {
    HeadersAndBody,
    FullHeaders,
    Body,
    Subject,
    FromHeader,
    RecipientsHeader,
    EnvelopeSender,
    AnyEnvelopeRecipient,
    RawMessage,
    Attachments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExpressionType {
    StartsWith,
    EndsWith,
    Contains,
    NotContains,
    Equals,
    IsEmpty,
    MatchesRegex,
    NotMatchesRegex,
    AnyWord,
    AllWords,
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
