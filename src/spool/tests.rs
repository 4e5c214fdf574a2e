//! What the spool promises, tried on real folders and on a simulated disk whose power can be cut.

/// Says what was measured; `cargo test -- --nocapture` shows it.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod alone;
mod crash;
mod damage;
mod folder;
mod handover;
mod hold;
mod memory;
mod sim;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::mail::edit::Edit;
use crate::mail::envelope::{Recipient, Sender, Via};

/// Small enough that a few messages fill several.
const SEGMENT: u64 = 64 * 1024;

fn options() -> Options {
    Options { segment_bytes: Some(SEGMENT), reserve_bytes: Some(SEGMENT), warm_bytes: Some(1 << 20) }
}

fn entry(targets: usize) -> Entry {
    let target = |n: usize| Target {
        recipient: Recipient::new(format!("user{n}@example.org").parse().expect("an address")),
        via: Via::Normal,
        require_tls: n % 2 == 1,
        suppress_bounces: false,
        edits: Arc::new([Edit::PrefixSubject { text: format!("n{n}") }]),
    };
    Entry {
        sender: Sender { mailbox: Some("ani@example.com".parse().expect("an address")), ..Sender::default() },
        received_at: "2026-08-01T10:00:00.123456789Z".parse().expect("a time"),
        origin: "client.example ([192.0.2.1])".into(),
        revision: "r1".into(),
        own: false,
        held: None,
        targets: (0..targets).map(target).collect(),
    }
}

/// An entry whose recipients are held for a month.
fn held_entry(targets: usize) -> Entry {
    let rule =
        RuleName { kind: "ComplianceRule".into(), namespace: "mail".into(), name: "no-secrets".into() };
    let found = Found { part: "body".into(), entry: "secret".into(), offset: 12, length: 6, hidden: false };
    let held = Held {
        message: "0000000000000000000001".parse().expect("an id"),
        until: Timestamp::now() + Duration::from_secs(30 * 24 * 3600),
        quarantine: Some(QuarantineName { namespace: "mail".into(), name: "legal".into() }),
        reasons: vec![HeldFor { rule, found: vec![found] }],
        passed: vec![],
        notify_sender: true,
        subject: Some("hi".into()),
        archived: false,
        made: vec![7],
        facts: Facts {
            client: [192, 0, 2, 1].into(),
            tls: true,
            authenticated: vec!["example.com".parse().expect("a domain")],
            spam: false,
            phishy: true,
            blatant: false,
            received: 3,
            identity: None,
        },
    };
    Entry { held: Some(Arc::new(held)), ..entry(targets) }
}

fn submission(spool: &Spool, targets: usize, content: &[u8]) -> Submission {
    Submission { id: spool.new_id(), entry: entry(targets), content: written(spool, content) }
}

/// Content as the gateway makes it: piece by piece.
fn written(spool: &Spool, content: &[u8]) -> Content {
    let mut writer = spool.writer();
    content.chunks(70_000).for_each(|piece| writer.write(piece).expect("there is room"));
    writer.finish().expect("it was written")
}

/// Bytes that differ from message to message, and within one from block to block.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let block = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes().repeat(32);
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    for (n, at) in (0..len).step_by(block.len()).enumerate() {
        bytes[at] = n as u8;
    }
    bytes
}

fn retry_at(attempts: u32, next_attempt: Timestamp) -> Fate {
    Fate::Waiting(Waiting { attempts, next_attempt, last_error: Some("451 later".into()), warned: false })
}

fn long_ago() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn in_an_hour() -> Timestamp {
    Timestamp::now() + Duration::from_secs(3600)
}
