//! `NAME.before.yaml` (if there is one) is published first, then `NAME.in.yaml` is translated; the bundle and
//! what every author is told must be `NAME.out.yaml`. `UPDATE=1` writes them anew.

use serde_json::{Value, json};

use super::{Generations, last_good, pass, read, repository};
use crate::api::yaml;
use crate::translate::Outcome;

#[test]
fn what_users_write_becomes_what_pods_obey_and_what_users_read() {
    let folder = repository("tests/golden/translate");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".in.yaml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 10);
    for name in names {
        let file = |part: &str| folder.join(format!("{name}.{part}.yaml"));
        let mut generations = Generations::default();
        let before = std::fs::read_to_string(file("before")).ok();
        let last = before.and_then(|text| last_good(pass(&read(&text, &mut generations), None).0));
        let loaded = read(&std::fs::read_to_string(file("in")).unwrap(), &mut generations);
        let (translation, unattached) = pass(&loaded, last.as_ref());
        let outcomes: Vec<Value> = translation.outcomes.iter().chain(&unattached).map(outcome).collect();
        let out = yaml::document(&json!({
            "bundle": translation.bundle,
            "materials": translation.materials,
            "outcomes": outcomes,
        }));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(file("out"), &out).unwrap();
        }
        let expected = std::fs::read_to_string(file("out")).unwrap_or_default();
        assert!(out == expected, "{name}: expected\n{expected}\ngot\n{out}");
    }
}

fn outcome(outcome: &Outcome) -> Value {
    let conditions: Vec<String> = outcome
        .verdicts()
        .iter()
        .map(|verdict| {
            format!("{}={} {}: {}", verdict.kind, verdict.state.as_str(), verdict.reason, verdict.message)
        })
        .collect();
    let warnings: Vec<String> = outcome
        .warnings
        .iter()
        .map(|problem| format!("{} {}: {}", problem.condition, problem.reason, problem.text()))
        .collect();
    json!({
        "object": outcome.origin.object.to_string(),
        "generation": outcome.origin.generation,
        "conditions": conditions,
        "warnings": warnings,
        "inForce": outcome.in_force,
        "broken": outcome.broken,
        "disabled": outcome.disabled,
    })
}
