//! What a listing and an answer consist of: the JSON that scripts read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::closures::PauseRow;
use super::filter::{State, state};
use crate::delivery::retry;
use crate::delivery::wake::Situation;
use crate::mail::edit::Edit;
use crate::mail::envelope::{BodyType, Notify, Ret, Via};
use crate::spool::{Fate, Standing};

/// Recipients that a listing names.
const NAMED: usize = 3;

/// One message of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub id: String,
    /// The pod that has it, where several were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub received_at: Timestamp,
    pub size: u64,
    /// `None`: the null sender.
    pub from: Option<String>,
    /// The first of those that wait; `waiting` says how many there are.
    pub to: Vec<String>,
    pub waiting: usize,
    /// Of those that wait.
    pub routes: Vec<String>,
    pub states: Vec<State>,
    /// The most that any of them has had.
    pub attempts: u32,
    pub next_attempt: Option<Timestamp>,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    pub messages: Vec<Row>,
    /// Where the next page begins; absent on the last.
    pub next: Option<String>,
    pub paused: Vec<PauseRow>,
    /// Pods that gave no answer, where several were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// A pod that could not be asked: what it has is not in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub pod: String,
    pub error: String,
}

/// All about one message but for its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    pub id: String,
    /// The pod that has it, where several were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub received_at: Timestamp,
    pub size: u64,
    pub from: Option<String>,
    /// Where it came from.
    pub origin: String,
    /// The revision that decided about it.
    pub revision: String,
    /// Written by the gateway itself.
    pub own: bool,
    /// Parameters of MAIL: `SMTPUTF8`, `REQUIRETLS`, `RET=FULL`, …
    pub parameters: Vec<String>,
    pub recipients: Vec<RecipientRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecipientRow {
    pub to: String,
    /// `active`, `new`, `deferred`, `paused`; or what became of it: `delivered`, `failed`.
    pub state: String,
    pub route: String,
    pub require_tls: bool,
    /// What a rule changes on the way out, by name.
    pub edits: Vec<String>,
    /// Parameters of RCPT: `NOTIFY=NEVER`, `ORCPT=…`.
    pub parameters: Vec<String>,
    pub suppress_bounces: bool,
    pub attempts: u32,
    pub next_attempt: Option<Timestamp>,
    /// When it is returned if nothing helps.
    pub gives_up_at: Option<Timestamp>,
    pub warned: bool,
    /// What the last attempt ended with, the next hop's own words among it.
    pub last_error: Option<String>,
}

/// What a retry or a drop came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acted {
    pub messages: usize,
    pub recipients: usize,
    /// Recipients that were left alone because an attempt runs right now.
    pub busy: usize,
    /// Recipients that were left alone because their route or domain is paused.
    pub paused: usize,
    /// Where to go on; absent at the end.
    pub next: Option<String>,
    /// Pods that gave no answer, where several were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Active => "active",
            State::New => "new",
            State::Deferred => "deferred",
            State::Paused => "paused",
        }
    }
}

pub fn row(situation: Option<&Situation>, standing: &Standing) -> Row {
    let entry = &standing.entry;
    let (mut routes, mut states) = (Vec::new(), Vec::new());
    let (mut attempts, mut next_attempt, mut last_error) = (0, None::<Timestamp>, None);
    for target in standing.waiting() {
        let Fate::Waiting(waiting) = &standing.fates[target] else { continue };
        let route = route(situation, &entry.targets[target].via);
        if !routes.contains(&route) {
            routes.push(route);
        }
        states.extend(state(situation, standing, target).filter(|state| !states.contains(state)));
        attempts = attempts.max(waiting.attempts);
        next_attempt = Some(next_attempt.map_or(waiting.next_attempt, |at| at.min(waiting.next_attempt)));
        last_error = last_error.or_else(|| waiting.last_error.clone());
    }
    states.sort();
    Row {
        id: standing.id.to_string(),
        pod: None,
        received_at: entry.received_at,
        size: standing.size,
        from: entry.sender.mailbox.as_ref().map(ToString::to_string),
        to: standing
            .waiting()
            .take(NAMED)
            .map(|at| entry.targets[at].recipient.mailbox.to_string())
            .collect(),
        waiting: standing.waiting().count(),
        routes,
        states,
        attempts,
        next_attempt,
        last_error,
    }
}

pub fn detail(situation: Option<&Situation>, standing: &Standing) -> Detail {
    let entry = &standing.entry;
    let sender = &entry.sender;
    let parameters = [
        (sender.body == BodyType::EightBitMime).then(|| "BODY=8BITMIME".to_owned()),
        sender.smtputf8.then(|| "SMTPUTF8".to_owned()),
        sender.require_tls.then(|| "REQUIRETLS".to_owned()),
        sender.ret.map(|ret| if ret == Ret::Full { "RET=FULL" } else { "RET=HDRS" }.to_owned()),
        sender.envid.as_ref().map(|envid| format!("ENVID={envid}")),
    ];
    Detail {
        id: standing.id.to_string(),
        pod: None,
        received_at: entry.received_at,
        size: standing.size,
        from: sender.mailbox.as_ref().map(ToString::to_string),
        origin: entry.origin.clone(),
        revision: entry.revision.clone(),
        own: entry.own,
        parameters: parameters.into_iter().flatten().collect(),
        recipients: (0..entry.targets.len()).map(|target| recipient(situation, standing, target)).collect(),
    }
}

fn recipient(situation: Option<&Situation>, standing: &Standing, target: usize) -> RecipientRow {
    let this = &standing.entry.targets[target];
    let waiting = match &standing.fates[target] {
        Fate::Waiting(waiting) => Some(waiting),
        Fate::Held(_) | Fate::Delivered | Fate::Failed | Fate::Released | Fate::HandedOver | Fate::Noted => {
            None
        }
    };
    let state = match (&standing.fates[target], state(situation, standing, target)) {
        (_, Some(state)) => state.word(),
        (Fate::Delivered, _) => "delivered",
        (Fate::Failed, _) => "failed",
        (Fate::Held(_), _) => "held",
        (Fate::HandedOver, _) => "handedOver",
        (Fate::Released | Fate::Waiting(_) | Fate::Noted, _) => "released",
    };
    let gives_up_at = situation
        .filter(|_| waiting.is_some())
        .map(|situation| retry::give_up_at(&situation.table.retry(&this.via), standing.entry.received_at));
    RecipientRow {
        to: this.recipient.mailbox.to_string(),
        state: state.to_owned(),
        route: route(situation, &this.via),
        require_tls: this.require_tls,
        edits: this.edits.iter().map(edit).collect(),
        parameters: parameters(this.recipient.notify, this.recipient.original.as_deref()),
        suppress_bounces: this.suppress_bounces,
        attempts: waiting.map_or(0, |waiting| waiting.attempts),
        next_attempt: waiting.map(|waiting| waiting.next_attempt),
        gives_up_at,
        warned: waiting.is_some_and(|waiting| waiting.warned),
        last_error: waiting.and_then(|waiting| waiting.last_error.clone()),
    }
}

/// As logs and metrics call it; without a policy what the message itself says.
fn route(situation: Option<&Situation>, via: &Via) -> String {
    match (situation, via) {
        (Some(situation), via) => situation.table.label(via).to_string(),
        (None, Via::Route(name)) => name.to_string(),
        (None, Via::Normal) => "normal".to_owned(),
    }
}

fn parameters(notify: Notify, original: Option<&str>) -> Vec<String> {
    let notify = match notify {
        Notify::Unset => None,
        Notify::Never => Some("NOTIFY=NEVER".to_owned()),
        Notify::On { success, failure, delay } => {
            let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
            let words: Vec<&str> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
            Some(format!("NOTIFY={}", words.join(",")))
        }
    };
    notify.into_iter().chain(original.map(|original| format!("ORCPT={original}"))).collect()
}

/// The kind of an edit. What it puts in is the rule's text, and the rule is where to read it.
fn edit(edit: &Edit) -> String {
    match edit {
        Edit::AddHeader { name, .. } => format!("adds header {name}"),
        Edit::SetHeader { name, .. } => format!("sets header {name}"),
        Edit::PrefixSubject { .. } => "prefixes the subject".to_owned(),
        Edit::RemoveAttachments(_) => "removes attachments".to_owned(),
        Edit::Footer(_) => "adds a footer".to_owned(),
        Edit::StripAmp => "takes out AMP parts".to_owned(),
        Edit::Smime { .. } | Edit::SmimeCbc { .. } => "encrypts (S/MIME)".to_owned(),
        Edit::SmimeSign { .. } => "signs with S/MIME".to_owned(),
        Edit::Journal { .. } => "wraps into a journal".to_owned(),
    }
}
