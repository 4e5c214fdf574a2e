//! Word lists: inline entries and those kept in ConfigMaps, put together.

use std::collections::HashSet;

use super::problem::{Findings, Problem};
use super::resources::{ObjectKey, Resources};
use crate::api::compliance_rule::Match;
use crate::api::conditions::Reason;
use crate::api::refs::ConfigMapKeyRef;

/// Longest entry, the same as the schema's bound on inline words.
const MAX_ENTRY: usize = 256;

/// All entries of a rule's list, as written, without exact duplicates. Entries that are meant as substrings
/// belong to the list too.
pub(super) fn words(
    spec: &Match,
    namespace: &str,
    resources: &Resources,
    findings: &mut Findings,
) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut words = Vec::new();
    let mut add = |word: &str| {
        if seen.insert(word.to_owned()) {
            words.push(word.to_owned());
        }
    };
    for (at, word) in spec.words.iter().enumerate() {
        match word.trim() {
            "" => findings.invalid(&format!("spec.match.words[{at}]"), "an entry cannot be blank"),
            word => add(word),
        }
    }
    for (at, from) in spec.words_from.iter().enumerate() {
        let path = format!("spec.match.wordsFrom[{at}].configMapRef");
        let Some(text) = findings.ok(text(&path, &from.config_map_ref, namespace, resources)) else {
            continue;
        };
        let entries = split(text);
        if entries.is_empty() {
            let problem = Problem::reference(&path, Reason::KeyNotFound, "the list holds no word").warning();
            findings.push(problem);
        }
        for entry in entries {
            if entry.chars().count() > MAX_ENTRY {
                let start: String = entry.chars().take(20).collect();
                findings.invalid(
                    &path,
                    format!("the entry that begins with {start:?} is longer than {MAX_ENTRY} characters"),
                );
            } else {
                add(&entry);
            }
        }
    }
    for (at, word) in spec.word_options.substrings.iter().enumerate() {
        match word.trim() {
            "" => findings
                .invalid(&format!("spec.match.wordOptions.substrings[{at}]"), "an entry cannot be blank"),
            word => add(word),
        }
    }
    words
}

pub(super) fn text<'a>(
    path: &str,
    reference: &ConfigMapKeyRef,
    namespace: &str,
    resources: &'a Resources,
) -> Result<&'a str, Problem> {
    let ConfigMapKeyRef { name, key } = reference;
    let config_map = resources.config_maps.get(&ObjectKey::new(namespace, name)).ok_or_else(|| {
        let message = format!("there is no ConfigMap {namespace}/{name}");
        Problem::reference(format!("{path}.name"), Reason::ConfigMapNotFound, message)
    })?;
    config_map.data.get(key).map(String::as_str).ok_or_else(|| {
        let message = format!("ConfigMap {namespace}/{name} has no key {key}");
        Problem::reference(format!("{path}.key"), Reason::KeyNotFound, message)
    })
}

/// Cuts a text at blanks, commas and line breaks; double quotes make a phrase (spec R48, R176).
pub fn split(text: &str) -> Vec<String> {
    let mut entries = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let separator = |c: char| c.is_whitespace() || c == ',';
    loop {
        rest = rest.trim_start_matches(separator);
        if rest.is_empty() {
            return entries;
        }
        let quoted = rest.strip_prefix('"').and_then(|inner| inner.find('"').map(|end| inner.split_at(end)));
        match quoted {
            Some((phrase, after)) => {
                if !phrase.trim().is_empty() {
                    entries.push(phrase.split_whitespace().collect::<Vec<_>>().join(" "));
                }
                rest = &after[1..];
            }
            None => {
                let end = rest.find(separator).unwrap_or(rest.len());
                entries.push(rest[..end].to_owned());
                rest = &rest[end..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn lists_are_cut_at_blanks_and_commas_and_quotes_make_phrases() {
        for (text, entries) in [
            ("a b,c\nd,, e", vec!["a", "b", "c", "d", "e"]),
            ("\u{feff}rahasia\r\n\"top  secret\" [BAD]", vec!["rahasia", "top secret", "[BAD]"]),
            ("5\" pipe", vec!["5\"", "pipe"]),
            ("\"open end", vec!["\"open", "end"]),
            ("\"\" x", vec!["x"]),
            ("機密,ประกาศ", vec!["機密", "ประกาศ"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text), entries, "{text:?}");
        }
    }
}
