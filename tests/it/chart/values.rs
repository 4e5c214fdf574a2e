//! The chart's values: each is explained, each has a schema, and nothing else is taken.

use serde_json::Value;

use crate::support::chart::{objects, root, template};

fn schema() -> Value {
    let path = root().join("charts/postern/values.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON")
}

fn values_yaml() -> String {
    std::fs::read_to_string(root().join("charts/postern/values.yaml")).expect("readable")
}

fn values() -> Value {
    let text = format!("kind: Values\n{}", values_yaml());
    let mut values = objects(&text).remove(0);
    values.as_object_mut().expect("a map").remove("kind");
    values
}

/// Every place of the schema that has properties of its own.
fn closed(path: &str, schema: &Value, open: &mut Vec<String>, silent: &mut Vec<String>) {
    if !path.is_empty() && schema["description"].as_str().is_none_or(str::is_empty) {
        silent.push(path.to_owned());
    }
    if schema["properties"].is_object() && schema["additionalProperties"] != Value::Bool(false) {
        open.push(path.to_owned());
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        closed(&format!("{path}.{name}"), inner, open, silent);
    }
    if schema["items"]["properties"].is_object() {
        closed(&format!("{path}[]"), &schema["items"], open, silent);
    }
}

#[test]
fn every_value_is_explained_and_no_other_is_taken() {
    let (mut open, mut silent) = (Vec::new(), Vec::new());
    closed("", &schema(), &mut open, &mut silent);
    assert!(open.is_empty(), "unknown keys would be taken at {open:?}");
    assert!(silent.is_empty(), "values.schema.json does not say what these are: {silent:?}");
}

#[test]
fn every_key_of_values_yaml_has_a_schema_and_every_schema_a_default() {
    fn walk(path: &str, value: &Value, schema: &Value, unknown: &mut Vec<String>) {
        let Some(properties) = schema["properties"].as_object() else { return };
        for (name, inner) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            match properties.get(name) {
                Some(schema) => walk(&path, inner, schema, unknown),
                None => unknown.push(path),
            }
        }
    }
    let (values, schema) = (values(), schema());
    let mut unknown = Vec::new();
    walk("", &values, &schema, &mut unknown);
    assert!(unknown.is_empty(), "not in values.schema.json: {unknown:?}");
    for name in schema["properties"].as_object().expect("properties").keys() {
        // Helm's own.
        assert!(name == "global" || values.get(name).is_some(), "values.yaml does not show {name}");
    }
}

#[test]
fn every_key_of_values_yaml_stands_below_a_comment() {
    let text = values_yaml();
    let mut explained = false;
    let mut bare = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() {
            explained = false;
        } else if line.trim_start().starts_with('#') {
            // A rule between sections explains nothing.
            explained |= !line.ends_with("----");
        } else if !line.starts_with(' ') && !line.starts_with('-') && !explained {
            bare.push(line);
        }
    }
    // Maps of a pod that are known from every chart, under one heading.
    let known = ["resources:", "podAnnotations: {}", "podLabels: {}", "nodeSelector: {}", "tolerations: []"];
    bare.retain(|line| !known.contains(line) && *line != "affinity: {}");
    let one_word = ["image:", "serviceAccount:", "crds:", "rbac:"];
    bare.retain(|line| !one_word.contains(line));
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn a_key_that_nobody_knows_is_refused_wherever_it_stands() {
    fn places(path: &str, schema: &Value, found: &mut Vec<String>) {
        if schema["properties"].is_object() {
            found.push(path.to_owned());
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            places(&format!("{path}{name}."), inner, found);
        }
    }
    let mut found = Vec::new();
    places("", &schema(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    // All at once: helm names each of them.
    let typos: Vec<String> = found.iter().map(|path| format!("{path}typo=1")).collect();
    let sets: Vec<&str> = typos.iter().map(String::as_str).collect();
    let said = template(&sets).expect_err("typos are refused");
    for path in found {
        let place = path.trim_end_matches('.').replace('.', "/");
        assert!(
            said.contains(&format!("'/{place}'")) || place.is_empty() && said.contains("'typo'"),
            "{place}: {said}"
        );
    }
}
