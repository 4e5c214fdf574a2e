//! Text → values that remember their lines. Bounded: neither depth nor aliases can eat the machine.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::scalar;

/// Nodes of one document, copies made by aliases included.
const MAX_NODES: usize = 1_000_000;
const MAX_DEPTH: usize = 100;

/// A value and the line it begins on (of its key, for values of a map).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub line: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub line: usize,
    pub message: String,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn str(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// As JSON; nulls in maps are left out, as the API server prunes them.
    pub fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::Array(items.iter().map(Node::value).collect()),
            Kind::Map(entries) => {
                let present = entries.iter().filter(|(_, node)| !node.is_null());
                Value::Object(present.map(|(key, node)| (key.clone(), node.value())).collect::<Map<_, _>>())
            }
        }
    }

    pub fn is_null(&self) -> bool {
        self.kind == Kind::Scalar(Value::Null)
    }

    /// The line of what a path such as `spec.hosts[1].host` names, or of the nearest thing around it.
    pub fn line_of(&self, path: &str) -> usize {
        let mut node = self;
        for step in
            path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
        {
            let next = match &node.kind {
                Kind::Map(_) => node.get(step),
                Kind::List(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
                Kind::Scalar(_) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }
}

/// Cuts a file at its `---` lines, as kubectl does, so that a mistake in one document leaves the others
/// readable. Each part comes with the number of lines before it.
pub fn documents(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut first_line) = (0, 0);
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let after = line.strip_prefix("---").map(str::trim_end);
        // What follows the dashes on their own line (a comment, a value) belongs to the new document.
        if after.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            parts.push((first_line, &text[start..at]));
            (start, first_line) = (at + 3, number);
        }
        at += line.len();
    }
    parts.push((first_line, &text[start..]));
    parts.retain(|(_, part)| {
        part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    parts
}

/// Reads one document; `lines_before` is what stands before it in its file.
pub fn read(text: &str, lines_before: usize) -> Result<(Node, Vec<Trouble>), Trouble> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        lines_before,
        troubles: Vec::new(),
    };
    let node = builder.document()?;
    Ok((node, builder.troubles))
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    lines_before: usize,
    troubles: Vec<Trouble>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Trouble> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(self.trouble(error.marker().line(), format!("this is not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn trouble(&self, line: usize, message: impl Into<String>) -> Trouble {
        Trouble { line: self.lines_before + line.max(1), message: message.into() }
    }

    fn document(&mut self) -> Result<Node, Trouble> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    return Err(self.trouble(span.start.line(), "a second document begins here without ---"));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root.unwrap_or(Node { line: self.lines_before + 1, kind: Kind::Scalar(Value::Null) }))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Trouble> {
        let line = span.start.line();
        self.count(1, line)?;
        if depth > MAX_DEPTH {
            return Err(self.trouble(line, format!("values are nested more than {MAX_DEPTH} deep")));
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.as_ref().is_some_and(|tag| tag.suffix == "str");
                let value = match style {
                    ScalarStyle::Plain if !tagged => scalar::plain(&text),
                    _ => Value::from(text.as_ref()),
                };
                (Kind::Scalar(value), anchor)
            }
            Event::SequenceStart(anchor, _) => (Kind::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Kind::Map(self.map(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.trouble(line, "this alias names no anchor"));
                };
                self.count(size(&node), line)?;
                return Ok(Node { line: self.lines_before + line, ..node });
            }
            _ => return Err(self.trouble(line, "a value is missing")),
        };
        let node = Node { line: self.lines_before + line, kind };
        if anchor > 0 {
            self.count(size(&node), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Trouble> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(self.trouble(line, format!("the document has more than {MAX_NODES} values")));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Trouble> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::SequenceEnd => return Ok(items),
                event => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(String, Node)>, Trouble> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match self.node(event, span, depth + 1)?.kind {
                Kind::Scalar(Value::String(key)) => key,
                Kind::Scalar(value) => value.to_string(),
                Kind::List(_) | Kind::Map(_) => return Err(self.trouble(line, "a key must be a text")),
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            let value = Node { line: self.lines_before + line, ..value };
            match seen.insert(key.clone(), entries.len()) {
                Some(first) => {
                    let message = format!(
                        "field {key:?} is given twice; the first is on line {}",
                        entries[first].1.line
                    );
                    self.troubles.push(self.trouble(line, message));
                    seen.insert(key, first);
                }
                None => entries.push((key, value)),
            }
        }
        for source in merged {
            let sources = match source.kind {
                Kind::List(sources) => sources,
                _ => vec![source],
            };
            for Node { kind, .. } in sources {
                let Kind::Map(inherited) = kind else { continue };
                for (key, node) in inherited {
                    if !seen.contains_key(&key) {
                        seen.insert(key.clone(), entries.len());
                        entries.push((key, node));
                    }
                }
            }
        }
        Ok(entries)
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Scalar(_) => 0,
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| size(node)).sum(),
    }
}
