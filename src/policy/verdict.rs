//! What goes into a decision and what comes out: values only.

use std::net::IpAddr;
use std::sync::Arc;

use crate::bundle::document::{EnhancedCode, ObjectId};
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
}

impl Default for Fuel {
    fn default() -> Self {
        Self { decoded_bytes: 10 << 20, parts: 10_000, depth: 100 }
    }
}

/// One verdict for each recipient of the envelope, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub verdicts: Vec<Verdict>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub disposition: Disposition,
    /// Every rule considered for this recipient, in rank order; shared by recipients alike.
    pub trace: Arc<[RuleTrace]>,
}

/// Reject > Defer > Deliver (spec R124; design section 9, broken rules).
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    Reject(Rejection),
    Defer(Deferral),
    Deliver(Vec<Delivery>),
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
}

/// What one rule did for one recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleTrace {
    pub rule: ObjectId,
    pub outcome: Outcome,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// `body`, `subject`, `attachment:NAME`, `headers`, `envelope`, `message`.
    pub part: String,
    /// The list entry or the expression's value, as written.
    pub entry: String,
    pub offset: usize,
    pub length: usize,
}
