//! The table of mistakes, `tests/golden/bad`: each file begins with the words its author must read, the line
//! they must point at, and whether the API server refuses the object too (tried in the cluster tests).

use super::{Folder, pass, repository};
use crate::api::OutboundGateway;
use crate::manifest::{Loaded, Located};
use crate::translate::unattached;
use std::sync::Arc;

/// Everything `check` would say of a folder with this one file.
fn report(mut loaded: Loaded) -> Vec<Located> {
    for namespace in unattached(&loaded.resources).wanted_defaults {
        loaded.resources.gateways.push(Arc::new(OutboundGateway::made_for(&namespace)));
    }
    let mut found = loaded.problems.clone();
    let mut outcomes = unattached(&loaded.resources).outcomes;
    if !loaded.resources.gateway_keys().is_empty() {
        outcomes.extend(pass(&loaded, None).0.outcomes);
    }
    for outcome in outcomes.iter().filter(|outcome| !loaded.is_malformed(&outcome.origin.object)) {
        found.extend(outcome.problems.iter().map(|problem| {
            let (file, line) = loaded.locate(&outcome.origin.object, &problem.path);
            Located { file, line, severity: problem.severity, message: problem.text() }
        }));
    }
    found
}

#[test]
fn every_mistake_is_named_in_plain_words_with_its_line() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(repository("tests/golden/bad")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let note = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {key}: ")));
            line.unwrap_or_else(|| panic!("{} has no # {key}:", path.display())).to_owned()
        };
        let (message, line): (String, usize) = (note("message"), note("line").parse().unwrap());
        let found = report(Folder::of(&text).load());
        let hit = found.iter().any(|located| located.message.contains(&message) && located.line == line);
        if !hit {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let found: Vec<_> = found.iter().map(|located| (located.line, &located.message)).collect();
            wrong.push(format!("{name}: wanted line {line}: {message}\n  found {found:?}"));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60);
}

#[test]
fn all_mistakes_of_an_object_are_named_at_once() {
    let text = "apiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: x}\nspec:\n  mxLookup: true\n  \
                hosts: [{host: 192.0.2.1, weight: 50}]\n  tls: {require: false, validateHostname: true}\n  \
                retry: {max: 5d}\n";
    let found = report(Folder::of(text).load());
    for message in
        ["not IP addresses", "weight has no meaning", "sum to 50", "certificate checks", "not a duration"]
    {
        assert!(found.iter().any(|located| located.message.contains(message)), "{message}: {found:?}");
    }
}

#[test]
fn a_typo_names_the_field_that_was_meant() {
    let text = "apiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: x}\nspec:\n  mxlookup: true\n";
    let found = report(Folder::of(text).load());
    assert_eq!(found[0].message, "unknown field \"spec.mxlookup\"; did you mean \"mxLookup\"?");
    assert_eq!(found[0].line, 5);
}
