//! What the gateway writes about held mail: the notice to a sender, the regular summary for reviewers. Goes by
//! the way of all mail of the gateway's own, with a null sender, and is never evaluated by rules.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;

use super::Row;
use super::hold;
use crate::gateway::live::Running;
use crate::mail::address::Mailbox;
use crate::mail::dsn::Composed;
use crate::mail::envelope::{Notify, Recipient};
use crate::mail::letter::{Letter, compose};
use crate::spool::{Content, Entry, QueueId, Submission, Target};

/// Recipients that a notice names.
const NAMED: usize = 50;

/// Tells the sender that his message is held (spec R73). What the rule found is for the reviewers.
pub fn held_notice(
    running: &Running,
    id: QueueId,
    now: Timestamp,
    to: &Mailbox,
    recipients: &[&Mailbox],
    message: QueueId,
    content: &Content,
) -> Submission {
    let subject = hold::subject(content).filter(|subject| !subject.trim().is_empty());
    let mut text = String::from(
        "Your message was accepted and is held for review by your organisation. It will be sent on when a\n\
         reviewer releases it. There is no need to send it again.\n\n",
    );
    if let Some(subject) = &subject {
        let _ = writeln!(text, "Subject: {subject}");
    }
    for recipient in recipients.iter().take(NAMED) {
        let _ = writeln!(text, "To: {recipient}");
    }
    if recipients.len() > NAMED {
        let _ = writeln!(text, "and {} more", recipients.len() - NAMED);
    }
    let _ = writeln!(text, "Reference: {message}");
    let subject = match subject {
        Some(subject) => format!("Held for review: {subject}"),
        None => "Held for review".to_owned(),
    };
    letter(running, id, now, &[to], &subject, &text, "auto-replied")
}

/// The regular summary of one quarantine (spec R74). `more`: held messages that are not listed.
pub fn digest(
    running: &Running,
    id: QueueId,
    now: Timestamp,
    to: &[Mailbox],
    quarantine: &str,
    rows: &[Row],
    more: usize,
) -> Submission {
    let count = rows.len() + more;
    let what = if count == 1 { "message is" } else { "messages are" };
    let mut text =
        format!("{count} {what} held in quarantine {quarantine} at {}.\n", running.routes.hostname);
    for row in rows {
        let _ = write!(
            text,
            "\n{}\n  held {}, deleted {}\n  from {}\n  to {}\n  subject {}\n  because of {}\n",
            row.id,
            row.held_since.strftime("%F %H:%M UTC"),
            row.expires.strftime("%F %H:%M UTC"),
            row.from.as_deref().unwrap_or("<>"),
            super::few(&row.to, 5),
            row.subject.as_deref().unwrap_or("(none)"),
            row.rules.join(", "),
        );
    }
    if more > 0 {
        let _ = writeln!(text, "\nand {more} more");
    }
    text.push_str("\nTo look at them: postern quarantine show ID; then release or deny.\n");
    let to: Vec<&Mailbox> = to.iter().collect();
    letter(
        running,
        id,
        now,
        &to,
        &format!("{count} held in quarantine {quarantine}"),
        &text,
        "auto-generated",
    )
}

fn letter(
    running: &Running,
    id: QueueId,
    now: Timestamp,
    to: &[&Mailbox],
    subject: &str,
    text: &str,
    auto_submitted: &'static str,
) -> Submission {
    let table = &running.routes;
    let name = id.to_string();
    let Composed { sender, content } = compose(&Letter {
        now,
        id: &name,
        host: &table.hostname,
        name: "Mail gateway",
        from: &table.notices_from,
        to,
        subject,
        text,
        auto_submitted,
    });
    let target = |mailbox: &&Mailbox| Target {
        recipient: Recipient { notify: Notify::Never, ..Recipient::new((*mailbox).clone()) },
        via: table.notices_via.clone(),
        require_tls: false,
        edits: Arc::from([]),
        suppress_bounces: true,
    };
    let entry = Entry {
        sender,
        received_at: now,
        origin: table.hostname.clone(),
        revision: running.revision.to_string(),
        own: true,
        held: None,
        targets: to.iter().map(target).collect(),
    };
    Submission { id, entry, content: Content::from(content) }
}
