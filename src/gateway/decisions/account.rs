//! An account of a decision: what `postern explain -o json` prints and what the decision log keeps, made by the
//! same function. Field names are a contract (design section 5); fields may be added, none renamed.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::steps::{self, Step};
use crate::bundle::document::{AccountType, Action, DefaultRoute, Mode, ObjectId};
use crate::bundle::{Bundle, Revision};
use crate::delivery::RouteTable;
use crate::gateway::admission;
use crate::mail::address::Mailbox;
use crate::mail::edit::{self, Edit, Note};
use crate::mail::envelope::{Envelope, Recipient, Via};
use crate::mail::message::{Field, Message};
use crate::policy::settle::settle;
use crate::policy::verdict::{
    CopyFate, CopyTrace, Disposition, Evidence, Outcome, RuleTrace, SenderSource, SenderTrace, Spam,
    Transaction, Verdict,
};
use crate::policy::{Decision, Delivery};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    pub version: u32,
    pub revision: String,
    pub r#ref: String,
    pub transaction: Replies,
    pub messages: Vec<MessageFate>,
    /// The journal copy for the archive, one for the whole message.
    #[serde(default)]
    pub archive: Option<DeliveryFate>,
    /// Who counts as the sender, for units and account types.
    #[serde(default)]
    pub sender: SenderFate,
    /// What the decision log knows of the moment; absent where a message was only tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Circumstances>,
}

/// Who counts as the sender and how that was told (spec R117).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SenderFate {
    pub address: Option<String>,
    /// `authenticated` (a login or a certificate), `envelope`, `from` (the envelope sender is null) or `nobody`.
    pub source: String,
    pub account_type: String,
    pub unit: String,
}

/// An added recipient that got no delivery of its own, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLeftOut {
    pub to: String,
    /// The rule that adds it.
    pub rule: String,
    /// `duplicate`, `spam`, `rejected` or `quarantined`.
    pub fate: String,
    /// The rule that rejects or holds it, or the reply.
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replies {
    pub rcpt: Vec<String>,
    pub data: Option<String>,
}

/// When and how a message came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Circumstances {
    pub time: Timestamp,
    pub occasion: Occasion,
    pub client: std::net::IpAddr,
    pub tls: bool,
    /// The envelope sender; `None` for the null sender.
    pub from: Option<String>,
    /// Domains that SPF or DKIM vouched for.
    pub authenticated: Vec<String>,
    pub spam: Spam,
    pub message_id: Option<String>,
    /// Octets as they came.
    pub size: u64,
}

/// Why a message was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    Received,
    /// A reviewer let held mail go: all rules but the one that held it judged it again.
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Deliver,
    Reject,
    Quarantine,
    Defer,
}

impl Fate {
    pub const fn as_str(self) -> &'static str {
        match self {
            Fate::Deliver => "deliver",
            Fate::Reject => "reject",
            Fate::Quarantine => "quarantine",
            Fate::Defer => "defer",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageFate {
    pub recipient: String,
    pub disposition: Fate,
    /// The reply this recipient alone would have got.
    pub reply: String,
    /// The quarantine's name.
    pub quarantine: Option<String>,
    /// The rules considered and how they came to one fate; shared by recipients alike.
    #[serde(flatten)]
    pub considered: Arc<Considered>,
    pub deliveries: Vec<DeliveryFate>,
    /// Accepted and dropped as blatant spam.
    #[serde(default)]
    pub discarded: bool,
    /// Copies that were asked for and not made.
    #[serde(default)]
    pub copies_left_out: Vec<CopyLeftOut>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// In the order of rank.
    pub rules: Vec<RuleFate>,
    #[serde(default)]
    pub merge: Vec<Step>,
    /// Rules that were considered, had no part in it and are not listed (decision log only).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_listed: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleFate {
    pub rule: String,
    pub matched: bool,
    pub mode: Mode,
    /// What the rule asks for: `Reject`, `Quarantine` or `Modify`.
    pub action: String,
    /// The clause that did not hold, when nothing matched.
    pub clause: Option<String>,
    /// Why a rule matches or defers without a find: a scan limit, a broken rule.
    pub note: Option<String>,
    pub why: Vec<Why>,
    /// The address list that exempted from the rule.
    pub bypassed_by: Option<String>,
    /// Fields of `modify` that a better-ranked rule decided.
    pub overridden: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub part: String,
    pub entry: String,
    pub offset: usize,
    pub length: usize,
    /// It stands where a reader does not see it.
    pub hidden: bool,
    /// The number of the expression in `match.expressions`; absent for the word list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<u16>,
    /// A few characters around it, digits masked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snippet: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryFate {
    pub to: String,
    pub route: Option<String>,
    pub tls: String,
    pub subject: Option<String>,
    pub headers_added: Vec<(String, String)>,
    pub attachments_removed: Vec<String>,
    pub suppress_bounces: bool,
    pub drop_spam: bool,
    pub copy_of: Option<String>,
    /// Changes that have no field of their own: `footer`, `stripAmp`, `smime`, `smimeSign`, `journal`.
    #[serde(default)]
    pub changes: Vec<String>,
    /// What happens beside or instead of what was asked for, in words; worked out by `explain`, not in the log.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A decision and what it was made from.
pub struct Judged<'a> {
    pub bundle: &'a Bundle,
    pub revision: &'a Revision,
    pub routes: &'a RouteTable,
    pub transaction: &'a Transaction<'a>,
    pub decision: &'a Decision,
    /// As it came.
    pub content: &'a [u8],
    pub occasion: Occasion,
}

/// Which rules an account lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Every rule considered.
    All,
    /// Rules that had a part in the decision; the others are counted.
    Concerned,
}

/// Tells a decision. Deterministic: what it says depends on its arguments alone.
pub fn account(judged: &Judged<'_>, listing: Listing) -> Explained {
    let Judged { revision, transaction, decision, .. } = judged;
    let data = admission::data(&settle(transaction.envelope, (*decision).clone()), transaction.id);
    let mut teller = Teller { judged, listing, told: Vec::new(), edited: Vec::new() };
    let recipients = transaction.envelope.recipients.iter().zip(&decision.verdicts);
    let messages: Vec<_> =
        recipients.map(|(recipient, verdict)| teller.message(recipient, verdict)).collect();
    let archive = decision.archive.as_ref().map(|copy| teller.delivery(copy));
    Explained {
        version: 1,
        revision: revision.to_string(),
        r#ref: transaction.id.to_owned(),
        transaction: Replies {
            rcpt: vec!["250 2.1.5 Recipient ok".to_owned(); messages.len()],
            data: (!messages.is_empty()).then(|| data.to_string()),
        },
        messages,
        archive,
        sender: sender(&decision.sender),
        decided: None,
    }
}

/// What is known of the moment of a decision.
pub fn circumstances(judged: &Judged<'_>) -> Circumstances {
    let Judged { transaction, content, occasion, .. } = judged;
    Circumstances {
        time: transaction.now,
        occasion: *occasion,
        client: transaction.client,
        tls: transaction.tls,
        from: transaction.envelope.sender.mailbox.as_ref().map(Mailbox::to_string),
        authenticated: transaction.authenticated.iter().map(ToString::to_string).collect(),
        spam: transaction.spam,
        message_id: Message::read(content).all("Message-ID").next().map(Field::decoded),
        size: content.len() as u64,
    }
}

struct Teller<'a> {
    judged: &'a Judged<'a>,
    listing: Listing,
    /// What was considered, by the trace it was told from: recipients alike share one.
    told: Vec<(Arc<[RuleTrace]>, Fate, Arc<Considered>)>,
    edited: Vec<(Arc<[Edit]>, Edited)>,
}

/// What edits make of the message, as far as it is told.
#[derive(Clone)]
struct Edited {
    subject: Option<String>,
    headers: Vec<(String, String)>,
    attachments: Vec<String>,
    changes: Vec<String>,
    notes: Vec<String>,
}

impl Teller<'_> {
    fn message(&mut self, recipient: &Recipient, verdict: &Verdict) -> MessageFate {
        let (disposition, deliveries) = match &verdict.disposition {
            Disposition::Reject(_) => (Fate::Reject, Vec::new()),
            Disposition::Defer(_) => (Fate::Defer, Vec::new()),
            Disposition::Quarantine(_) => (Fate::Quarantine, Vec::new()),
            Disposition::Discard => (Fate::Deliver, Vec::new()),
            Disposition::Deliver(copies) => {
                (Fate::Deliver, copies.iter().map(|copy| self.delivery(copy)).collect())
            }
        };
        let quarantine = match &verdict.disposition {
            Disposition::Quarantine(hold) => {
                Some(hold.quarantine.as_ref().map_or("default", |name| &name.name).to_owned())
            }
            _ => None,
        };
        MessageFate {
            recipient: recipient.mailbox.to_string(),
            disposition,
            reply: alone(recipient, verdict, self.judged.transaction.id),
            quarantine,
            considered: self.considered(verdict, disposition),
            deliveries,
            discarded: matches!(verdict.disposition, Disposition::Discard),
            copies_left_out: verdict.copies.iter().filter_map(left_out).collect(),
        }
    }

    fn considered(&mut self, verdict: &Verdict, fate: Fate) -> Arc<Considered> {
        let same = |(trace, of, _): &&(Arc<[RuleTrace]>, Fate, _)| {
            Arc::ptr_eq(trace, &verdict.trace) && *of == fate && !trace.is_empty()
        };
        if let Some((_, _, known)) = self.told.iter().find(same) {
            return Arc::clone(known);
        }
        let bundle = self.judged.bundle;
        let listed = |trace: &&RuleTrace| self.listing == Listing::All || concerned(trace);
        let rules: Vec<_> = verdict.trace.iter().filter(listed).map(|trace| rule(bundle, trace)).collect();
        let considered = Arc::new(Considered {
            not_listed: verdict.trace.len() - rules.len(),
            rules,
            merge: steps::steps(bundle, verdict),
        });
        self.told.push((Arc::clone(&verdict.trace), fate, Arc::clone(&considered)));
        considered
    }

    fn delivery(&mut self, copy: &Delivery) -> DeliveryFate {
        let bundle = self.judged.bundle;
        let required =
            copy.require_tls || self.judged.routes.resolve(&copy.via).is_ok_and(|route| route.tls.require);
        let Edited { subject, headers, attachments, changes, notes } = self.edited(&copy.edits);
        DeliveryFate {
            to: copy.recipient.mailbox.to_string(),
            route: route(bundle, &copy.via),
            tls: if required { "required" } else { "opportunistic" }.to_owned(),
            subject,
            headers_added: headers,
            attachments_removed: attachments,
            suppress_bounces: copy.suppress_bounces,
            drop_spam: copy.drop_spam,
            copy_of: copy.copy_of.as_ref().map(Mailbox::to_string),
            changes,
            notes,
        }
    }

    fn edited(&mut self, edits: &Arc<[Edit]>) -> Edited {
        if let Some((_, known)) = self.edited.iter().find(|(of, _)| of == edits) {
            return known.clone();
        }
        let content = self.judged.content;
        let header = |edit: &Edit| match edit {
            Edit::AddHeader { name, value } | Edit::SetHeader { name, value } => {
                Some((name.clone(), value.clone()))
            }
            _ => None,
        };
        let edited = Edited {
            subject: subject(content, edits),
            headers: edits.iter().filter_map(header).collect(),
            attachments: removed(content, edits),
            changes: edits.iter().filter_map(change).map(str::to_owned).collect(),
            notes: match self.listing {
                Listing::All => notes(content, edits),
                Listing::Concerned => Vec::new(),
            },
        };
        self.edited.push((Arc::clone(edits), edited.clone()));
        edited
    }
}

/// The subject that the recipient sees. What only the body shows is not touched for it.
fn subject(content: &[u8], edits: &[Edit]) -> Option<String> {
    let (head, _) = edit::split(content);
    let of_head = edits.iter().filter(|edit| match edit {
        Edit::AddHeader { .. }
        | Edit::SetHeader { .. }
        | Edit::PrefixSubject { .. }
        | Edit::Journal { .. } => true,
        Edit::RemoveAttachments(_)
        | Edit::Footer(_)
        | Edit::StripAmp
        | Edit::Smime { .. }
        | Edit::SmimeCbc { .. }
        | Edit::SmimeSign { .. } => false,
    });
    let edited = edit::apply_all(head, &of_head.cloned().collect::<Vec<_>>()).ok()?;
    Message::read(edited.head()).all("Subject").next().map(Field::decoded)
}

/// Names of the attachments that the edits take out, each once.
fn removed(content: &[u8], edits: &[Edit]) -> Vec<String> {
    let mut names = Vec::new();
    for edit in edits {
        if let Edit::RemoveAttachments(removal) = edit
            // What cannot be taken out safely does not leave at all; the notes say so.
            && let Ok(found) = edit::removed(content, removal)
        {
            for name in found {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    names
}

/// What happens beside what was asked for. Costs as much as the delivery of the message.
fn notes(content: &[u8], edits: &[Edit]) -> Vec<String> {
    if !edit::touches_body(edits) {
        return Vec::new();
    }
    match edit::apply_all(content, edits) {
        Ok(edited) => {
            let told = edited.notes.iter().filter(|note| !matches!(note, Note::Removed(_)));
            told.map(ToString::to_string).collect()
        }
        Err(error) => vec![format!("the message goes back to its sender: {error}")],
    }
}

fn sender(trace: &SenderTrace) -> SenderFate {
    let SenderTrace { source, address, account, unit } = trace;
    SenderFate {
        address: address.as_ref().map(Mailbox::to_string),
        source: match source {
            SenderSource::Authenticated => "authenticated",
            SenderSource::Envelope => "envelope",
            SenderSource::From => "from",
            SenderSource::Nobody => "nobody",
        }
        .to_owned(),
        account_type: match account {
            AccountType::Users => "Users",
            AccountType::Groups => "Groups",
            AccountType::Unrecognized => "Unrecognized",
        }
        .to_owned(),
        unit: unit.0.clone(),
    }
}

fn left_out(copy: &CopyTrace) -> Option<CopyLeftOut> {
    let (fate, note) = match &copy.fate {
        CopyFate::Made => return None,
        CopyFate::Duplicate => ("duplicate", None),
        CopyFate::Spam => ("spam", None),
        CopyFate::Refused(rejection) => ("rejected", Some(rejection.rule.to_string())),
        CopyFate::Held(hold) => {
            let rules: Vec<_> = hold.reasons.iter().map(|reason| reason.rule.to_string()).collect();
            ("quarantined", Some(rules.join(", ")))
        }
    };
    Some(CopyLeftOut { to: copy.to.to_string(), rule: copy.rule.to_string(), fate: fate.to_owned(), note })
}

fn change(edit: &Edit) -> Option<&'static str> {
    match edit {
        Edit::Footer(_) => Some("footer"),
        Edit::StripAmp => Some("stripAmp"),
        Edit::Smime { .. } | Edit::SmimeCbc { .. } => Some("smime"),
        Edit::SmimeSign { .. } => Some("smimeSign"),
        Edit::Journal { .. } => Some("journal"),
        Edit::AddHeader { .. }
        | Edit::SetHeader { .. }
        | Edit::PrefixSubject { .. }
        | Edit::RemoveAttachments(_) => None,
    }
}

/// Whether a rule had a part in a decision.
pub(super) fn concerned(trace: &RuleTrace) -> bool {
    !matches!(trace.outcome, Outcome::NoMatch(_)) || trace.bypassed_by.is_some()
}

/// The reply that one recipient alone would have got.
fn alone(recipient: &Recipient, verdict: &Verdict, id: &str) -> String {
    let envelope = Envelope { recipients: vec![recipient.clone()], ..Envelope::default() };
    let verdicts = vec![Verdict::new(verdict.disposition.clone())];
    let decision = Decision { verdicts, ..Decision::default() };
    admission::data(&settle(&envelope, decision), id).to_string()
}

fn rule(bundle: &Bundle, trace: &RuleTrace) -> RuleFate {
    let (why, clause, note) = match &trace.outcome {
        Outcome::Matched(evidence) => (evidence.iter().map(Why::from).collect(), None, None),
        Outcome::MatchedByScanLimit(limit) => (Vec::new(), None, Some(format!("taken as a match: {limit}"))),
        Outcome::NoMatch(clause) => (Vec::new(), Some((*clause).to_owned()), None),
        Outcome::Deferred(why) => (Vec::new(), None, Some(format!("defers: {why}"))),
    };
    RuleFate {
        rule: trace.rule.to_string(),
        matched: trace.outcome.matched(),
        mode: trace.mode,
        action: action(bundle, &trace.rule).to_owned(),
        clause,
        note,
        why,
        bypassed_by: trace.bypassed_by.as_ref().map(|list| list.name.clone()),
        overridden: trace.overridden.iter().map(|&field| field.to_owned()).collect(),
    }
}

impl From<&Evidence> for Why {
    fn from(evidence: &Evidence) -> Self {
        let Evidence { part, entry, offset, length, hidden, expression, snippet } = evidence;
        Self {
            part: part.clone(),
            entry: entry.clone(),
            offset: *offset,
            length: *length,
            hidden: *hidden,
            expression: *expression,
            snippet: snippet.clone(),
        }
    }
}

/// What a rule asks for, by the name its author knows. Every rule of a trace is one of the bundle it was judged by.
pub(super) fn action(bundle: &Bundle, rule: &ObjectId) -> &'static str {
    bundle.rules.iter().find(|known| known.origin.object == *rule).map_or("", |rule| name_of(&rule.action))
}

pub(super) fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Reject(_) => "Reject",
        Action::Quarantine(_) => "Quarantine",
        Action::Modify(_) => "Modify",
    }
}

/// The OutboundRoute's name, `default` for an inline default route, `None` for the recipient's own MX hosts.
pub(super) fn route(bundle: &Bundle, via: &Via) -> Option<String> {
    match via {
        Via::Route(name) => Some(name.name.clone()),
        Via::Normal => match &bundle.gateway.default_route {
            Some(DefaultRoute::Named(name) | DefaultRoute::Missing(name)) => Some(name.name.clone()),
            Some(DefaultRoute::Host(_)) => Some("default".to_owned()),
            None => None,
        },
    }
}
