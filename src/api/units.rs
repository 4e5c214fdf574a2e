//! Sizes and durations in the forms Kubernetes users know.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::cel;

/// A number of bytes as a Kubernetes quantity: `50Mi`, `10G`, `1048576`. Keeps what its author wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "String")]
pub struct Quantity(String);

/// YAML reads `1048576` as a number, so both forms are taken.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl From<Written> for Quantity {
    fn from(written: Written) -> Self {
        match written {
            Written::Number(number) => Self(number.to_string()),
            Written::Text(text) => Self(text),
        }
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

impl Quantity {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes, rounded up; `None` if this is no quantity that fits.
    pub fn bytes(&self) -> Option<u64> {
        let digits = self.0.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(digits);
        let scale: u64 = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return None,
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale);
        }
        let number: f64 = number.parse().ok()?;
        let bytes = (number * scale as f64).ceil();
        (bytes < 9e15).then_some(bytes as u64)
    }
}

/// A quantity where there may be too many of them for CEL: see [`super::schema::pattern`].
pub fn plain_quantity(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$",
        "x-kubernetes-int-or-string": true,
    })
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = schemars::json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        });
        schemars::transform::Transform::transform(&mut cel(&[checks::QUANTITY]), &mut schema);
        schema
    }
}

/// A duration as Go writes it: `120h`, `5m`, `1h30m`, `500ms`. There are no days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GoDuration(String);

impl GoDuration {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` if this is no duration above zero and up to a year.
    pub fn get(&self) -> Option<Duration> {
        const YEAR: f64 = 8760.0 * 3600.0;
        let mut rest = self.0.as_str();
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let (unit, scale) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
                .into_iter()
                .find(|(u, _)| rest.starts_with(u))?;
            rest = &rest[unit.len()..];
            seconds += number * scale;
        }
        (seconds > 0.0 && seconds <= YEAR).then(|| Duration::from_millis((seconds * 1000.0).round() as u64))
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = schemars::json_schema!({"type": "string", "maxLength": 32});
        schemars::transform::Transform::transform(&mut cel(&[checks::DURATION]), &mut schema);
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in
            [("50Mi", 50 << 20), ("10G", 10_000_000_000), ("1048576", 1 << 20), ("1.5Ki", 1536), ("0", 0)]
        {
            assert_eq!(Quantity::new(text).bytes(), Some(bytes), "{text}");
        }
        for text in ["", "Mi", "5MB", "-1", "5 Mi", "1e3x", "99999999999Ti"] {
            assert_eq!(Quantity::new(text).bytes(), None, "{text}");
        }
        let number: Quantity = serde_json::from_str("1024").unwrap();
        assert_eq!(number.bytes(), Some(1024));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in
            [("120h", 432_000_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("20ms", 20)]
        {
            assert_eq!(GoDuration::new(text).get(), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "5d", "h", "-5m", "0s", "5 m", "9000h"] {
            assert_eq!(GoDuration::new(text).get(), None, "{text}");
        }
    }
}
