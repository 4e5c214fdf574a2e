//! Reads the small YAML forms of the command line (envelopes, cases): every key must be known, every value of the
//! right type, and each mistake has its line.

use serde_json::Value;

use crate::manifest::yaml::{Kind, Node, Trouble};

/// Notes what is wrong with a node and its children.
#[derive(Debug, Default)]
pub struct Notes(pub Vec<Trouble>);

impl Notes {
    pub fn add(&mut self, line: usize, message: impl Into<String>) {
        self.0.push(Trouble { line, message: message.into() });
    }

    /// Whether the node is a map, all of whose keys are among `known`.
    pub fn map(&mut self, node: &Node, path: &str, known: &[&str]) -> bool {
        let Kind::Map(entries) = &node.kind else {
            self.add(node.line, format!("{path}: must be a map with some of: {}", known.join(", ")));
            return false;
        };
        for (key, value) in entries {
            if !known.contains(&key.as_str()) {
                self.add(
                    value.line,
                    format!("{path}: unknown field {key:?}; known are: {}", known.join(", ")),
                );
            }
        }
        true
    }

    /// A text, or what YAML read as a number.
    pub fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.kind {
            Kind::Scalar(Value::String(text)) => Some(text.clone()),
            Kind::Scalar(Value::Number(number)) => Some(number.to_string()),
            _ => {
                self.add(node.line, format!("{path}: must be a text"));
                None
            }
        }
    }

    pub fn flag(&mut self, node: &Node, path: &str) -> Option<bool> {
        if let Kind::Scalar(Value::Bool(flag)) = node.kind {
            return Some(flag);
        }
        self.add(node.line, format!("{path}: must be true or false"));
        None
    }

    /// A list of texts; one text alone counts as a list of one.
    pub fn texts(&mut self, node: &Node, path: &str) -> Vec<(usize, String)> {
        let one = std::slice::from_ref(node);
        let items = if let Kind::List(items) = &node.kind { items.as_slice() } else { one };
        let texts = items.iter().map(|item| Some((item.line, self.text(item, path)?)));
        texts.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Texts that are read further.
    pub fn parsed<T>(&mut self, node: &Node, path: &str) -> Vec<T>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let texts = self.texts(node, path);
        let parsed = texts.into_iter().filter_map(|(line, text)| match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(line, format!("{path}: {text:?}: {error}"));
                None
            }
        });
        parsed.collect()
    }
}
