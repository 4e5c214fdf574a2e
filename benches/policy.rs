//! What a decision costs, as ratios: many words beside few, many rules beside few, large messages, and the same
//! message through Postfix's body checks in the same run. `cargo bench --bench policy`.

use std::hint::black_box;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postern::bundle::document::*;
use postern::bundle::{Bundle, Revision};
use postern::mail::envelope::{Envelope, Recipient, Sender};
use postern::policy::{Fuel, Policy, Transaction, compile, decide};

fn origin(kind: ObjectKind, name: &str) -> Origin {
    let object = ObjectId { kind, namespace: "bench".into(), name: name.into() };
    Origin { object, uid: String::new(), generation: 1 }
}

fn rule(name: &str, words: Vec<String>, expressions: Vec<Expression>) -> Rule {
    Rule {
        content: Some(Content {
            words,
            word_options: WordOptions::default(),
            search_html_source: false,
            expressions,
            combine: Combine::Any,
        }),
        ..Rule::new(origin(ObjectKind::ComplianceRule, name), Action::Reject(Reject::default()))
    }
}

fn bundle(rules: Vec<Rule>) -> Bundle {
    let gateway = Gateway {
        domains: vec!["solarmora.com".parse().expect("a domain")],
        ..Gateway::new(origin(ObjectKind::OutboundGateway, "default"))
    };
    Bundle { rules: rules.into_iter().map(Arc::new).collect(), ..Bundle::new(gateway) }
}

fn compiled(rules: Vec<Rule>) -> Policy {
    compile(&Arc::new(bundle(rules)), &Revision::of(FORMAT, &[], &[])).expect("the rules are right")
}

/// One rule with a list of this length.
fn word_list(words: usize) -> Vec<Rule> {
    vec![rule("words", (0..words).map(|n| format!("forbidden{n}")).collect(), Vec::new())]
}

/// Rules with a list, a text expression and a regular expression each.
fn rules(count: usize) -> Vec<Rule> {
    let text = |kind, value| {
        Expression::Text(TextExpression { location: Location::Body, kind, value, min_count: 1 })
    };
    let one = |n: usize| {
        let words = (0..10).map(|m| format!("forbidden{n}x{m}")).collect();
        let contains = text(ExpressionKind::Contains, format!("needle number {n}"));
        let regex = text(ExpressionKind::MatchesRegex, format!(r"(?i)\bproject[- ]{n}x\b"));
        rule(&format!("r{n}"), words, vec![contains, regex])
    };
    (0..count).map(one).collect()
}

const LINE: &str =
    "An ordinary line of an ordinary message, größer als nötig, with words of every length.\r\n";

fn mail(kind: &str, size: usize) -> Vec<u8> {
    let mut mail = format!(
        "From: ani@solarmora.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n\
         Content-Type: {kind}; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    let line = match kind {
        "text/html" => format!("<tr><td class=\"x\"><b>{}</b>&nbsp;&amp;</td></tr>\r\n", LINE.trim_end()),
        _ => LINE.to_owned(),
    };
    while mail.len() < size {
        mail.extend_from_slice(line.as_bytes());
    }
    mail
}

/// A message with a Word document of this much text attached.
fn docx(size: usize) -> Vec<u8> {
    let paragraph = format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", LINE.trim_end());
    let text = paragraph.repeat(size / LINE.len());
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let document = format!(
        "<?xml version=\"1.0\"?><w:document \
         xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><w:body>{text}</w:body></w:document>"
    );
    let types = "<?xml version=\"1.0\"?><Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"/>";
    for (name, content) in [("[Content_Types].xml", types), ("word/document.xml", document.as_str())] {
        zip.start_file(name, options).expect("a file");
        zip.write_all(content.as_bytes()).expect("room");
    }
    let bytes = zip.finish().expect("a file").into_inner();
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    let mut mail = b"From: ani@solarmora.com\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
        Content-Disposition: attachment; filename=report.docx\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        .to_vec();
    mail.extend_from_slice(lines.join("\r\n").as_bytes());
    mail
}

fn judge(policy: &Policy, content: &[u8]) {
    let to = Recipient::new("b@rcpt.example".parse().expect("an address"));
    let mailbox = Some("ani@solarmora.com".parse().expect("an address"));
    let envelope = Envelope { sender: Sender { mailbox, ..Sender::default() }, recipients: vec![to] };
    black_box(decide(policy, &Transaction::new("B", &envelope), black_box(content), Fuel::default()));
}

fn decisions(criterion: &mut Criterion) {
    let small = mail("text/plain", 4096);
    let mut group = criterion.benchmark_group("decide 4 KiB");
    group.throughput(Throughput::Bytes(small.len() as u64));
    for words in [10, 100_000] {
        let policy = compiled(word_list(words));
        group.bench_function(format!("{words} words"), |b| b.iter(|| judge(&policy, &small)));
    }
    for count in [10, 1000] {
        let policy = compiled(rules(count));
        group.bench_function(format!("{count} rules"), |b| b.iter(|| judge(&policy, &small)));
    }
    group.finish();
    let mut group = criterion.benchmark_group("decide large");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, content) in [
        ("1 MiB text", mail("text/plain", 1 << 20)),
        ("1 MiB HTML", mail("text/html", 1 << 20)),
        ("5 MiB text", mail("text/plain", 5 << 20)),
        ("5 MiB of text in a docx", docx(5 << 20)),
    ] {
        let policy = compiled(rules(1000));
        group.throughput(Throughput::Bytes(content.len() as u64));
        group.bench_function(format!("{name}, 1000 rules"), |b| b.iter(|| judge(&policy, &content)));
    }
    group.finish();
    let large = Arc::new(bundle(word_list(100_000)));
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.bench_function("100000 words", |b| {
        b.iter(|| compile(black_box(&large), &Revision::of(FORMAT, &[], &[])).expect("the rules are right"));
    });
    group.finish();
}

/// Bytes that the process has resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn ratios(_: &mut Criterion) {
    let small = mail("text/plain", 4096);
    let cost = |rules: Vec<Rule>| {
        let policy = compiled(rules);
        fastest(200, || judge(&policy, &small))
    };
    let ratio = |name: &str, few: Duration, many: Duration, most: f64| {
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        let word = if ratio < most { "holds" } else { "MISSED" };
        println!("ratio: {name}: {few:?} and {many:?}, {ratio:.2} (target < {most}: {word})");
    };
    ratio("100,000 words beside 10, 4 KiB", cost(word_list(10)), cost(word_list(100_000)), 1.5);
    ratio("1,000 rules beside 10, 4 KiB", cost(rules(10)), cost(rules(1000)), 4.0);
    peer();
}

/// Runs before everything else: memory that was freed before would be taken for none.
#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn memory(_: &mut Criterion) {
    let bundle = Arc::new(bundle(word_list(100_000)));
    let before = resident();
    let policy = compile(&bundle, &Revision::of(FORMAT, &[], &[])).expect("the rules are right");
    println!("memory: a policy with 100,000 words: {} MiB resident", resident().saturating_sub(before) >> 20);
    drop(policy);
}

fn fastest(times: usize, mut run: impl FnMut()) -> Duration {
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..times).map(once).min().unwrap_or_default()
}

/// The same words and the same message through Postfix's own matcher, `postmap -q - regexp:…`, which looks at each
/// line as body_checks does. Its start is measured apart and taken off.
#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn peer() {
    let content = mail("text/plain", 1 << 20);
    let folder = std::env::temp_dir().join(format!("postern-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("main.cf"), "compatibility_level = 3.6\n").expect("a file");
    for words in [10, 1000] {
        let table = folder.join(format!("checks-{words}"));
        let lines = (0..words).map(|n| format!("/(^|[^[:alnum:]_])forbidden{n}([^[:alnum:]_]|$)/ REJECT\n"));
        std::fs::write(&table, lines.collect::<String>()).expect("a table");
        let run = |input: &[u8]| -> std::io::Result<Duration> {
            let file = folder.join("input");
            std::fs::write(&file, input)?;
            let start = Instant::now();
            let output = Command::new("postmap")
                .arg("-c")
                .arg(&folder)
                .args(["-q", "-", &format!("regexp:{}", table.display())])
                .stdin(std::fs::File::open(&file)?)
                .stdout(Stdio::null())
                .output()?;
            // It ends with 1 when nothing matches, which is so here; what is wrong it says.
            match String::from_utf8_lossy(&output.stderr).contains("fatal") {
                true => Err(std::io::Error::other("postmap does not run")),
                false => Ok(start.elapsed()),
            }
        };
        let least = |input: &[u8]| {
            (0..3).map(|_| run(input)).collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().min())
        };
        let (Ok(Some(empty)), Ok(Some(full))) = (least(b""), least(&content)) else {
            println!("peer: Postfix is NOT here (apt-get install postfix): nothing to compare with");
            break;
        };
        let theirs = full.saturating_sub(empty);
        let policy = compiled(word_list(words));
        let ours = fastest(5, || judge(&policy, &content));
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!(
            "peer: {words} words, 1 MiB text: Postfix body checks {theirs:?}, Postern {ours:?}: {ratio:.1} times"
        );
    }
    std::fs::remove_dir_all(&folder).expect("our folder");
}

criterion_group!(benches, memory, decisions, ratios);
criterion_main!(benches);
