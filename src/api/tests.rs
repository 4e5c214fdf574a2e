//! Properties of the definitions as a whole.

use std::path::Path;

use serde_json::Value;

use super::{crd_yaml, crds};

fn schemas() -> Vec<(String, Value)> {
    crds()
        .into_iter()
        .map(|crd| {
            let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            (crd.spec.names.kind, serde_json::to_value(schema).unwrap())
        })
        .collect()
}

fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), inner, visit);
    }
    for (key, label) in [("items", "[]"), ("additionalProperties", ".*")] {
        if schema[key].is_object() {
            walk(&format!("{path}{label}"), &schema[key], visit);
        }
    }
}

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    for crd in crds() {
        let file = folder.join(format!("{}.yaml", crd.spec.names.kind.to_lowercase()));
        let generated = crd_yaml(&crd);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &generated).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == generated,
            "{} is not what the code generates: run make generate",
            file.display()
        );
    }
}

#[test]
fn every_text_and_list_has_a_bound_and_every_list_says_who_owns_it() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, schema| match schema["type"].as_str() {
            Some("string") => assert!(
                schema["maxLength"].is_number() || schema["enum"].is_array() || !path.contains(".spec."),
                "{path} has no maxLength"
            ),
            Some("array") => {
                assert!(schema["maxItems"].is_number(), "{path} has no maxItems");
                assert!(schema["x-kubernetes-list-type"].is_string(), "{path} has no list type");
            }
            _ => {}
        });
    }
}

#[test]
fn every_field_of_a_spec_has_a_manual_page() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, schema| {
            let field = path.contains(".spec") && !path.ends_with("[]") && !path.ends_with(".*");
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(!field || !text.is_empty(), "{path} has no description");
        });
    }
}

#[test]
fn no_value_is_one_that_yaml_reads_as_a_boolean() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, schema| {
            for value in schema["enum"].as_array().into_iter().flatten() {
                let word = value.as_str().unwrap().to_lowercase();
                let boolean = ["y", "n", "yes", "no", "on", "off", "true", "false"].contains(&word.as_str());
                assert!(!boolean || path.ends_with("conditions[].status"), "{path}: {word}");
            }
        });
    }
}

#[test]
fn rules_stand_in_the_definitions_with_their_messages() {
    let text = super::crds_yaml();
    for message in
        ["certificate checks need tls.require", "exactly one of reject, quarantine and modify must be given"]
    {
        assert!(text.contains(message), "{message}");
    }
    assert!(!text.contains("nullable"), "nulls are pruned, not stored");
    for format in ["uint", "int16", "int8"] {
        assert!(!text.contains(&format!("format: {format}")), "{format}");
    }
}
