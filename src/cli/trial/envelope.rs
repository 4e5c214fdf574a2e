//! An envelope as people write it beside a message, or as the message's own headers suggest it.

use std::net::IpAddr;

use super::form::Notes;
use super::{Trial, crlf, sender};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::message::Message;
use crate::manifest::yaml::Node;
use crate::policy::verdict::Spam;

pub const KEYS: [&str; 8] = ["from", "to", "client", "clear", "authenticated", "spam", "phishy", "blatant"];

/// What is written; what is not comes from the headers, or is what `explain` assumes.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub from: Option<Option<Mailbox>>,
    pub to: Option<Vec<Mailbox>>,
    pub client: Option<IpAddr>,
    pub clear: bool,
    pub authenticated: Vec<Domain>,
    pub spam: Spam,
}

/// Reads the map; mistakes are noted with their lines.
pub fn read(node: &Node, path: &str, notes: &mut Notes) -> Written {
    let mut written = Written::default();
    if !notes.map(node, path, &KEYS) {
        return written;
    }
    if let Some(from) = node.get("from")
        && let Some(text) = notes.text(from, "from")
    {
        match sender(&text) {
            Ok(mailbox) => written.from = Some(mailbox),
            Err(error) => notes.add(from.line, format!("from: {text:?}: {error}")),
        }
    }
    if let Some(to) = node.get("to") {
        let recipients = notes.parsed(to, "to");
        if recipients.is_empty() {
            notes.add(to.line, "to: at least one recipient is needed");
        }
        written.to = Some(recipients);
    }
    if let Some(client) = node.get("client") {
        written.client = notes.parsed(client, "client").pop();
    }
    if let Some(domains) = node.get("authenticated") {
        written.authenticated = notes.parsed(domains, "authenticated");
    }
    let mut flag = |key: &str| node.get(key).and_then(|node| notes.flag(node, key)).unwrap_or(false);
    written.clear = flag("clear");
    let blatant = flag("blatant");
    written.spam = Spam { spam: flag("spam") || blatant, phishy: flag("phishy"), blatant };
    written
}

/// A message with its envelope. The error says which half of the envelope nobody gave.
pub fn trial(written: Written, content: &[u8]) -> Result<Trial, &'static str> {
    let content = crlf(content);
    let (from, to) = {
        let message = Message::read(&content);
        let from = match written.from {
            Some(from) => from,
            // A message of many authors has one Sender (RFC 5322 section 3.6.2).
            None => Some(
                ["sender", "from"]
                    .iter()
                    .find_map(|name| message.addresses(name).into_iter().next())
                    .ok_or("no envelope sender is given, and neither Sender nor From has an address")?,
            ),
        };
        let to = written.to.unwrap_or_else(|| {
            let mut to = Vec::new();
            for mailbox in ["to", "cc", "bcc"].iter().flat_map(|name| message.addresses(name)) {
                if !to.contains(&mailbox) {
                    to.push(mailbox);
                }
            }
            to
        });
        (from, to)
    };
    if to.is_empty() {
        return Err("no envelope recipient is given, and To, Cc and Bcc have no address");
    }
    let Written { client, clear, authenticated, spam, .. } = written;
    Ok(Trial { content, sender: from, to, client, clear, authenticated, spam })
}
