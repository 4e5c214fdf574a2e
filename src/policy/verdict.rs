//! What goes into a decision and what comes out: values only.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::document::{AccountType, EnhancedCode, Mode, ObjectId, ObjectName, UnitPath};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::edit::Edit;
use crate::mail::envelope::{Envelope, Recipient, Via};

/// What is known of a message besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// The gateway's id of this transaction; ends every policy reply and is what `{id}` stands for.
    pub id: &'a str,
    pub client: IpAddr,
    /// Whether the message came over TLS (spec R93: the sending side).
    pub tls: bool,
    /// Whether SMTPUTF8 was negotiated, so that a notice may leave ASCII.
    pub utf8_replies: bool,
    pub envelope: &'a Envelope,
    /// When the message came; certificates are judged by it.
    pub now: Timestamp,
    /// Domains that SPF or DKIM vouch for. Worked out beforehand when [`Policy::needs`] says so.
    ///
    /// [`Policy::needs`]: super::Policy::needs
    pub authenticated: &'a [Domain],
    /// Who handed the message over, where a login or a certificate says so: then the sender is he (spec R117).
    pub identity: Option<&'a Mailbox>,
    pub spam: Spam,
    /// Rules that do not judge this message: the one that held it, on release (spec R75).
    pub except: &'a [ObjectId],
}

impl<'a> Transaction<'a> {
    /// What one assumes who knows no better: an allowed client over TLS, nobody vouched for, no spam.
    pub fn new(id: &'a str, envelope: &'a Envelope) -> Self {
        Self {
            id,
            client: IpAddr::from([127, 0, 0, 1]),
            tls: true,
            utf8_replies: envelope.sender.smtputf8,
            envelope,
            now: Timestamp::UNIX_EPOCH,
            authenticated: &[],
            identity: None,
            spam: Spam::default(),
            except: &[],
        }
    }
}

/// What the classifier said of a message (spec R78). All false without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spam {
    pub spam: bool,
    pub phishy: bool,
    /// So plain that it is refused whatever the rules say (spec R83).
    pub blatant: bool,
}

/// What a policy must be told of a message besides its bytes, because some rule asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// [`Transaction::authenticated`].
    pub authentication: bool,
    /// [`Transaction::spam`].
    pub classification: bool,
}

/// A deterministic limit on the work of one decision (design decision 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fuel {
    /// Bytes of decoded text that may be searched; default 10 MiB (spec R60).
    pub decoded_bytes: u64,
    /// MIME parts that may be opened; default 10,000.
    pub parts: u32,
    /// Depth of parts inside parts; default 100.
    pub depth: u32,
    /// Files inside archives that may be opened; default 10,000.
    pub entries: u32,
    /// Archives inside archives; default 5.
    pub nesting: u32,
}

impl Default for Fuel {
    fn default() -> Self {
        Self { decoded_bytes: 10 << 20, parts: 10_000, depth: 100, entries: 10_000, nesting: 5 }
    }
}

/// One verdict for each recipient of the envelope, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    pub verdicts: Vec<Verdict>,
    /// The journal copy for the archive (spec R46), one for the whole message.
    pub archive: Option<Delivery>,
    /// Files that could not be opened, where some rule looked (spec R60); counted.
    pub unreadable: Vec<Unreadable>,
    pub sender: SenderTrace,
}

/// A container that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub name: String,
    /// In words: encrypted, damaged, …
    pub why: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.name, self.why)
    }
}

/// Who counts as the sender, and why (spec R117).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderTrace {
    pub source: SenderSource,
    /// `None`: neither the envelope nor From names anybody.
    pub address: Option<Mailbox>,
    pub account: AccountType,
    pub unit: UnitPath,
}

impl Default for SenderTrace {
    fn default() -> Self {
        let (account, unit) = (AccountType::Users, UnitPath::default());
        Self { source: SenderSource::Nobody, address: None, account, unit }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderSource {
    /// The login or the certificate of the client.
    Authenticated,
    /// Nobody is known by those.
    Envelope,
    /// The envelope sender is null.
    From,
    /// Null sender, and no From that can be read.
    Nobody,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub disposition: Disposition,
    /// Every rule considered for this recipient, in rank order; shared by recipients alike.
    pub trace: Arc<[RuleTrace]>,
    /// What became of the copies this recipient's evaluation asked for, in the order asked. Empty when an
    /// earlier recipient asked for the very same.
    pub copies: Vec<CopyTrace>,
}

impl Verdict {
    /// A verdict that no rule took part in.
    pub fn new(disposition: Disposition) -> Self {
        Self { disposition, trace: [].into(), copies: Vec::new() }
    }
}

/// One added recipient (spec R95-R101) and its fate.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyTrace {
    /// The rule that adds it.
    pub rule: ObjectId,
    /// Where the copy goes, its own change of recipient included.
    pub to: Mailbox,
    pub fate: CopyFate,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CopyFate {
    /// It is among the deliveries.
    Made,
    /// The very same is delivered there anyway.
    Duplicate,
    /// Not wanted there: the message is spam.
    Spam,
    /// A rule, or a certificate that is missing, refuses it. Only the copy is refused.
    Refused(Rejection),
    /// A rule holds it for review.
    Held(Hold),
}

/// Reject > Defer > Quarantine > Deliver (spec R124; design section 9, broken rules).
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    Reject(Rejection),
    Defer(Deferral),
    Quarantine(Hold),
    /// Accepted and dropped: blatant spam with `dropBlatantSpam` (spec R83). Counted.
    Discard,
    /// The primary first, then the copies that this recipient's evaluation made.
    Deliver(Vec<Delivery>),
}

/// Held for review. What would be changed is decided on release (spec R129).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `None`: the built-in `default`.
    pub quarantine: Option<ObjectName>,
    /// Every rule that quarantines, best rank first (spec R128).
    pub reasons: Vec<Reason>,
    /// Some of them wants the sender told.
    pub notify_sender: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub rule: ObjectId,
    pub evidence: Vec<Evidence>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// The rule whose notice is used: the best-ranked one that rejects (spec R125).
    pub rule: ObjectId,
    pub code: EnhancedCode,
    /// The text for the wire, already fit for the session (ASCII unless SMTPUTF8), lines by `\n`,
    /// ending in the reference id.
    pub text: String,
    /// The text for a report: the full notice, whatever its script.
    pub full_text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Deferral {
    pub code: EnhancedCode,
    pub text: String,
    /// The object whose author must act, where there is one.
    pub object: Option<ObjectId>,
}

/// One copy to hand to the next hop.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub recipient: Recipient,
    pub via: Via,
    /// Placeholders are already filled in.
    pub edits: Arc<[Edit]>,
    /// On top of what the route demands (spec R138: strictest wins).
    pub require_tls: bool,
    /// No bounces to the sender from this delivery (spec R85).
    pub suppress_bounces: bool,
    /// Asked for: not delivered when the message is spam. Such copies are not made (spec R98).
    pub drop_spam: bool,
    /// The recipient whose evaluation made this copy; `None` on a primary.
    pub copy_of: Option<Mailbox>,
}

/// What one rule did for one recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleTrace {
    pub rule: ObjectId,
    pub mode: Mode,
    pub outcome: Outcome,
    /// The address list that exempted from the rule; the outcome is then `NoMatch("addressLists")`.
    pub bypassed_by: Option<ObjectName>,
    /// Names of `modify` fields that a better-ranked rule decided instead.
    pub overridden: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Matched(Vec<Evidence>),
    /// Matched because the message could not be searched to its end (`onScanLimit`).
    MatchedByScanLimit(String),
    /// A clause that does not hold, in words: `messages`, `envelope.senders`, `words`, …
    NoMatch(&'static str),
    /// The rule is broken, or its scan limit says Defer.
    Deferred(String),
}

impl Outcome {
    pub fn matched(&self) -> bool {
        matches!(self, Outcome::Matched(_) | Outcome::MatchedByScanLimit(_))
    }
}

/// What matched and where (spec R63). Offsets are UTF-8 bytes of the part's decoded text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// `body`, `subject`, `attachment:NAME`, `headers`, `envelope`, `message`.
    pub part: String,
    /// The list entry or the expression's value, as written.
    pub entry: String,
    pub offset: usize,
    pub length: usize,
    /// The text stands where a reader does not see it (hidden by CSS or colour).
    #[serde(default)]
    pub hidden: bool,
    /// The number of the expression in `match.expressions`; `None` is the word list.
    #[serde(default)]
    pub expression: Option<u16>,
    /// A few characters around it, digits masked (see [`super::snippet`]).
    #[serde(default)]
    pub snippet: String,
}
