//! The chart as helm renders it, read as data.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use postern::manifest::yaml;
use serde_json::Value;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder(which: &str) -> PathBuf {
    let script = root().join("tests/cluster/cluster");
    let output = Command::new(script).arg(which).output().expect("python3 is there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the tests' programs are not built: run `make deps`\n{error}");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// helm and kubectl, as `make deps` built them.
pub fn tool(name: &str) -> PathBuf {
    folder("path").join(name)
}

/// kstatus.
pub fn check(name: &str) -> PathBuf {
    folder("checks").join(name)
}

pub fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).current_dir(root()).output().unwrap_or_else(|error| {
            panic!("{} cannot be started ({error}): run `make deps`", program.display())
        });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &error) }
}

/// What `helm template` makes of these `--set` values, or its complaint.
pub fn template(sets: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["template", "postern", "charts/postern", "--namespace", "postern-system"];
    arguments.extend(["--kube-version", "1.31.0"]);
    for set in sets {
        arguments.extend(["--set", set]);
    }
    run(&tool("helm"), &arguments)
}

/// The same as objects.
pub fn rendered(sets: &[&str]) -> Vec<Value> {
    objects(&template(sets).unwrap_or_else(|error| panic!("{sets:?}: {error}")))
}

pub fn objects(text: &str) -> Vec<Value> {
    let read = |(before, part): (usize, &str)| match yaml::read(part, before) {
        Ok((node, _)) => node.value(),
        Err(trouble) => panic!("line {}: {}", trouble.line, trouble.message),
    };
    yaml::documents(text).into_iter().map(read).filter(|object| object["kind"].is_string()).collect()
}

pub fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

pub fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Compares with a file of tests/golden; UPDATE=1 rewrites it.
pub fn golden(file: &str, text: &str) {
    let path = root().join("tests/golden").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("writable");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        known == text,
        "{} says otherwise. If this is meant, UPDATE=1 rewrites it:\n{text}",
        path.display()
    );
}
