//! `docs/replies.md` held against the code: every reply of the server, every reason and every status of delivery has
//! a row, and every row a test that exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

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

/// The text of all files below these folders, without what is test code.
fn product(folders: &[&str]) -> String {
    let mut files = Vec::new();
    for folder in folders {
        rust_files(&root().join(folder), &mut files);
    }
    files.retain(|file| !file.iter().any(|name| ["tests", "tests.rs"].iter().any(|test| name == *test)));
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("readable");
        text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
    };
    files.iter().map(read).collect()
}

/// What stands in backticks in a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Rows of a table under a heading, cell by cell.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/replies.md")).expect("the page is there");
    let (_, section) = text.split_once(&format!("## {heading}\n")).expect("the page has this heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// `[5, 7, 1]` and its like in the text, as `5.7.1`; `after` is what stands before them.
fn codes(text: &str, after: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(after) {
        let rest = &text[at + after.len()..];
        let Some((inside, _)) = rest.split_once(']') else { continue };
        let numbers: Vec<&str> = inside.split(',').map(str::trim).collect();
        if numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u16>().is_ok()) {
            found.insert(numbers.join("."));
        }
    }
    found
}

#[test]
fn r170_every_row_of_the_page_names_a_test_that_exists() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests"), &mut files);
    let all: String = files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect();
    let mut wrong = Vec::new();
    for heading in ["At the door", "In reports of failed delivery", "While mail waits"] {
        let rows = rows(heading);
        assert!(rows.len() > 5, "{heading}: {} rows", rows.len());
        for row in rows {
            for test in quoted(row.last().expect("a row has cells")) {
                let exists = match test.strip_suffix(".txt") {
                    Some(_) => {
                        let file = root().join("tests/golden/dialogue").join(&test);
                        let code = quoted(&row[0]).remove(0);
                        fs::read_to_string(file).is_ok_and(|dialogue| dialogue.contains(&code))
                    }
                    None => all.contains(&format!("fn {test}(")),
                };
                if !exists {
                    wrong.push(format!("{}: there is no test {test}", row[0]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn r170_every_reply_of_the_server_has_a_row() {
    let documented: BTreeSet<String> = rows("At the door").iter().flat_map(|row| quoted(&row[0])).collect();
    let code = product(&["src/smtp", "src/gateway"]);
    let mut replies = BTreeSet::new();
    for (at, _) in code.match_indices("Reply::new(") {
        let rest = &code[at + "Reply::new(".len()..];
        let Some((number, after)) = rest.split_once(", [") else { continue };
        let status = after.split(']').next().unwrap_or_default().replace(", ", ".");
        // A code that is computed elsewhere is read there.
        if number.trim().parse::<u16>().is_ok() {
            replies.insert(format!("{} {status}", number.trim()));
        }
    }
    // Those of the command grammar are a table of pairs.
    for (at, _) in code.match_indices("=> (5") {
        let rest = &code[at + "=> (".len()..];
        let Some((pair, _)) = rest.split_once("])") else { continue };
        let Some((number, status)) = pair.split_once(", [") else { continue };
        replies.insert(format!("{number} {}", status.replace(", ", ".")));
    }
    assert!(replies.len() > 20, "the code is read wrongly: {replies:?}");
    let missing: Vec<&String> = replies.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/replies.md, At the door: no row for {missing:?}");
}

#[test]
fn r170_every_status_and_every_reason_of_delivery_has_a_row() {
    let outcome = fs::read_to_string(root().join("src/delivery/outcome.rs")).expect("readable");
    let outcome = outcome.split("#[cfg(test)]").next().unwrap_or_default();
    let failed = rows("In reports of failed delivery");
    let documented: BTreeSet<String> = failed.iter().flat_map(|row| quoted(&row[0])).collect();
    let mut statuses = codes(outcome, "([");
    statuses.extend(codes(outcome, "Status = ["));
    statuses.retain(|status| status.starts_with('5'));
    assert!(statuses.len() > 8, "the code is read wrongly: {statuses:?}");
    let missing: Vec<&String> = statuses.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/replies.md, In reports: no row for {missing:?}");

    let (_, reasons) = outcome.split_once("pub fn reason(&self)").expect("it has one");
    let reasons = reasons.split("\n    }\n").next().unwrap_or_default();
    let reasons = reasons.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
    let reasons: BTreeSet<String> = reasons.map(str::to_owned).collect();
    assert!(reasons.len() > 15, "the code is read wrongly: {reasons:?}");
    let of_failed = failed.iter().flat_map(|row| quoted(&row[1]));
    let of_waiting = rows("While mail waits").into_iter().flat_map(|row| quoted(&row[0]));
    let documented: BTreeSet<String> = of_failed.chain(of_waiting).collect();
    let missing: Vec<&String> = reasons.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/replies.md: no row for the reasons {missing:?}");
    let gone: Vec<&String> = documented.difference(&reasons).collect();
    assert!(gone.is_empty(), "docs/replies.md: nothing has the reasons {gone:?} any more");
}
