//! Bends the derived schemas into the form of Kubernetes: rules in CEL, bounds on everything.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::transform::Transform;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::checks::Check;
use super::columns::Column;

const VALIDATIONS: &str = "x-kubernetes-validations";

/// Adds rules to the schema of a struct or a field.
pub fn cel(checks: &'static [Check]) -> impl Transform {
    move |schema: &mut Schema| add(schema.ensure_object(), checks)
}

/// Adds rules to the items of a list.
pub fn each(checks: &'static [Check]) -> impl Transform {
    move |schema: &mut Schema| {
        if let Some(items) = schema.ensure_object().get_mut("items").and_then(Value::as_object_mut) {
            add(items, checks);
        }
    }
}

/// Limits the length of each string of a list.
pub fn each_len(min: u32, max: u32) -> impl Transform {
    move |schema: &mut Schema| {
        if let Some(items) = schema.ensure_object().get_mut("items").and_then(Value::as_object_mut) {
            items.insert("minLength".to_owned(), json!(min));
            items.insert("maxLength".to_owned(), json!(max));
        }
    }
}

/// A form that costs nothing at admission, for fields of which there may be very many: CEL has a budget.
pub fn pattern(form: &'static str) -> impl Transform {
    move |schema: &mut Schema| {
        let schema = schema.ensure_object();
        let place = match schema.get_mut("items").and_then(Value::as_object_mut) {
            Some(items) => items,
            None => schema,
        };
        place.insert("pattern".to_owned(), json!(form));
    }
}

/// A list that is owned as a whole: two field managers never own halves of it.
pub fn atomic(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
}

/// A list whose items are told apart by `name`.
pub fn by_name(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(["name"]));
}

/// An object of Kubernetes' own that is passed on unread, such as an affinity.
pub fn passed_on(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of such objects.
pub fn passed_on_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// A map of short texts, such as annotations.
pub fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// metav1.Condition, as a list that merges by type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "Accepted, ResolvedRefs, Programmed, Ready and others."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation this condition speaks of."},
                "reason": {"type": "string", "maxLength": 1024, "description": "One word from a closed list."},
                "message": {"type": "string", "maxLength": 32768, "description": "What is so, and what to do about it."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "maxLength": 64},
            },
        },
    })
}

fn add(schema: &mut Map<String, Value>, checks: &[Check]) {
    let rules = schema.entry(VALIDATIONS).or_insert_with(|| json!([]));
    let rules = rules.as_array_mut().expect("only this function writes the key");
    for check in checks {
        let mut rule = json!({"rule": check.cel, "message": check.message});
        if let Some(expression) = check.message_cel {
            rule["messageExpression"] = json!(expression);
        }
        rules.push(rule);
    }
}

/// The last touches that neither schemars nor kube-derive can express.
pub fn finish(crd: CustomResourceDefinition, columns: &[Column], root: &[Check]) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a definition is plain data");
    for version in value["spec"]["versions"].as_array_mut().expect("a definition has versions") {
        version["additionalPrinterColumns"] = columns.iter().map(Column::value).collect();
        let schema = version["schema"]["openAPIV3Schema"].as_object_mut().expect("a version has a schema");
        tidy(schema);
        // Whoever reads an object that the operator has not seen yet must not take silence for consent: kstatus
        // (Flux, kubectl wait of others) calls an object without a status current.
        if let Some(status) = schema.get_mut("properties").and_then(|properties| properties.get_mut("status"))
        {
            status["default"] = json!({"observedGeneration": -1});
        }
        if !root.is_empty() {
            add(schema, root);
        }
    }
    serde_json::from_value(value).expect("a definition stays one")
}

/// Nulls are pruned instead of stored, the only number formats are those the API server knows.
fn tidy(schema: &mut Map<String, Value>) {
    schema.remove("nullable");
    let format = match schema.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "int8" | "int16") => Some("int32"),
        Some("uint" | "uint32" | "uint64") => Some("int64"),
        _ => None,
    };
    if let Some(format) = format {
        schema.insert("format".to_owned(), json!(format));
    }
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|value| !value.is_null());
    }
    // The line breaks of our comments are not those of a terminal.
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(tidy);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner).and_then(Value::as_object_mut) {
            tidy(inner);
        }
    }
}
