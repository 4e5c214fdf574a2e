//! Holds an object against the schema of its kind, in the words of the API server, with lines.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::yaml::{Kind, Node, Trouble};

/// Notes everything in `node` that does not have the form of `schema`. `path` names the node.
pub fn judge(path: &str, node: &Node, schema: &JSONSchemaProps, troubles: &mut Vec<Trouble>) {
    let mut note = |line: usize, message: String| troubles.push(Trouble { line, message });
    let int_or_text = schema.x_kubernetes_int_or_string == Some(true);
    if let Some(wanted) = schema.type_.as_deref().filter(|_| !int_or_text)
        && !fits(&node.kind, wanted)
    {
        note(node.line, format!("{path} in body must be of type {wanted}: {}", found(&node.kind)));
        return;
    }
    match &node.kind {
        Kind::Scalar(value) => scalar(path, node.line, value, schema, int_or_text, &mut note),
        Kind::List(items) => {
            if let Some(most) = schema.max_items.filter(|most| items.len() as i64 > *most) {
                note(node.line, format!("{path}: Too many: {}: must have at most {most} items", items.len()));
            }
            if let Some(least) = schema.min_items.filter(|least| (items.len() as i64) < *least) {
                note(node.line, format!("{path} in body should have at least {least} items"));
            }
            if let Some(JSONSchemaPropsOrArray::Schema(inner)) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    judge(&format!("{path}[{at}]"), item, inner, troubles);
                }
            }
        }
        Kind::Map(entries) => map(path, node, entries, schema, troubles),
    }
}

fn scalar(
    path: &str,
    line: usize,
    value: &Value,
    schema: &JSONSchemaProps,
    int_or_text: bool,
    note: &mut impl FnMut(usize, String),
) {
    if int_or_text && !(value.is_string() || value.is_i64() || value.is_u64()) {
        note(line, format!("{path} in body must be of type integer or string"));
    }
    if let Some(allowed) = &schema.enum_ {
        let allowed: Vec<String> = allowed.iter().map(|allowed| allowed.0.to_string()).collect();
        if !allowed.contains(&value.to_string()) {
            let hint = if value.is_boolean() { " (YAML reads this word as a boolean: quote it)" } else { "" };
            note(
                line,
                format!("{path}: Unsupported value: {value}: supported values: {}{hint}", allowed.join(", ")),
            );
        }
    }
    if let Value::String(text) = value {
        let length = text.chars().count() as i64;
        if let Some(most) = schema.max_length.filter(|most| length > *most) {
            note(line, format!("{path}: Too long: may not be more than {most} bytes"));
        }
        if let Some(least) = schema.min_length.filter(|least| length < *least) {
            note(line, format!("{path} in body should be at least {least} chars long"));
        }
    }
    if let (Value::String(text), Some(form)) = (value, &schema.pattern)
        && regex::Regex::new(form).is_ok_and(|regex| !regex.is_match(text))
    {
        note(line, format!("{path} in body should match '{form}'"));
    }
    if let Some(number) = value.as_f64() {
        if let Some(most) = schema.maximum.filter(|most| number > *most) {
            note(line, format!("{path} in body should be less than or equal to {most}"));
        }
        if let Some(least) = schema.minimum.filter(|least| number < *least) {
            note(line, format!("{path} in body should be greater than or equal to {least}"));
        }
    }
}

fn map(
    path: &str,
    node: &Node,
    entries: &[(String, Node)],
    schema: &JSONSchemaProps,
    troubles: &mut Vec<Trouble>,
) {
    if let Some(most) = schema.max_properties.filter(|most| entries.len() as i64 > *most) {
        let message = format!("{path}: Too many: {}: must have at most {most} items", entries.len());
        troubles.push(Trouble { line: node.line, message });
    }
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
    for (key, inner) in entries {
        let inner_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let known = schema.properties.as_ref().and_then(|properties| properties.get(key));
        match (known, &schema.additional_properties) {
            // The API server prunes nulls before it looks.
            _ if inner.is_null() => {}
            (Some(known), _) => judge(&inner_path, inner, known, troubles),
            (None, Some(JSONSchemaPropsOrBool::Schema(other))) => judge(&inner_path, inner, other, troubles),
            (None, _) if open => {}
            (None, _) => {
                let names = schema.properties.iter().flat_map(|properties| properties.keys());
                let hint =
                    nearest(key, names).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
                let message = format!("unknown field {inner_path:?}{hint}");
                troubles.push(Trouble { line: inner.line, message });
            }
        }
    }
    for required in schema.required.iter().flatten() {
        if node.get(required).is_none_or(Node::is_null) {
            let message = format!("{}: Required value", join(path, required));
            troubles.push(Trouble { line: node.line, message });
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn fits(kind: &Kind, wanted: &str) -> bool {
    match (kind, wanted) {
        (Kind::Map(_), "object") | (Kind::List(_), "array") => true,
        (Kind::Scalar(Value::String(_)), "string") | (Kind::Scalar(Value::Bool(_)), "boolean") => true,
        (Kind::Scalar(Value::Number(number)), "integer") => number.is_i64() || number.is_u64(),
        (Kind::Scalar(Value::Number(_)), "number") => true,
        _ => false,
    }
}

fn found(kind: &Kind) -> &'static str {
    match kind {
        Kind::Map(_) => "\"object\"",
        Kind::List(_) => "\"array\"",
        Kind::Scalar(Value::String(_)) => "\"string\"",
        Kind::Scalar(Value::Bool(_)) => {
            "\"boolean\" (YAML reads yes, no, on, off, y and n as booleans: quote a text)"
        }
        Kind::Scalar(Value::Number(number)) if number.is_f64() => "\"number\"",
        Kind::Scalar(Value::Number(_)) => "\"integer\"",
        Kind::Scalar(_) => "\"null\"",
    }
}

/// The known name that a mistyped one most likely means.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let lower = typed.to_lowercase();
    known
        .map(|name| (distance(&lower, &name.to_lowercase()), name.as_str()))
        .filter(|(distance, name)| *distance <= 1 + name.len().min(typed.len()) / 4)
        .min()
        .map(|(_, name)| name)
}

/// Edits between two words; neighbours that changed places are one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typo_finds_its_field_and_nonsense_finds_none() {
        let known: Vec<String> =
            ["hosts", "mxLookup", "secondaryHosts", "tls", "retry"].map(str::to_owned).into();
        for (typed, meant) in [
            ("hots", Some("hosts")),
            ("Hosts", Some("hosts")),
            ("mxlookup", Some("mxLookup")),
            ("secondryHost", Some("secondaryHosts")),
            ("tsl", Some("tls")),
            ("banana", None),
        ] {
            assert_eq!(nearest(typed, known.iter()), meant, "{typed}");
        }
    }
}
