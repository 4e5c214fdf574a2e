//! `postern explain`: what would happen to a message, by the code that would make it happen (spec R164). No
//! network; deterministic.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::bundle::document::{Bundle, DefaultRoute};
use crate::cli::folder::{Configured, Folder};
use crate::delivery::{Own, RouteTable};
use crate::gateway::admission;
use crate::mail::address::Mailbox;
use crate::mail::edit::{self, Edit};
use crate::mail::envelope::{Envelope, Recipient, Sender, Via};
use crate::mail::message::{Field, Message};
use crate::policy::settle::{Settlement, settle};
use crate::policy::verdict::{Disposition, Outcome, RuleTrace, Verdict};
use crate::policy::{Decision, Delivery, Fuel, Transaction, compile, decide};
use crate::smtp::reply::Reply;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of YAML
    dir: PathBuf,
    /// The message, as a file
    #[arg(long, value_name = "FILE")]
    mail: PathBuf,
    /// The envelope sender; an empty text is the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// An envelope recipient (may be given several times)
    #[arg(long, value_name = "ADDRESS", required = true, num_args = 1..)]
    to: Vec<Mailbox>,
    /// The client's address; without it the client is taken as allowed
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The message came in clear text (default: over TLS)
    #[arg(long)]
    clear: bool,
    /// One of several gateways, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// Write the bytes of each delivery into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = super::Format::Text)]
    output: super::Format,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let content = fs::read(&args.mail).with_context(|| format!("cannot read {}", args.mail.display()))?;
    let content = crlf(&content);
    let sender = match args.from.as_str() {
        "" | "<>" => None,
        from => Some(from.parse::<Mailbox>().with_context(|| format!("--from {from}"))?),
    };
    let configured = Folder::read(&args.dir)?.gateway(args.gateway.as_deref())?;
    let explained = explain(&configured, sender, args, &content)?;
    match args.output {
        super::Format::Json => super::print(&(serde_json::to_string_pretty(&explained)? + "\n")),
        super::Format::Text => super::print(&text(&explained)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The stable JSON form (design section 5).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    version: u32,
    revision: String,
    r#ref: String,
    transaction: TransactionReplies,
    messages: Vec<MessageFate>,
}

#[derive(Serialize)]
struct TransactionReplies {
    rcpt: Vec<String>,
    data: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageFate {
    recipient: String,
    disposition: &'static str,
    reply: String,
    quarantine: Option<String>,
    rules: Vec<RuleFate>,
    deliveries: Vec<DeliveryFate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleFate {
    rule: String,
    matched: bool,
    mode: &'static str,
    why: Vec<Why>,
    /// The clause that did not hold, or why the rule defers; only for people.
    #[serde(skip)]
    remark: Option<String>,
    bypassed_by: Option<String>,
    overridden: Vec<&'static str>,
}

#[derive(Serialize)]
struct Why {
    part: String,
    entry: String,
    offset: usize,
    length: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryFate {
    to: String,
    route: Option<String>,
    tls: &'static str,
    subject: Option<String>,
    headers_added: Vec<(String, String)>,
    attachments_removed: Vec<String>,
    suppress_bounces: bool,
    drop_spam: bool,
    copy_of: Option<String>,
}

fn explain(
    configured: &Configured,
    sender: Option<Mailbox>,
    args: &Args,
    content: &[u8],
) -> anyhow::Result<Explained> {
    let bundle = &configured.bundle;
    let policy = compile(bundle, &configured.revision)?;
    let routes = RouteTable::build(bundle, &configured.materials, &Own::default());
    let allowed = args.client.is_none_or(|client| admission::client_allowed(&bundle.gateway, client));
    let id = blake3::hash(content).to_hex()[..16].to_owned();

    let mut envelope =
        Envelope { sender: Sender { mailbox: sender, ..Sender::default() }, recipients: Vec::new() };
    envelope.sender.smtputf8 = args.to.iter().chain(&envelope.sender.mailbox).any(Mailbox::needs_utf8);
    let mut replies = Vec::new();
    for to in &args.to {
        let answer = admission::rcpt(&bundle.gateway, allowed, envelope.sender.mailbox.as_ref());
        if answer.is_ok() {
            envelope.recipients.push(Recipient::new(to.clone()));
        }
        replies.push(answer.err().unwrap_or_else(|| Reply::new(250, [2, 1, 5], "Recipient ok")));
    }
    let client = args.client.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let transaction = Transaction { client, tls: !args.clear, ..Transaction::new(&id, &envelope) };
    let decision = decide(&policy, &transaction, content, Fuel::default());
    let data = (!envelope.recipients.is_empty())
        .then(|| admission::data(&settle(&envelope, decision.clone()), &id).to_string());
    let mut verdicts = decision.verdicts.into_iter();
    let mut messages = Vec::new();
    for (to, reply) in args.to.iter().zip(&replies) {
        messages.push(if reply.is_positive() {
            let verdict = verdicts.next().context("one verdict for each recipient")?;
            fate(to, verdict, &routes, bundle, content, &id)
        } else {
            MessageFate {
                recipient: to.to_string(),
                disposition: "reject",
                reply: reply.to_string(),
                quarantine: None,
                rules: Vec::new(),
                deliveries: Vec::new(),
            }
        });
    }
    if let Some(folder) = &args.out {
        write_deliveries(folder, &decide(&policy, &transaction, content, Fuel::default()), content)?;
    }
    let rcpt = replies.iter().map(Reply::to_string).collect();
    let transaction = TransactionReplies { rcpt, data };
    Ok(Explained { version: 1, revision: configured.revision.to_string(), r#ref: id, transaction, messages })
}

fn fate(
    to: &Mailbox,
    verdict: Verdict,
    routes: &RouteTable,
    bundle: &Bundle,
    content: &[u8],
    id: &str,
) -> MessageFate {
    let alone = |disposition: Disposition| {
        let envelope = Envelope { recipients: vec![Recipient::new(to.clone())], ..Envelope::default() };
        let decision = Decision { verdicts: vec![Verdict::new(disposition)], ..Decision::default() };
        let settlement: Settlement = settle(&envelope, decision);
        admission::data(&settlement, id).to_string()
    };
    let (disposition, deliveries) = match &verdict.disposition {
        Disposition::Reject(_) => ("reject", Vec::new()),
        Disposition::Defer(_) => ("defer", Vec::new()),
        Disposition::Quarantine(_) => ("quarantine", Vec::new()),
        Disposition::Discard => ("deliver", Vec::new()),
        Disposition::Deliver(copies) => {
            ("deliver", copies.iter().map(|copy| delivery(copy, routes, bundle, content)).collect())
        }
    };
    MessageFate {
        recipient: to.to_string(),
        disposition,
        reply: alone(verdict.disposition),
        quarantine: None,
        rules: verdict.trace.iter().map(rule).collect(),
        deliveries,
    }
}

fn rule(trace: &RuleTrace) -> RuleFate {
    let (why, remark) = match &trace.outcome {
        Outcome::Matched(evidence) => (evidence.clone(), None),
        Outcome::MatchedByScanLimit(limit) => (Vec::new(), Some(format!("taken as a match: {limit}"))),
        Outcome::NoMatch(clause) => (Vec::new(), Some(format!("no match: {clause}"))),
        Outcome::Deferred(why) => (Vec::new(), Some(format!("defers: {why}"))),
    };
    let why = why
        .into_iter()
        .map(|e| Why { part: e.part, entry: e.entry, offset: e.offset, length: e.length })
        .collect();
    RuleFate {
        rule: trace.rule.to_string(),
        matched: trace.outcome.matched(),
        mode: "Enforce",
        why,
        remark,
        bypassed_by: None,
        overridden: trace.overridden.clone(),
    }
}

fn delivery(copy: &Delivery, routes: &RouteTable, bundle: &Bundle, content: &[u8]) -> DeliveryFate {
    let route = match &copy.via {
        Via::Route(name) => Some(name.name.clone()),
        Via::Normal => match &bundle.gateway.default_route {
            Some(DefaultRoute::Named(name) | DefaultRoute::Missing(name)) => Some(name.name.clone()),
            Some(DefaultRoute::Host(_)) => Some("default".to_owned()),
            None => None,
        },
    };
    let edited = edited(content, &copy.edits);
    let header = |edit: &Edit| match edit {
        Edit::AddHeader { name, value } => Some((name.clone(), value.clone())),
        _ => None,
    };
    DeliveryFate {
        to: copy.recipient.mailbox.to_string(),
        route,
        tls: if copy.require_tls || routes.resolve(&copy.via).is_ok_and(|route| route.tls.require) {
            "required"
        } else {
            "opportunistic"
        },
        subject: Message::read(&edited).all("Subject").next().map(Field::decoded),
        headers_added: copy.edits.iter().filter_map(header).collect(),
        attachments_removed: Vec::new(),
        suppress_bounces: false,
        drop_spam: false,
        copy_of: None,
    }
}

/// The bytes as they would leave, below our own Received field: added fields stand under that one.
fn edited(content: &[u8], edits: &[Edit]) -> Vec<u8> {
    const OWN: &[u8] = b"Received: by explain\r\n";
    match edit::apply_all(&[OWN, content].concat(), edits) {
        Ok(edited) => edited.into_bytes().split_off(OWN.len()),
        // It would be returned to the sender, not delivered.
        Err(_) => Vec::new(),
    }
}

fn write_deliveries(folder: &Path, decision: &Decision, content: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copies = decision.verdicts.iter().flat_map(|verdict| match &verdict.disposition {
        Disposition::Deliver(copies) => copies.as_slice(),
        _ => &[],
    });
    for (number, copy) in copies.enumerate() {
        let path = folder.join(format!("{:03}.eml", number + 1));
        fs::write(&path, edited(content, &copy.edits))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A file as mail programs save it may have bare line feeds; on the wire every line ends in CRLF.
fn crlf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 32);
    for (at, byte) in content.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || content[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

fn text(explained: &Explained) -> String {
    let mut out = String::new();
    let mut line = |text: String| _ = writeln!(out, "{text}");
    line(format!("revision {}, reference {}", explained.revision, explained.r#ref));
    for message in &explained.messages {
        line(format!("\nto {}: {}", message.recipient, message.disposition));
        for rule in &message.rules {
            let mark = if rule.matched { "✓" } else { "·" };
            let remark = rule.remark.as_ref().map(|remark| format!("  {remark}")).unwrap_or_default();
            line(format!("  {mark} {}{remark}", rule.rule));
            for why in &rule.why {
                line(format!(
                    "      {:?} in {} at {}, {} bytes",
                    why.entry, why.part, why.offset, why.length
                ));
            }
            if !rule.overridden.is_empty() {
                line(format!("      decided by a better-ranked rule: {}", rule.overridden.join(", ")));
            }
        }
        for delivery in &message.deliveries {
            let route = delivery.route.as_deref().unwrap_or("the MX hosts of the recipient's domain");
            line(format!("  → {} by {route}, TLS {}", delivery.to, delivery.tls));
            if let Some(subject) = &delivery.subject {
                line(format!("      Subject: {subject}"));
            }
            for (name, value) in &delivery.headers_added {
                line(format!("      {name}: {value}"));
            }
        }
        line(format!("  reply on its own: {}", message.reply));
    }
    if let Some(data) = &explained.transaction.data {
        line(format!("\nreply after the data: {data}"));
    }
    out
}
