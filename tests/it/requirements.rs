//! One test for each requirement R10-R143 and R158-R162 of the specification, named by its number: `r049_…`. The table in
//! `docs/requirements.md` is written from the names of these tests and of those elsewhere in the tree; a
//! requirement without a test fails here.

mod actions;
mod admission;
mod authentication;
mod containers;
mod edits;
mod inbound;
mod matching;
mod names;
mod precedence;
mod quarantine;
mod scope;
mod sealing;
mod trust;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Routes to precedence, and queue and delivery; R140 is void.
const REQUIRED: [std::ops::RangeInclusive<u32>; 2] = [10..=143, 158..=162];
const VOID: u32 = 140;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Tests by the number in their name, with the file they are in.
fn tests() -> BTreeMap<u32, Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    rust_files(&root.join("tests"), &mut files);
    files.sort();
    let mut tests: BTreeMap<u32, Vec<(String, String)>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let place = file.strip_prefix(root).expect("inside").display().to_string();
        for line in text.lines() {
            let line = line.trim_start().trim_start_matches("async ");
            let Some(name) = line.strip_prefix("fn r").and_then(|rest| rest.split('(').next()) else {
                continue;
            };
            // Several numbers may share a test: r077_r086_….
            let numbers = format!("r{name}");
            for word in numbers.split('_') {
                let Some(digits) = word.strip_prefix('r').filter(|digits| digits.len() == 3) else { break };
                let Ok(number) = digits.parse() else { break };
                tests.entry(number).or_default().push((numbers.clone(), place.clone()));
            }
        }
    }
    tests
}

#[test]
fn every_requirement_has_a_test_and_the_table_in_the_docs_names_it() {
    let tests = tests();
    let missing: Vec<String> = REQUIRED
        .into_iter()
        .flatten()
        .filter(|number| *number != VOID && !tests.contains_key(number))
        .map(|number| format!("R{number}"))
        .collect();
    let mut table = String::from(
        "# Requirements and their tests\n\nWritten by `UPDATE=1 cargo test --test it requirements`; numbers are \
         those of the specification.\n\n| requirement | test | where |\n|---|---|---|\n",
    );
    for (number, tests) in &tests {
        for (name, place) in tests {
            let _ = writeln!(table, "| R{number} | `{name}` | `{place}` |");
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/requirements.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &table).expect("writable");
    }
    assert!(missing.is_empty(), "no test is named after {}", missing.join(", "));
    let known = fs::read_to_string(&file).unwrap_or_default();
    assert!(known == table, "docs/requirements.md is out of date: UPDATE=1 rewrites it");
}
