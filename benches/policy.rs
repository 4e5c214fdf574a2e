//! What a decision costs: an ordinary message of 4 KiB against word lists of two sizes, and compiling.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postern::bundle::document::*;
use postern::bundle::{Bundle, Revision};
use postern::mail::envelope::{Envelope, Recipient, Sender};
use postern::policy::{Fuel, Transaction, compile, decide};

fn bundle(words: usize) -> Bundle {
    let origin = |kind, name: &str| Origin {
        object: ObjectId { kind, namespace: "bench".into(), name: name.into() },
        uid: String::new(),
        generation: 1,
    };
    let action = Action::Reject(Reject::default());
    let rule = Rule {
        content: Some(Content {
            words: (0..words).map(|n| format!("forbidden{n}")).collect(),
            word_options: WordOptions::default(),
            search_html_source: false,
            expressions: Vec::new(),
            combine: Combine::Any,
        }),
        ..Rule::new(origin(ObjectKind::ComplianceRule, "words"), action)
    };
    let gateway = Gateway {
        domains: vec!["solarmora.com".parse().expect("a domain")],
        ..Gateway::new(origin(ObjectKind::OutboundGateway, "default"))
    };
    Bundle { rules: vec![rule], ..Bundle::new(gateway) }
}

fn message() -> Vec<u8> {
    let line = "An ordinary line of an ordinary message, größer als nötig, with words of every length.\r\n";
    let mut message = b"From: ani@solarmora.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        .to_vec();
    while message.len() < 4096 {
        message.extend_from_slice(line.as_bytes());
    }
    message
}

fn decisions(criterion: &mut Criterion) {
    let revision = Revision::of(FORMAT, &[], &[]);
    let recipients = vec![Recipient::new("b@rcpt.example".parse().expect("an address"))];
    let sender =
        Sender { mailbox: Some("ani@solarmora.com".parse().expect("an address")), ..Sender::default() };
    let envelope = Envelope { sender, recipients };
    let transaction = Transaction::new("B", &envelope);
    let message = message();
    let mut group = criterion.benchmark_group("decide 4 KiB");
    group.throughput(Throughput::Bytes(message.len() as u64));
    for words in [10, 10_000] {
        let policy = compile(&bundle(words), &revision).expect("the rules are right");
        group.bench_function(format!("{words} words"), |bencher| {
            bencher.iter(|| decide(&policy, &transaction, black_box(&message), Fuel::default()));
        });
    }
    group.finish();
    let large = bundle(10_000);
    criterion.bench_function("compile 10000 words", |bencher| {
        bencher.iter(|| compile(black_box(&large), &revision).expect("the rules are right"));
    });
}

criterion_group!(benches, decisions);
criterion_main!(benches);
