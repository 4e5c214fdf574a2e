//! The queue in words for people, and as JSON.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::cli::words::{clean, cut, table, time, with_pods};
use crate::gateway::queue::{Acted, Detail, Page, Row};

pub use crate::cli::words::json;

pub fn list(page: &Page) -> String {
    let mut text = String::new();
    for row in &page.paused {
        let since = time(row.pause.since);
        let _ = write!(
            text,
            "PAUSED: {} since {since} by {}",
            clean(&row.closed.to_string()),
            clean(&row.pause.by)
        );
        if let Some(pod) = &row.pod {
            let _ = write!(text, " on {}", clean(pod));
        }
        if let Some(reason) = &row.pause.reason {
            let _ = write!(text, " ({})", clean(reason));
        }
        text.push('\n');
    }
    if page.messages.is_empty() {
        text.push_str("no waiting mail\n");
        return text;
    }
    let mut lines = vec![
        ["ID", "RECEIVED", "SIZE", "FROM", "TO", "ROUTE", "STATE", "TRIES", "NEXT", "LAST ERROR"]
            .map(str::to_owned),
    ];
    lines.extend(page.messages.iter().map(line));
    let pods = page.messages.iter().map(|row| row.pod.as_deref());
    text.push_str(&with_pods(&table(&lines), pods));
    if let Some(next) = &page.next {
        let _ = writeln!(text, "there is more: --after {next}");
    }
    text
}

fn line(row: &Row) -> [String; 10] {
    let more = row.waiting.saturating_sub(1);
    let first = row.to.first().map(String::as_str).unwrap_or("-");
    let to = if more > 0 { format!("{first} and {more} more") } else { first.to_owned() };
    let states: Vec<&str> = row.states.iter().map(|state| state.word()).collect();
    [
        row.id.clone(),
        time(row.received_at),
        row.size.to_string(),
        cut(row.from.as_deref().unwrap_or("<>")),
        cut(&to),
        cut(&row.routes.join(",")),
        states.join(","),
        row.attempts.to_string(),
        row.next_attempt.map_or_else(|| "-".to_owned(), time),
        cut(row.last_error.as_deref().unwrap_or("-")),
    ]
}

pub fn detail(detail: &Detail) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{}", clean(value));
    };
    line("ID", &detail.id);
    if let Some(pod) = &detail.pod {
        line("Pod", pod);
    }
    line("Received", &time(detail.received_at));
    line("Size", &format!("{} bytes", detail.size));
    line("From", detail.from.as_deref().unwrap_or("<>"));
    if !detail.parameters.is_empty() {
        line("", &detail.parameters.join(" "));
    }
    line("Client", &detail.origin);
    if detail.own {
        line("Written by", "the gateway itself");
    }
    line("Revision", &detail.revision);
    for recipient in &detail.recipients {
        let at = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), time);
        line("", "");
        line("To", &recipient.to);
        line("State", &recipient.state);
        let tls = if recipient.require_tls { ", TLS required by a rule" } else { "" };
        line("Route", &format!("{}{tls}", recipient.route));
        if !recipient.parameters.is_empty() {
            line("", &recipient.parameters.join(" "));
        }
        if recipient.suppress_bounces {
            line("Bounces", "nobody is told, by a rule");
        }
        for edit in &recipient.edits {
            line("Rules", edit);
        }
        if recipient.next_attempt.is_some() {
            line("Attempts", &recipient.attempts.to_string());
            line("Next", &at(recipient.next_attempt));
            line("Returned", &at(recipient.gives_up_at));
            line("Sender warned", if recipient.warned { "yes" } else { "no" });
        }
        if let Some(error) = &recipient.last_error {
            line("Last error", error);
        }
    }
    text
}

pub fn acted(how: &str, sum: &Acted) -> String {
    let Acted { messages, recipients, busy, paused, next: _, missing: _ } = sum;
    let done = if how == "drop" { "dropped" } else { "to be tried again" };
    let mut text = format!("{messages} messages ({recipients} recipients) {done}");
    if *busy > 0 {
        let _ = write!(text, "; {busy} recipients are being attempted right now and were left alone");
    }
    if *paused > 0 {
        let _ = write!(text, "; {paused} recipients wait because their route or domain is paused");
    }
    text.push('\n');
    text
}

pub fn add(sum: &mut Acted, part: &Acted) {
    sum.messages += part.messages;
    sum.recipients += part.recipients;
    sum.busy += part.busy;
    sum.paused += part.paused;
    sum.next.clone_from(&part.next);
    sum.missing
        .extend(part.missing.iter().filter(|pod| !sum.missing.contains(pod)).cloned().collect::<Vec<_>>());
}

/// A message for a terminal, which must not obey it.
pub fn harmless(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::pauses::{Closed, Pause};
    use crate::gateway::queue::{PauseRow, State};

    #[test]
    fn a_listing_begins_with_what_is_paused_and_ends_with_where_to_go_on() {
        let at = Timestamp::from_second(1_800_000_000).expect("a time");
        let row = Row {
            id: "0GT3Jw".into(),
            pod: None,
            received_at: at,
            size: 9,
            from: None,
            to: vec!["a@b.example".into(), "c@b.example".into()],
            waiting: 4,
            routes: vec!["mail/relay".into()],
            states: vec![State::Deferred, State::Paused],
            attempts: 3,
            next_attempt: Some(at),
            last_error: Some("\u{1b}[2J said: 451".into()),
        };
        let pause = Pause { since: at, by: "uid/0".into(), reason: Some("they are down".into()) };
        let paused = vec![PauseRow { closed: Closed::Route("mail/relay".into()), pause, pod: None }];
        let page = Page { messages: vec![row], next: Some("0GT3Jw".into()), paused, missing: Vec::new() };
        let text = list(&page);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "PAUSED: route mail/relay since 2027-01-15 08:00:00Z by uid/0 (they are down)");
        assert!(
            lines[2].contains("a@b.example and 3 more") && lines[2].contains("deferred,paused"),
            "{text}"
        );
        assert_eq!(lines[3], "there is more: --after 0GT3Jw");
        assert!(!text.contains('\u{1b}'), "no terminal obeys a next hop");
    }

    #[test]
    fn what_was_done_is_one_sentence() {
        let sum = Acted { messages: 2, recipients: 3, busy: 1, ..Acted::default() };
        assert_eq!(
            acted("drop", &sum),
            "2 messages (3 recipients) dropped; 1 recipients are being attempted right now and were left alone\n"
        );
    }
}
