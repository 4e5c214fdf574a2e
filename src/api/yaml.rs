//! Writes plain data as YAML that every YAML reader reads alike (1.1 and 1.2): block style, and quotes
//! around every text that some reader would take for something else.

use serde_json::Value;

/// One document, without the `---` before it.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        flat => {
            scalar(flat, &mut out);
            out.push('\n');
        }
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first key of a list item stands behind its dash.
                if at > 0 || !out.ends_with("- ") {
                    indent(depth, out);
                }
                text(key, out);
                out.push(':');
                nested(value, depth, out);
            }
        }
        Value::Array(list) => {
            for value in list {
                indent(depth, out);
                out.push_str("- ");
                match value {
                    Value::Object(map) if !map.is_empty() => block(value, depth + 1, out),
                    Value::Array(list) if !list.is_empty() => {
                        out.truncate(out.len() - 1);
                        out.push('\n');
                        block(value, depth + 1, out);
                    }
                    flat => {
                        scalar(flat, out);
                        out.push('\n');
                    }
                }
            }
        }
        _ => unreachable!("only maps and lists are blocks"),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        flat => {
            out.push(' ');
            scalar(flat, out);
            out.push('\n');
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(value) => text(value, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9e15) => {
            let whole = number.as_f64().expect("just asked") as i64;
            out.push_str(&whole.to_string());
        }
        other => out.push_str(&other.to_string()),
    }
}

fn text(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        // A JSON string is a double-quoted YAML string.
        out.push_str(&Value::from(text).to_string());
    }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 12] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ".inf", ".nan"];
    let safe = |c: char| {
        c.is_ascii_alphanumeric()
            || " _-./(),;'=+*{}[]<>|^$&!?@%\\\"`:".contains(c)
            || (!c.is_ascii() && c.is_alphanumeric())
            || "…–".contains(c)
    };
    // JSON paths begin with a point, and so do some numbers.
    let start = text.strip_prefix('.').unwrap_or(text);
    start.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(safe)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::document;

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        let value = json!({
            "plain": "some words, and more", "empty": "", "no": "no", "number": "25", "colon": "a: b",
            "hash": "#x", "lines": "a\nb", "list": [1, {"a": true, "b": [null]}, [2], "x"], "none": [], "map": {},
        });
        let expected = r##"colon: "a: b"
empty: ""
hash: "#x"
lines: "a\nb"
list:
- 1
- a: true
  b:
  - null
-
  - 2
- x
map: {}
"no": "no"
none: []
number: "25"
plain: some words, and more
"##;
        assert_eq!(document(&value), expected);
    }
}
