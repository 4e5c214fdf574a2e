//! The part of a report that people read: what happened, to whom, why, and what to do about it.

use std::fmt::Write as _;

use super::{Action, Fate, Report, date};
use crate::mail::edit;

/// Where lines for people are broken.
const WIDTH: usize = 74;

pub(super) fn subject(report: &Report<'_>) -> &'static str {
    match action(report) {
        Action::Failed => "Your message could not be delivered",
        Action::Delayed => "Your message is delayed",
        Action::Relayed => "Your message was passed on",
    }
}

pub(super) fn text(report: &Report<'_>, head: &[u8]) -> String {
    let action = action(report);
    let mut text = String::new();
    let what = match action {
        Action::Failed => "could not be delivered to the following recipients.",
        Action::Delayed => {
            "has not been delivered yet to the following recipients. You need not send it again: \
             further attempts are made."
        }
        Action::Relayed => {
            "was passed on for the following recipients, to mail servers that send no delivery \
             reports. No further report will follow unless something fails."
        }
    };
    let mut line = |words: &str| wrap(&mut text, words);
    line(&format!("This is the mail gateway {}.", report.reporting_mta));
    line("");
    line(&format!("Your message of {} {what}", date(report.arrived)));
    if let Some(subject) = original_subject(head) {
        line("");
        line(&format!("Subject: {subject}"));
    }
    for fate in report.fates {
        line("");
        line(&format!("<{}>", fate.recipient.mailbox));
        match action {
            Action::Relayed => {}
            Action::Failed | Action::Delayed => {
                line(&format!("    {}.", clean(&fate.reason).trim_end_matches(['.', ' '])));
            }
        }
        if let Some(until) = fate.retry_until.filter(|_| action == Action::Delayed) {
            line(&format!("    Attempts go on until {}.", date(until)));
        }
    }
    if action == Action::Failed {
        let mut said: Vec<&str> = Vec::new();
        for advice in report.fates.iter().map(advice) {
            if !said.contains(&advice) {
                said.push(advice);
            }
        }
        line("");
        line("What you can do:");
        for advice in said {
            line(&format!("- {advice}"));
        }
    }
    text
}

/// What a sender can do about a failure, by what its status says (RFC 3463).
fn advice(fate: &Fate) -> &'static str {
    match fate.status {
        [_, 1, 0..=3] => "Check the address for typing mistakes and send the message again.",
        [_, 1, 10] => "The domain says that it takes no mail. Ask the recipient for another address.",
        [_, 2, 2] => "The recipient's mailbox is full. Try again later, or reach the recipient another way.",
        [_, 2, 3] | [_, 3, 4] => "The message is too large. Send it without attachments, or in parts.",
        [_, 4, _] => {
            "The recipient's mail server could not be reached. Check the part of the address after \
             the @, or try again later."
        }
        [_, 6, 3] | [_, 6, 7] => {
            "The recipient's mail server cannot take the characters in this message or its \
             addresses. Send it again with plain ASCII text and addresses."
        }
        [_, 7, 4] | [_, 7, 5] | [_, 7, 10] => {
            "The message must travel encrypted and the way to the recipient is not secure enough. \
             Forward this report to your mail administrator."
        }
        [_, 7, _] => {
            "The message was refused by a policy. If you think that this is a mistake, forward this \
             report to your mail administrator."
        }
        _ => "If you do not know what to do, forward this report to your mail administrator.",
    }
}

fn action(report: &Report<'_>) -> Action {
    report.fates.first().map_or(Action::Failed, |fate| fate.action)
}

/// The subject of the reported message, for people to recognise it by.
fn original_subject(head: &[u8]) -> Option<String> {
    let subject = edit::subject_of(head)?;
    let subject: String = clean(&subject).chars().take(200).collect();
    (!subject.trim().is_empty()).then_some(subject)
}

/// Appends a line, broken at blanks; what follows a break is indented like its beginning.
fn wrap(text: &mut String, line: &str) {
    let words = line.trim_start();
    let indent = &line[..line.len() - words.len()];
    let hanging = if words.starts_with("- ") { "  " } else { "" };
    let mut width = 0;
    for word in words.split(' ') {
        if width == 0 {
            text.push_str(indent);
            width = indent.len();
        } else if width + 1 + word.chars().count() > WIDTH {
            write!(text, "\n{indent}{hanging}").expect("a String takes everything");
            width = indent.len() + hanging.len();
        } else {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += word.chars().count();
    }
    text.push('\n');
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
