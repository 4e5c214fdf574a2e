//! The direction of dependencies (ARCHITECTURE.md) held by a test: who may use whom, and which crates
//! a module must never see.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the crate may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("mail", &[]),
    ("api", &[]),
    ("bundle", &["mail"]),
    ("policy", &["bundle", "mail"]),
    ("translate", &["api", "bundle", "policy", "mail"]),
    ("smtp", &["loops", "mail"]),
    ("spool", &["mail"]),
    ("delivery", &["spool", "policy", "bundle", "smtp", "loops", "mail"]),
    ("directory", &["api", "translate", "bundle", "mail"]),
    ("published", &["api", "translate", "bundle", "mail"]),
    ("manifest", &["api", "translate", "bundle", "mail"]),
    ("gateway", &["smtp", "policy", "spool", "delivery", "bundle", "admin", "audit", "loops", "mail"]),
    (
        "controller",
        &["api", "translate", "policy", "bundle", "directory", "published", "admin", "audit", "mail"],
    ),
    ("audit", &[]),
    ("admin", &[]),
    ("telemetry", &[]),
    ("loops", &[]),
];

/// Crates that a module must not name, with the reason.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("mail", &["tokio", "kube"], "vocabulary does no IO"),
    ("bundle", &["tokio", "kube"], "the contract does no IO"),
    ("policy", &["tokio", "kube", "std::fs", "std::time::Instant", "Timestamp::now"], "policy is pure"),
    ("translate", &["tokio", "kube::Client", "Timestamp::now"], "translation is pure"),
    ("smtp", &["kube"], "the protocol knows no cluster"),
    ("audit", &["tokio", "kube"], "records and files know no cluster"),
    ("spool", &["kube"], "the spool knows no cluster"),
    ("delivery", &["kube"], "delivery knows no cluster"),
    ("directory", &["kube::Client"], "whoever has the Secrets hands them over"),
    ("published", &["kube::Client"], "it asks DNS alone"),
    ("gateway", &["kube", "k8s_openapi"], "whoever breaks into a pod finds nothing of the cluster"),
];

fn sources() -> BTreeMap<String, Vec<PathBuf>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let mut modules: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let inside = file.strip_prefix(&root).expect("walked from there");
        let first = inside.iter().next().and_then(|name| name.to_str()).expect("UTF-8 names");
        modules.entry(first.trim_end_matches(".rs").to_owned()).or_default().push(file);
    }
    modules
}

/// The code of a file without its tests: what follows `#[cfg(test)]` may use what it likes.
fn product_code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("src is readable");
    let of_tests =
        |name: &std::ffi::OsStr| ["tests", "tests.rs", "testing", "testing.rs"].iter().any(|t| name == *t);
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap_or(file);
    if inside.iter().any(of_tests) {
        return String::new();
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let line = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_use_only_those_below_them() {
    let mut wrong = Vec::new();
    for (module, files) in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            assert!(["lib", "main", "cli"].contains(&module.as_str()), "src/{module} is not on the map");
            continue;
        };
        for file in files {
            let code = product_code(&file);
            for (other, _) in MAY_USE.iter().filter(|(other, _)| *other != module) {
                if code.contains(&format!("crate::{other}::")) && !allowed.contains(other) {
                    wrong.push(format!("{} uses {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_never_name_what_is_not_theirs() {
    let modules = sources();
    let mut wrong = Vec::new();
    for (module, banned, why) in NEVER {
        for file in modules.get(*module).into_iter().flatten() {
            let code = product_code(file);
            for name in *banned {
                let named = |line: &str| {
                    line.match_indices(name).any(|(at, _)| {
                        let before = line[..at].chars().next_back();
                        let after = line[at + name.len()..].chars().next();
                        let word = |c: char| c.is_alphanumeric() || c == '_';
                        !before.is_some_and(word) && !after.is_some_and(|c| word(c) || c == '/' || c == '.')
                    })
                };
                if code.lines().any(|line| named(line) && !line.contains('"')) {
                    wrong.push(format!("{} names {name}: {why}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
