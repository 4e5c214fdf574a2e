//! The words of refusals: notices of rules (spec R68) and the texts of section 18.

use super::verdict::{Deferral, Rejection, Transaction};
use crate::bundle::document::{EnhancedCode, ObjectId, Reject};
use crate::mail::address::Mailbox;

/// Characters of a notice.
const MAX_NOTICE: usize = 1000;
/// Octets of one line of text on the wire: 512 with code, enhanced code and line end (RFC 5321 section
/// 4.5.3.1.5).
const MAX_LINE: usize = 490;

/// The refusal by a rule, in the words of its author where they fit the session.
pub(super) fn rejection(rule: &ObjectId, reject: &Reject, transaction: &Transaction<'_>) -> Rejection {
    let default = if reject.hide_rule {
        "Message rejected by organization policy".to_owned()
    } else {
        format!("Message rejected by organization policy (rule: {}", rule.name)
    };
    let default = match reject.hide_rule {
        true => format!("{default} (ref: {})", transaction.id),
        false => format!("{default}, ref: {})", transaction.id),
    };
    let written = |notice: &Option<String>| {
        let text = clean(notice.as_deref()?);
        (!text.is_empty()).then(|| format!("{text} (ref: {})", transaction.id))
    };
    let full_text = written(&reject.notice).unwrap_or_else(|| default.clone());
    let fits = |text: &String| transaction.utf8_replies || text.is_ascii();
    let text = [Some(full_text.clone()), written(&reject.ascii_notice)].into_iter().flatten().find(fits);
    Rejection {
        rule: rule.clone(),
        code: reject.enhanced_code,
        text: wrap(&text.unwrap_or(default)),
        full_text,
    }
}

/// The refusal of a message that came in clear text under a rule that demands TLS (spec R93).
pub(super) fn clear_text(rule: &ObjectId, transaction: &Transaction<'_>) -> Rejection {
    let text = format!("Secure transport required by policy (ref: {})", transaction.id);
    Rejection { rule: rule.clone(), code: EnhancedCode([5, 7, 1]), text: text.clone(), full_text: text }
}

/// Blatant spam (spec R83).
pub(super) fn spam(gateway: &ObjectId, transaction: &Transaction<'_>) -> Rejection {
    let text = format!("Message refused as spam (ref: {})", transaction.id);
    Rejection { rule: gateway.clone(), code: EnhancedCode([5, 7, 1]), text: text.clone(), full_text: text }
}

/// A sender of an own domain that the directory does not know (spec R117).
pub(super) fn unknown_sender(directory: &ObjectId, transaction: &Transaction<'_>) -> Rejection {
    let text = format!("Sender is not in the directory of this organisation (ref: {})", transaction.id);
    Rejection { rule: directory.clone(), code: EnhancedCode([5, 7, 1]), text: text.clone(), full_text: text }
}

/// No certificate to encrypt with, and the rule wants no clear text then. The words are those of spec R105.
pub(super) fn no_certificate(rule: &ObjectId, to: &Mailbox, transaction: &Transaction<'_>) -> Rejection {
    let text = |to: &str| format!("Cannot encrypt for {to}: no valid certificate");
    unsealed(rule, text(&to.to_string()), text("a recipient"), transaction)
}

/// Nobody signs for the sender, and the rule wants nothing unsigned then.
pub(super) fn no_signer(rule: &ObjectId, transaction: &Transaction<'_>) -> Rejection {
    let text = |from: &str| format!("Cannot sign for {from}: no valid certificate");
    let sender = transaction.envelope.sender.mailbox.as_ref().map(ToString::to_string);
    unsealed(rule, text(sender.as_deref().unwrap_or("nobody")), text("the sender"), transaction)
}

fn unsealed(rule: &ObjectId, full_text: String, plain: String, transaction: &Transaction<'_>) -> Rejection {
    let fits = transaction.utf8_replies || full_text.is_ascii();
    let short = if fits { full_text.clone() } else { plain };
    Rejection { rule: rule.clone(), code: EnhancedCode([5, 7, 5]), text: wrap(&short), full_text }
}

/// More copies than one message may make (spec R101): all of it waits, none is sent in part.
pub(super) fn too_many_copies(maximum: usize, transaction: &Transaction<'_>) -> Deferral {
    let text =
        format!("Policy adds more than {maximum} recipients to this message (ref: {})", transaction.id);
    Deferral { code: EnhancedCode([4, 7, 1]), text, object: None }
}

/// Fail closed (spec R142). What exactly is wrong is for the object's author, not for the client.
pub(super) fn deferral(object: Option<ObjectId>, transaction: &Transaction<'_>) -> Deferral {
    let text = format!("Policy evaluation unavailable, try again later (ref: {})", transaction.id);
    Deferral { code: EnhancedCode([4, 7, 1]), text, object }
}

/// A notice as plain text: line ends LF, no other controls, no empty line, bounded.
fn clean(notice: &str) -> String {
    let notice: String = notice.chars().take(MAX_NOTICE).collect();
    let notice = notice.replace("\r\n", "\n").replace('\r', "\n");
    let lines = notice.lines().map(|line| {
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Breaks lines that are too long for the wire, at a blank where there is one.
fn wrap(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut rest = line;
        while rest.len() > MAX_LINE {
            let limit = rest.floor_char_boundary(MAX_LINE);
            let at = rest[..limit].rfind(' ').filter(|at| *at > 0).unwrap_or(limit);
            out.push_str(&rest[..at]);
            out.push('\n');
            rest = rest[at..].trim_start();
        }
        out.push_str(rest);
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}
