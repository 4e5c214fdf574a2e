//! The text of a `*.test.yaml` file → cases. Each expectation keeps its line.

use crate::cli::trial::envelope::{self, Written};
use crate::cli::trial::form::Notes;
use crate::manifest::yaml::{self, Kind, Node, Trouble};

/// One document: cases for one gateway.
#[derive(Debug)]
pub struct Suite {
    pub line: usize,
    /// `None`: the only gateway, or the one called `default`.
    pub gateway: Option<String>,
    pub cases: Vec<Case>,
}

#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub line: usize,
    pub mail: Mail,
    pub mail_line: usize,
    pub envelope: Written,
    pub expect: Expect,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Mail {
    /// A file, named from the folder of the case's own file.
    File(String),
    Inline(String),
}

/// An expectation and where it is written.
pub type At<T> = (usize, T);

/// What is not given is not checked.
#[derive(Debug, Default)]
pub struct Expect {
    /// For every recipient.
    pub fate: FateExpect,
    /// For single recipients.
    pub recipients: Vec<(At<String>, FateExpect)>,
    pub matched: Vec<At<String>>,
    pub not_matched: Vec<At<String>>,
    /// All deliveries there are, in any order.
    pub deliveries: Option<At<Vec<DeliveryExpect>>>,
}

#[derive(Debug, Default)]
pub struct FateExpect {
    pub disposition: Option<At<String>>,
    /// A part of the reply.
    pub reply: Option<At<String>>,
    pub quarantine: Option<At<String>>,
}

#[derive(Debug)]
pub struct DeliveryExpect {
    pub to: At<String>,
    /// `Some(None)`: `null`, no route: the recipient's own MX hosts.
    pub route: Option<At<Option<String>>>,
    pub tls: Option<At<String>>,
    /// `Some(None)`: `null`, no subject.
    pub subject: Option<At<Option<String>>>,
    /// Fields that are added; there may be others.
    pub headers: Vec<At<(String, String)>>,
    pub attachments_removed: Option<At<Vec<String>>>,
    /// `Some(None)`: `null`, a primary delivery.
    pub copy_of: Option<At<Option<String>>>,
}

const DISPOSITIONS: [&str; 4] = ["deliver", "reject", "quarantine", "defer"];

/// Reads all documents of a file. A case with a mistake is not among the suites.
pub fn suites(text: &str) -> (Vec<Suite>, Vec<Trouble>) {
    let (mut suites, mut notes) = (Vec::new(), Notes::default());
    for (lines_before, document) in yaml::documents(text) {
        match yaml::read(document, lines_before) {
            Ok((node, _)) if node.is_null() => {}
            Ok((node, doubled)) => {
                notes.0.extend(doubled);
                suites.extend(suite(&node, &mut notes));
            }
            Err(trouble) => notes.0.push(trouble),
        }
    }
    (suites, notes.0)
}

fn suite(node: &Node, notes: &mut Notes) -> Option<Suite> {
    if !notes.map(node, "the file", &["gateway", "cases"]) {
        return None;
    }
    let gateway = node.get("gateway").and_then(|node| notes.text(node, "gateway"));
    let Some(list) = node.get("cases") else {
        notes.add(node.line, "cases: the list of cases is missing");
        return None;
    };
    let Kind::List(items) = &list.kind else {
        notes.add(list.line, "cases: must be a list");
        return None;
    };
    let mut cases = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let before = notes.0.len();
        let read = case(item, number + 1, notes);
        if notes.0.len() == before {
            cases.extend(read);
        }
    }
    Some(Suite { line: node.line, gateway, cases })
}

fn case(node: &Node, number: usize, notes: &mut Notes) -> Option<Case> {
    if !notes.map(node, &format!("case {number}"), &["name", "mail", "envelope", "expect"]) {
        return None;
    }
    let name = match node.get("name") {
        Some(name) => notes.text(name, "name")?,
        None => format!("number {number}"),
    };
    let Some(mail_node) = node.get("mail") else {
        notes.add(
            node.line,
            format!("case {name:?}: mail is missing: the name of a file, or the message itself"),
        );
        return None;
    };
    let mail = notes.text(mail_node, "mail")?;
    let mail = if mail.contains('\n') { Mail::Inline(mail) } else { Mail::File(mail) };
    let envelope = match node.get("envelope") {
        Some(envelope) => envelope::read(envelope, "envelope", notes),
        None => Written::default(),
    };
    let Some(expect) = node.get("expect") else {
        notes.add(node.line, format!("case {name:?}: expect is missing"));
        return None;
    };
    let expect = self::expect(expect, notes)?;
    Some(Case { name, line: node.line, mail, mail_line: mail_node.line, envelope, expect })
}

fn expect(node: &Node, notes: &mut Notes) -> Option<Expect> {
    let known = ["disposition", "reply", "quarantine", "recipients", "rules", "deliveries"];
    if !notes.map(node, "expect", &known) {
        return None;
    }
    if known.iter().all(|key| node.get(key).is_none()) {
        notes.add(node.line, "expect: nothing is expected");
    }
    let mut expect = Expect { fate: fate(node, notes), ..Expect::default() };
    for item in node.get("recipients").map_or(&[][..], |list| items(list, "recipients", notes)) {
        if notes.map(item, "recipients", &["to", "disposition", "reply", "quarantine"])
            && let Some(to) = required(item, "to", notes)
        {
            expect.recipients.push((to, fate(item, notes)));
        }
    }
    if let Some(rules) = node.get("rules")
        && notes.map(rules, "rules", &["matched", "notMatched"])
    {
        expect.matched = rules.get("matched").map(|list| notes.texts(list, "matched")).unwrap_or_default();
        expect.not_matched =
            rules.get("notMatched").map(|list| notes.texts(list, "notMatched")).unwrap_or_default();
    }
    if let Some(list) = node.get("deliveries") {
        let deliveries = items(list, "deliveries", notes).iter().filter_map(|item| delivery(item, notes));
        expect.deliveries = Some((list.line, deliveries.collect()));
    }
    Some(expect)
}

fn fate(node: &Node, notes: &mut Notes) -> FateExpect {
    let mut text = |key: &str| {
        let node = node.get(key)?;
        Some((node.line, notes.text(node, key)?))
    };
    let (disposition, reply, quarantine) = (text("disposition"), text("reply"), text("quarantine"));
    if let Some((line, word)) = &disposition
        && !DISPOSITIONS.contains(&word.as_str())
    {
        notes.add(*line, format!("disposition: {word:?} is none of: {}", DISPOSITIONS.join(", ")));
    }
    FateExpect { disposition, reply, quarantine }
}

fn delivery(node: &Node, notes: &mut Notes) -> Option<DeliveryExpect> {
    let known = ["to", "route", "tls", "subject", "headers", "attachmentsRemoved", "copyOf"];
    if !notes.map(node, "deliveries", &known) {
        return None;
    }
    let to = required(node, "to", notes)?;
    let mut text = |key: &str| {
        let node = node.get(key)?;
        if node.is_null() {
            return Some((node.line, None));
        }
        Some((node.line, Some(notes.text(node, key)?)))
    };
    let (route, subject, copy_of) = (text("route"), text("subject"), text("copyOf"));
    let tls = node.get("tls").and_then(|node| Some((node.line, notes.text(node, "tls")?)));
    if let Some((line, word)) = &tls
        && !["required", "opportunistic"].contains(&word.as_str())
    {
        notes.add(*line, format!("tls: {word:?} is none of: required, opportunistic"));
    }
    let attachments_removed = node.get("attachmentsRemoved").map(|list| {
        let names = notes.texts(list, "attachmentsRemoved").into_iter().map(|(_, name)| name);
        (list.line, names.collect())
    });
    let headers = node.get("headers").map(|node| headers(node, notes)).unwrap_or_default();
    Some(DeliveryExpect { to, route, tls, subject, headers, attachments_removed, copy_of })
}

/// A map of names and values, or a list of such maps for names that come twice.
fn headers(node: &Node, notes: &mut Notes) -> Vec<At<(String, String)>> {
    let one = std::slice::from_ref(node);
    let maps = if let Kind::List(maps) = &node.kind { maps.as_slice() } else { one };
    let mut headers = Vec::new();
    for map in maps {
        let Kind::Map(entries) = &map.kind else {
            notes.add(map.line, "headers: must be a map of names and values");
            continue;
        };
        for (name, value) in entries {
            if let Some(text) = notes.text(value, &format!("headers.{name}")) {
                headers.push((value.line, (name.clone(), text)));
            }
        }
    }
    headers
}

fn required(node: &Node, key: &str, notes: &mut Notes) -> Option<At<String>> {
    match node.get(key) {
        Some(value) => Some((value.line, notes.text(value, key)?)),
        None => {
            notes.add(node.line, format!("{key} is missing"));
            None
        }
    }
}

fn items<'a>(node: &'a Node, path: &str, notes: &mut Notes) -> &'a [Node] {
    if !matches!(node.kind, Kind::List(_)) {
        notes.add(node.line, format!("{path}: must be a list"));
    }
    node.items()
}
