//! A message tried on a configuration, without a network: what `explain`, `diff` and the cases of `check` have in
//! common. The deciding code is the gateway's own.

pub mod envelope;
pub mod form;

use std::net::IpAddr;

use jiff::Timestamp;

use crate::cli::folder::{Configured, Unusable};
use crate::delivery::{Own, RouteTable};
use crate::gateway::admission::{self, Denied};
use crate::gateway::decisions::{
    Considered, Explained, Fate, Judged, Listing, MessageFate, Occasion, Replies, account,
};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::{Envelope, Recipient, Sender};
use crate::policy::verdict::Spam;
use crate::policy::{Decision, Fuel, Policy, Transaction, compile, decide};
use crate::smtp::reply::Reply;

/// A message and all that is known of it.
#[derive(Debug, Clone)]
pub struct Trial {
    /// With CRLF line ends, as on the wire.
    pub content: Vec<u8>,
    pub sender: Option<Mailbox>,
    pub to: Vec<Mailbox>,
    /// `None`: an allowed client.
    pub client: Option<IpAddr>,
    /// The message came in clear text.
    pub clear: bool,
    /// Domains that SPF or DKIM vouch for.
    pub authenticated: Vec<Domain>,
    /// What a classifier would say.
    pub spam: Spam,
}

/// A configuration ready to judge.
pub struct Judge {
    policy: Policy,
    routes: RouteTable,
    now: Timestamp,
}

/// What became of a trial.
pub struct Outcome {
    pub explained: Explained,
    pub decision: Decision,
}

impl Judge {
    /// `now` decides which certificates are valid, and nothing else.
    pub fn new(configured: &Configured, now: Timestamp) -> Result<Self, Unusable> {
        let policy = compile(&configured.bundle, &configured.revision).map_err(Unusable::Compile)?;
        let routes = RouteTable::build(&configured.bundle, &configured.materials, &Own::default());
        Ok(Self { policy, routes, now })
    }

    pub fn revision(&self) -> &str {
        self.policy.revision().as_str()
    }

    /// RCPT by RCPT, then the data: as the gateway would answer.
    pub fn judge(&self, trial: &Trial, listing: Listing) -> Outcome {
        let bundle = self.policy.bundle();
        let gateway = &bundle.gateway;
        let listed = trial.client.is_none_or(|address| admission::client_allowed(gateway, address));
        let client = admission::client(gateway, listed, None, None);
        let id = blake3::hash(&trial.content).to_hex()[..16].to_owned();
        let smtputf8 = trial.to.iter().chain(&trial.sender).any(Mailbox::needs_utf8);
        let sender = Sender { mailbox: trial.sender.clone(), smtputf8, ..Sender::default() };
        let mut envelope = Envelope { sender, recipients: Vec::new() };
        let mut replies = Vec::new();
        for to in &trial.to {
            let answer = admission::rcpt(gateway, client, envelope.sender.mailbox.as_ref());
            let answer = answer.map_err(Denied::reply);
            if answer.is_ok() {
                envelope.recipients.push(Recipient::new(to.clone()));
            }
            replies.push(answer.err().unwrap_or_else(|| Reply::new(250, [2, 1, 5], "Recipient ok")));
        }
        let transaction = Transaction {
            client: trial.client.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_canonical(),
            tls: !trial.clear,
            now: self.now,
            authenticated: &trial.authenticated,
            spam: trial.spam,
            ..Transaction::new(&id, &envelope)
        };
        let decision = decide(&self.policy, &transaction, &trial.content, Fuel::default());
        let judged = Judged {
            bundle,
            revision: self.policy.revision(),
            routes: &self.routes,
            transaction: &transaction,
            decision: &decision,
            content: &trial.content,
            occasion: Occasion::Received,
        };
        let mut explained = account(&judged, listing);
        let mut accepted = std::mem::take(&mut explained.messages).into_iter();
        let told = trial.to.iter().zip(&replies).map(|(to, reply)| match reply.is_positive() {
            true => accepted.next().expect("one account for each accepted recipient"),
            false => refused_at_rcpt(to, reply),
        });
        explained.messages = told.collect();
        let rcpt = replies.iter().map(Reply::to_string).collect();
        explained.transaction = Replies { rcpt, ..explained.transaction };
        Outcome { explained, decision }
    }
}

fn refused_at_rcpt(to: &Mailbox, reply: &Reply) -> MessageFate {
    MessageFate {
        recipient: to.to_string(),
        disposition: Fate::Reject,
        reply: reply.to_string(),
        quarantine: None,
        considered: Considered::default().into(),
        deliveries: Vec::new(),
        discarded: false,
        copies_left_out: Vec::new(),
    }
}

/// `<>` and nothing are the null sender.
pub fn sender(text: &str) -> Result<Option<Mailbox>, crate::mail::address::AddressError> {
    match text {
        "" | "<>" => Ok(None),
        address => address.parse().map(Some),
    }
}

/// A file as mail programs save it may have bare line feeds; on the wire every line ends in CRLF.
pub fn crlf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 32);
    for (at, byte) in content.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || content[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}
