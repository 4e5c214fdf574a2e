//! Rules as the gateway runs them: scope, conditions, action. Part of the wire format of [`super::document`].

use std::cmp::Reverse;
use std::fmt;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{ObjectKind, Origin};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::edit::{Footer, Removal};
use crate::mail::envelope::RouteName;

/// A RoutingRule or ComplianceRule (`origin.object.kind` says which). Disabled rules are not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub origin: Origin,
    /// For people; `{rule}` in header values is the object's name.
    pub description: String,
    pub priority: u16,
    pub created: Option<Timestamp>,
    #[serde(default)]
    pub mode: Mode,
    /// The rule is for this unit and those below it.
    #[serde(default)]
    pub unit: UnitPath,
    /// Units below cannot disable it, and it goes ahead of theirs (spec R120, R123).
    #[serde(default)]
    pub mandatory: bool,
    pub messages: Vec<Direction>,
    /// At least one (spec R115).
    #[serde(default = "users")]
    pub accounts: Vec<AccountType>,
    #[serde(default)]
    pub lists: Option<ListCondition>,
    pub envelope: EnvelopeFilter,
    /// `None` on routing rules: no content condition.
    pub content: Option<Content>,
    pub on_scan_limit: OnScanLimit,
    #[serde(default)]
    pub on_unreadable: OnUnreadable,
    pub action: Action,
    /// The rule is invalid and has no last good form: what its readable clauses could match is
    /// deferred (451), never let through. Says why.
    pub broken: Option<String>,
}

impl Rule {
    /// A rule for outgoing mail of all users, with nothing to narrow it.
    pub fn new(origin: Origin, action: Action) -> Self {
        Self {
            origin,
            description: String::new(),
            priority: 500,
            created: None,
            mode: Mode::default(),
            unit: UnitPath::default(),
            mandatory: false,
            messages: vec![Direction::Outbound],
            accounts: users(),
            lists: None,
            envelope: EnvelopeFilter::default(),
            content: None,
            on_scan_limit: OnScanLimit::default(),
            on_unreadable: OnUnreadable::default(),
            action,
            broken: None,
        }
    }

    /// The order of rules (spec R123), a function of the record alone: mandatory ones of units nearer the
    /// root, compliance before routing, deeper unit, smaller priority, older, name. Smaller is better.
    pub fn rank(&self) -> impl Ord + '_ {
        let object = &self.origin.object;
        let depth = self.unit.depth();
        let mandatory = if self.mandatory { (0, depth) } else { (1, 0) };
        let routing = object.kind != ObjectKind::ComplianceRule;
        let created = self.created.unwrap_or(Timestamp::MAX);
        (mandatory, routing, Reverse(depth), self.priority, created, &object.namespace, &object.name)
    }
}

fn users() -> Vec<AccountType> {
    vec![AccountType::Users]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Enforce,
    /// Judged and counted, without effect (spec R163).
    Shadow,
}

/// A place in the tree of units, such as `/sales/export`; `/` is the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitPath(pub String);

impl Default for UnitPath {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl UnitPath {
    /// How many units lie above: 0 for the root.
    pub fn depth(&self) -> usize {
        self.0.split('/').filter(|name| !name.is_empty()).count()
    }

    /// Whether this is `other` or lies below it.
    pub fn is_within(&self, other: &UnitPath) -> bool {
        let parent = other.0.trim_end_matches('/');
        self.0.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Whose mail a rule looks at (spec R115).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccountType {
    Users,
    Groups,
    Unrecognized,
}

/// Address lists that narrow a rule, or that exempt from it (spec R108-R113).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCondition {
    pub mode: ListMode,
    pub by: ListMatch,
    /// One match in any of them suffices.
    pub names: Vec<ObjectName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListMode {
    /// A match exempts from the rule, whatever else it says (spec R112).
    Bypass,
    /// A match is one more condition.
    OnlyApply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ListMatch {
    /// From of received mail, the recipient of sent mail (spec R109, R110).
    #[default]
    Correspondent,
    Recipient,
}

/// An object of a kind that is plain from the context.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    Outbound,
    Inbound,
    InternalSending,
    InternalReceiving,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnvelopeFilter {
    pub senders: Option<AddressFilter>,
    pub recipients: Option<AddressFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressFilter {
    Address(Mailbox),
    /// A regular expression over the whole address, as if anchored.
    Pattern(String),
    /// Members of any of these groups of the Directory, by folded address (spec R119).
    Groups(Vec<String>),
}

/// Content conditions of a ComplianceRule. The word list counts as one condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Inline and referenced words together, as written, without exact duplicates.
    pub words: Vec<String>,
    pub word_options: WordOptions,
    /// Search the source of HTML parts too, not just their visible text.
    pub search_html_source: bool,
    pub expressions: Vec<Expression>,
    pub combine: Combine,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct WordOptions {
    pub ignore_accents: bool,
    pub confusables: Confusables,
    pub turkish: bool,
    /// Entries of the list that match inside longer words too.
    pub substrings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Confusables {
    Disabled,
    #[default]
    MixedScript,
    All,
}

/// One condition of a rule's `match.expressions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Expression {
    Text(TextExpression),
    Metadata(Metadata),
    Detector(Detection),
}

/// A condition on the text of one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextExpression {
    pub location: Location,
    pub kind: ExpressionKind,
    pub value: String,
    pub min_count: u32,
}

/// A condition on what is known of a message besides its text (spec R57).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metadata {
    SourceIp {
        networks: Vec<IpNet>,
        /// `NotIn`.
        negated: bool,
    },
    /// The From domain is authenticated by an aligned SPF or DKIM result.
    Authenticated(bool),
    InboundTls(bool),
    SmimeSigned(bool),
    SmimeEncrypted(bool),
    AttachmentEncrypted(bool),
    /// Octets of the message as it came.
    MessageSizeOver(u64),
    MessageSizeUnder(u64),
    /// Media type by content, such as `application/pdf`; ignoring case.
    AttachmentType(NameTest),
    /// File name, also of files inside archives.
    AttachmentName(NameTest),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameTest {
    /// Equal, ignoring case.
    Is(String),
    /// A regular expression that is searched for.
    Matches(String),
}

/// A predefined detector (spec R58), over everything `HeadersAndBody` covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    pub detector: Detector,
    /// How many different finds it takes.
    pub min_count: u32,
    pub confidence: Confidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Detector {
    /// Card numbers of the known networks, Luhn.
    PaymentCard,
    /// ISO 13616: length by country, mod 97.
    Iban,
    EmailAddress,
    /// International form, or a national one beside a word for telephone.
    PhoneNumber,
    UsSocialSecurityNumber,
    UkNationalInsuranceNumber,
    GermanTaxId,
    FrenchSocialSecurityNumber,
    SpanishDni,
    ItalianFiscalCode,
    DutchBsn,
    SwedishPersonalNumber,
    IndonesianNik,
    JapaneseMyNumber,
    ChineseResidentId,
    IndianAadhaar,
    BrazilianCpf,
    /// PEM and OpenSSH private keys.
    PrivateKey,
    /// Access keys of cloud providers, tokens of code hosts and chat systems, signed web tokens.
    AccessKey,
}

/// How sure a find must be: Low takes the form alone, Medium its check digits too, High also a word
/// beside it that names the thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Confidence {
    Low,
    #[default]
    Medium,
    High,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExpressionKind {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Combine {
    #[default]
    Any,
    All,
}

/// What a rule does when the message could not be searched to its end (spec R60).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnScanLimit {
    #[default]
    TreatAsMatch,
    TreatAsNoMatch,
    Defer,
}

/// What a rule does about containers that cannot be opened: encrypted, damaged, of an unknown kind
/// (spec R60). Counted and traced whatever is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnUnreadable {
    TreatAsMatch,
    #[default]
    TreatAsNoMatch,
    Defer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    Reject(Reject),
    Quarantine(Quarantining),
    Modify(Box<Modify>),
}

/// Hold for review (spec R71).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantining {
    /// `None`: the built-in one called `default`.
    pub quarantine: Option<ObjectName>,
    /// Tell the sender of an outgoing message (spec R73).
    pub notify_sender: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reject {
    /// At most 1000 characters; `None`: the default notice of spec R68.
    pub notice: Option<String>,
    /// Used when the notice is not ASCII and the session has no SMTPUTF8.
    pub ascii_notice: Option<String>,
    /// Leave the rule's name out of the default notice.
    pub hide_rule: bool,
    /// `5.7.1`, or `5.7.900` to `5.7.999`.
    pub enhanced_code: EnhancedCode,
}

/// The enhanced status code of a policy reject (RFC 3463; spec R68).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnhancedCode(pub [u16; 3]);

impl Default for EnhancedCode {
    fn default() -> Self {
        Self([5, 7, 1])
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [class, subject, detail] = self.0;
        write!(f, "{class}.{subject}.{detail}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Modify {
    /// `X-Gm-Original-To` on the copy of each recipient (spec R77).
    pub original_to_header: bool,
    /// `X-Gm-Spam` and `X-Gm-Phishy` (spec R78).
    pub spam_headers: bool,
    pub headers: Vec<Header>,
    pub subject_prefix: Option<String>,
    pub route: Option<ChangeRoute>,
    /// With `route`: spam takes it too (spec R83).
    pub reroute_spam: bool,
    /// With `route`: no bounces to the sender from this delivery (spec R85).
    pub suppress_bounces: bool,
    pub envelope_recipient: Option<ChangeRecipient>,
    /// Inbound only (spec R89).
    pub bypass_spam_filter: bool,
    pub remove_attachments: Option<Removal>,
    pub add_recipients: Vec<AddedRecipient>,
    pub require_tls: bool,
    pub smime: Option<Smime>,
    pub footer: Option<Footer>,
    pub strip_amp: bool,
}

/// Another envelope recipient (spec R86).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeRecipient {
    Address(Mailbox),
    /// A new local part at the domain it had.
    User(String),
    /// The local part it had at a new domain.
    Domain(Domain),
}

/// A secondary delivery (spec R95-R101).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedRecipient {
    pub address: Mailbox,
    pub envelope_recipient: Option<ChangeRecipient>,
    pub headers: Vec<Header>,
    pub subject_prefix: Option<String>,
    pub remove_attachments: Option<Removal>,
    pub route: Option<ChangeRoute>,
    pub require_tls: bool,
    /// Not delivered when the message is spam; default true (spec R98).
    pub drop_spam: bool,
    /// Default true (spec R98).
    pub suppress_bounces: bool,
}

/// S/MIME (spec R103, R105).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smime {
    /// Encrypt for the recipient.
    #[serde(default = "yes")]
    pub encrypt: bool,
    /// Sign with the sender's key.
    #[serde(default)]
    pub sign: bool,
    /// Reject where a certificate is missing; false: the message goes as it is.
    pub bounce_if_unable: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
/// A route by name, there or not.
pub enum ChangeRoute {
    To(RouteName),
    /// The route does not exist: where this rule would have decided the route, mail is deferred.
    Missing(RouteName),
}

/// `value` may hold the placeholders `{rule}`, `{revision}` and `{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
}
