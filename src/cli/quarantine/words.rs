//! Held mail in words for people, and as JSON.

use std::fmt::Write as _;

use crate::cli::words::{clean, cut, time};
use crate::gateway::quarantine::{Detail, Done, Row, few};

pub use crate::cli::words::json;

pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no held mail\n".to_owned();
    }
    let mut lines =
        vec![["ID", "HELD SINCE", "EXPIRES", "FROM", "TO", "SUBJECT", "RULES"].map(str::to_owned)];
    for row in rows {
        let from = row.from.as_deref().unwrap_or("<>");
        lines.push([
            row.id.clone(),
            time(row.held_since),
            time(row.expires),
            cut(from),
            cut(&few(&row.to, 1)),
            cut(row.subject.as_deref().unwrap_or("-")),
            clean(&few(&row.rules, 2)),
        ]);
    }
    let pods = rows.iter().map(|row| row.pod.as_deref());
    crate::cli::words::with_pods(&crate::cli::words::table(&lines), pods)
}

pub fn detail(detail: &Detail) -> String {
    let row = &detail.row;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{}", clean(value));
    };
    line("ID", &row.id);
    if let Some(pod) = &row.pod {
        line("Pod", pod);
    }
    if row.message != row.id {
        line("Message", &row.message);
    }
    line("Quarantine", &row.quarantine);
    line("Held since", &time(row.held_since));
    line("Expires", &time(row.expires));
    line("From", row.from.as_deref().unwrap_or("<>"));
    for to in &row.to {
        line("To", to);
    }
    line("Subject", row.subject.as_deref().unwrap_or("-"));
    line("Size", &format!("{} bytes", row.size));
    line("Client", &format!("{}{}", detail.origin, if detail.tls { ", TLS" } else { ", clear text" }));
    if !detail.authenticated.is_empty() {
        line("Vouched by", &detail.authenticated.join(", "));
    }
    line("Revision", &detail.revision);
    for rule in &detail.passed {
        line("Overruled", rule);
    }
    for why in &detail.reasons {
        line("Held by", &why.rule);
        for found in &why.found {
            let hidden = if found.hidden { ", hidden from readers" } else { "" };
            let (entry, part) = (&found.entry, &found.part);
            line("", &format!("{entry} in {part}, {} bytes at {}{hidden}", found.length, found.offset));
        }
    }
    text.push('\n');
    for header in detail.headers.lines() {
        text.push_str(&clean(header));
        text.push('\n');
    }
    text
}

pub fn done(done: &Done, offline: bool) -> String {
    let Done { id, result, deliveries, delivered_as, held_again, rejected, reported, expires, .. } = done;
    let mut text = match result.as_str() {
        "released" => format!("{id} released"),
        "heldAgain" => format!("{id} released, and held again by another rule"),
        "rejected" => format!("{id} released, and rejected by another rule"),
        "discarded" => format!("{id} released, and discarded as blatant spam"),
        other => format!("{id} {other}"),
    };
    if let Some(delivered_as) = delivered_as {
        let what = if *deliveries == 1 { "delivery" } else { "deliveries" };
        let when = if offline { ", when the gateway runs" } else { "" };
        let _ = write!(text, ": {deliveries} {what} as {delivered_as}{when}");
    }
    if !held_again.is_empty() {
        let _ = write!(text, "; held again as {}", held_again.join(", "));
    }
    if *rejected > 0 && result == "released" {
        let _ = write!(text, "; {rejected} rejected");
    }
    if *reported {
        text.push_str("; the sender is told");
    }
    if let Some(expires) = expires {
        let _ = write!(text, " until {}", time(*expires));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn row() -> Row {
        let at = Timestamp::from_second(1_800_000_000).expect("a time");
        Row {
            id: "0GT3Jw".into(),
            pod: None,
            message: "0GT3Jw".into(),
            held_since: at,
            expires: at,
            quarantine: "default".into(),
            from: None,
            to: vec!["a@b.example".into(), "c@b.example".into()],
            subject: Some(format!("\u{1b}[2J{}", "long ".repeat(20))),
            rules: vec!["ComplianceRule/mail/words".into()],
            size: 10,
            busy: false,
        }
    }

    #[test]
    fn a_listing_is_one_line_for_a_message_and_no_terminal_obeys_it() {
        let text = table(&[row()]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("a@b.example and 1 more") && text.contains("<>"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains('…'), "{text}");
        assert_eq!(table(&[]), "no held mail\n");
    }

    #[test]
    fn what_was_done_is_one_sentence() {
        let base = Done { id: "x".into(), ..Done::default() };
        let released = Done {
            result: "released".into(),
            deliveries: 2,
            delivered_as: Some("y".into()),
            rejected: 1,
            reported: true,
            ..base.clone()
        };
        assert_eq!(done(&released, false), "x released: 2 deliveries as y; 1 rejected; the sender is told\n");
        let denied = Done { result: "denied".into(), ..base };
        assert_eq!(done(&denied, true), "x denied\n");
    }
}
