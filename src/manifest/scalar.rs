//! What a plain scalar means: YAML 1.1 as Go's parser reads it, which is what kubectl does (spec R168).

use serde_json::{Number, Value};

/// The value of an unquoted scalar.
pub fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let starts_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if !starts_number {
        return Value::from(text);
    }
    let digits = text.replace('_', "");
    whole(&digits).or_else(|| fraction(&digits)).map_or_else(|| Value::from(text), Value::Number)
}

/// Decimal, 0x, 0o, 0b, and octal with a mere 0 in front.
fn whole(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(Number::from(magnitude));
    }
    i64::try_from(-i128::from(magnitude)).ok().map(Number::from)
}

fn fraction(text: &str) -> Option<Number> {
    let unsigned = text.trim_start_matches(['+', '-']);
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if text.len() - unsigned.len() > 1 || !unsigned.chars().all(shape) || unsigned.starts_with(['e', 'E']) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    // JSON knows one kind of number: 500.0 arrives as 500.
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::plain;

    #[test]
    fn scalars_mean_what_kubectl_takes_them_for() {
        let cases = [
            ("yes", json!(true)),
            ("No", json!(false)),
            ("on", json!(true)),
            ("OFF", json!(false)),
            ("y", json!(true)),
            ("N", json!(false)),
            ("oN", json!("oN")),
            ("~", Value::Null),
            ("", Value::Null),
            ("25", json!(25)),
            ("-3", json!(-3)),
            ("010", json!(8)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("0o17", json!(15)),
            ("1_000", json!(1000)),
            ("08", json!(8)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000)),
            ("500.0", json!(500)),
            (".5", json!(0.5)),
            ("5.7.1", json!("5.7.1")),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("50Mi", json!("50Mi")),
            ("2026-11-22", json!("2026-11-22")),
            ("12:30", json!("12:30")),
            ("-", json!("-")),
            ("1-2", json!("1-2")),
        ];
        for (text, value) in cases {
            assert_eq!(plain(text), value, "{text}");
        }
    }
}
