//! A test in words: for somebody who was woken up, and as JSON.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Answer;
use crate::bundle::probe::{CertificateFacts, HostProbe, Mark, Step};
use crate::delivery::probe::advice::at;

/// Columns of a terminal that nobody has made larger.
const WIDTH: usize = 100;
/// Where the text of a stage begins.
const TEXT: usize = 36;

pub fn json(answer: &Answer) -> String {
    let mut text = serde_json::to_string_pretty(answer).expect("these have string keys only");
    text.push('\n');
    text
}

pub fn text(answer: &Answer, now: Timestamp) -> String {
    let mut text = String::new();
    for (number, host) in answer.hosts.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        one(&mut text, answer, host, now);
    }
    if answer.hosts.len() > 1 {
        let passed = answer.hosts.iter().filter(|host| host.passed()).count();
        let _ = writeln!(text, "\n{passed} of {} hosts passed. {}", answer.hosts.len(), overall(answer));
    }
    text
}

/// What it means for the route as a whole.
fn overall(answer: &Answer) -> String {
    if answer.passed {
        return format!("{} is fine.", answer.target);
    }
    let effect = answer.message.lines().find_map(|line| line.strip_prefix("Effect: "));
    effect.unwrap_or_default().to_owned()
}

fn one(text: &mut String, answer: &Answer, host: &HostProbe, now: Timestamp) {
    let place = at(host);
    let _ = match answer.target == place || answer.target == host.host {
        true => writeln!(text, "{place}"),
        false => writeln!(text, "{place} ({})", answer.target),
    };
    for (number, step) in host.steps.iter().enumerate() {
        stage(text, number + 1, step);
    }
    if let Some(facts) = &host.certificate {
        certificate(text, facts, now);
    }
    let verdict = match host.passed() {
        true => format!("PASSED {}", host.reason),
        // The way is fine, only the recipient was refused.
        false if host.reason.passed() == Some(true) => "FAILED Recipient".to_owned(),
        false => format!("FAILED {}", host.reason),
    };
    let _ = writeln!(text, "\n{verdict}");
    paragraph(text, "  ", "  ", &host.text);
    paragraph(text, "  Effect: ", "  ", &host.effect);
    if !host.advice.is_empty() {
        text.push_str("  What helps:\n");
        for (number, advice) in host.advice.iter().enumerate() {
            paragraph(text, &format!("  {}. ", number + 1), "     ", advice);
        }
    }
}

fn stage(text: &mut String, number: usize, step: &Step) {
    let mark = match (step.result, step.demanded) {
        (Mark::Passed, _) => "ok",
        (Mark::Failed, true) => "FAILED",
        (Mark::Failed, false) => "no",
        (Mark::Skipped, _) => "-",
    };
    let time = match step.result == Mark::Skipped || step.millis == 0 {
        true => String::new(),
        false => format!("{} ms", step.millis),
    };
    let first = format!("  {number} {:<15} {mark:<7}{time:>9}", step.stage.as_str());
    let said = match (step.result, step.demanded) {
        (Mark::Failed, false) => format!("{} (the route does not ask for it)", step.text),
        _ => step.text.clone(),
    };
    paragraph(text, &format!("{first:<TEXT$}"), &" ".repeat(TEXT), &said);
}

fn certificate(text: &mut String, facts: &CertificateFacts, now: Timestamp) {
    let names = match facts.names.is_empty() {
        true => "none".to_owned(),
        false => facts.names.join(", "),
    };
    let left = match facts.days_left(now) {
        days if days < -1 => format!("{} days ago", -days),
        -1 => "less than a day ago".to_owned(),
        0 => "less than a day left".to_owned(),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    };
    text.push_str("\n  Certificate\n");
    for (name, value) in [
        ("subject", facts.subject.clone()),
        ("names", names),
        ("issuer", facts.issuer.clone()),
        ("valid", format!("{} to {} ({left})", facts.not_before, facts.not_after)),
    ] {
        paragraph(text, &format!("    {name:<9}"), "             ", &value);
    }
}

/// Lines of at most [`WIDTH`] columns, broken at blanks.
fn paragraph(text: &mut String, first: &str, further: &str, said: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in said.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{}", line.trim_end());
            further.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}
