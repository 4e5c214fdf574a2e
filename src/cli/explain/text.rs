//! An account for people: the rules, the merge, what leaves.

use std::fmt::Write as _;

use crate::bundle::document::Mode;
use crate::gateway::decisions::{
    Circumstances, DeliveryFate, Explained, Fate, MessageFate, Occasion, RuleFate, SenderFate, Step,
};

pub fn text(explained: &Explained) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "revision {}, reference {}", explained.revision, explained.r#ref);
    let SenderFate { address, source, account_type, unit } = &explained.sender;
    let who = address.as_deref().unwrap_or("nobody");
    let _ = writeln!(out, "sender {who} (by {source}), {account_type}, unit {unit}");
    if let Some(decided) = &explained.decided {
        circumstances(&mut out, decided);
    }
    for message in &explained.messages {
        of_recipient(&mut out, message);
    }
    if let Some(archive) = &explained.archive {
        out.push_str("\narchive\n");
        delivery(&mut out, archive);
    }
    if let Some(data) = &explained.transaction.data {
        let _ = writeln!(out, "\nreply after the data: {data}");
    }
    out
}

fn circumstances(out: &mut String, decided: &Circumstances) {
    let Circumstances { time, occasion, client, tls, from, authenticated, spam, message_id, size } = decided;
    let occasion = match occasion {
        Occasion::Received => "received",
        Occasion::Released => "released from quarantine",
    };
    let leg = if *tls { "over TLS" } else { "in clear text" };
    let from = from.as_deref().unwrap_or("<>");
    let _ = writeln!(out, "{occasion} {time} from {from}, client {client} {leg}, {size} bytes");
    if let Some(id) = message_id {
        let _ = writeln!(out, "Message-ID {id}");
    }
    if !authenticated.is_empty() {
        let _ = writeln!(out, "authenticated: {}", authenticated.join(", "));
    }
    let said =
        [(spam.blatant, "blatant spam"), (spam.spam && !spam.blatant, "spam"), (spam.phishy, "phishing")];
    let said: Vec<_> = said.into_iter().filter(|(said, _)| *said).map(|(_, word)| word).collect();
    if !said.is_empty() {
        let _ = writeln!(out, "classified as {}", said.join(", "));
    }
}

fn of_recipient(out: &mut String, message: &MessageFate) {
    let fate = match (message.disposition, &message.quarantine) {
        (Fate::Quarantine, Some(name)) => format!("quarantine {name}"),
        (Fate::Deliver, _) if message.discarded => "accepted and dropped".to_owned(),
        (fate, _) => fate.as_str().to_owned(),
    };
    let _ = writeln!(out, "\nto {}: {fate}", message.recipient);
    for rule in &message.considered.rules {
        of_rule(out, rule);
    }
    if message.considered.not_listed > 0 {
        let _ = writeln!(out, "  · {} further rules had no part in it", message.considered.not_listed);
    }
    if !message.considered.merge.is_empty() {
        out.push_str("  merge\n");
        for step in &message.considered.merge {
            of_step(out, step);
        }
    }
    for copy in &message.deliveries {
        delivery(out, copy);
    }
    for copy in &message.copies_left_out {
        let note = copy.note.as_ref().map(|note| format!(" by {note}")).unwrap_or_default();
        let _ = writeln!(out, "  → {} gets no copy (asked by {}): {}{note}", copy.to, copy.rule, copy.fate);
    }
    let _ = writeln!(out, "  reply on its own: {}", message.reply);
}

fn of_rule(out: &mut String, rule: &RuleFate) {
    let mark = if rule.matched { "✓" } else { "·" };
    let shadow = if rule.mode == Mode::Shadow { " (shadow)" } else { "" };
    let outcome = match (&rule.bypassed_by, &rule.clause, &rule.note) {
        (Some(list), _, _) => format!("  exempted by address list {list}"),
        (None, Some(clause), _) => format!("  no match: {clause}"),
        (None, None, Some(note)) => format!("  {note}"),
        (None, None, None) => String::new(),
    };
    let _ = writeln!(out, "  {mark} {}{shadow}{outcome}", rule.rule);
    for why in &rule.why {
        let hidden = if why.hidden { ", hidden from the reader" } else { "" };
        let _ = writeln!(
            out,
            "      {:?} in {} at {}, {} bytes{hidden}",
            why.entry, why.part, why.offset, why.length
        );
        if !why.snippet.is_empty() {
            let _ = writeln!(out, "        {}", why.snippet);
        }
    }
    if !rule.overridden.is_empty() {
        let _ = writeln!(out, "      decided by a better-ranked rule: {}", rule.overridden.join(", "));
    }
}

fn of_step(out: &mut String, step: &Step) {
    let mut line = format!("    {}: {}", step.step, step.result);
    if !step.by.is_empty() {
        let _ = write!(line, " (by {})", step.by.join(", "));
    }
    if !step.instead_of.is_empty() {
        let _ = write!(line, ", not by {}", step.instead_of.join(", "));
    }
    let _ = writeln!(out, "{line}");
}

fn delivery(out: &mut String, copy: &DeliveryFate) {
    let route = copy.route.as_deref().unwrap_or("the MX hosts of the recipient's domain");
    let of = copy.copy_of.as_ref().map(|of| format!(", copy of the mail to {of}")).unwrap_or_default();
    let _ = writeln!(out, "  → {} by {route}, TLS {}{of}", copy.to, copy.tls);
    if let Some(subject) = &copy.subject {
        let _ = writeln!(out, "      Subject: {subject}");
    }
    for (name, value) in &copy.headers_added {
        let _ = writeln!(out, "      {name}: {value}");
    }
    for name in &copy.attachments_removed {
        let _ = writeln!(out, "      without attachment {name}");
    }
    if !copy.changes.is_empty() {
        let _ = writeln!(out, "      changed: {}", copy.changes.join(", "));
    }
    for note in &copy.notes {
        let _ = writeln!(out, "      {note}");
    }
    if copy.suppress_bounces {
        out.push_str("      its bounces are not sent to the sender\n");
    }
    if copy.drop_spam {
        out.push_str("      not made for spam\n");
    }
}
