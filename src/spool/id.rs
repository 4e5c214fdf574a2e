//! The name a message keeps for good: in `Received`, in replies, in logs, in the spool.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Digits of base 62 that hold 128 bits.
const LENGTH: usize = 22;

/// Names a message for good. Made before the content arrives. 22 letters and digits whose order is
/// the order of time, to the millisecond and mostly within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a queue id: 22 letters and digits")]
pub struct QueueIdError;

impl QueueId {
    /// 48 bits of milliseconds, 16 that count, 64 of chance: unique without asking anyone.
    pub(super) fn new() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let millis = u128::try_from(Timestamp::now().as_millisecond()).unwrap_or(0) & ((1 << 48) - 1);
        let count = u128::from(COUNT.fetch_add(1, Ordering::Relaxed));
        Self(millis << 80 | count << 64 | u128::from(rand::random::<u64>()))
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = DIGITS[(rest % 62) as usize];
            rest /= 62;
        }
        f.pad(std::str::from_utf8(&text).expect("the digits are ASCII"))
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        if text.len() != LENGTH {
            return Err(QueueIdError);
        }
        text.bytes()
            .try_fold(0u128, |sum, byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'A'..=b'Z' => byte - b'A' + 10,
                    b'a'..=b'z' => byte - b'a' + 36,
                    _ => return None,
                };
                sum.checked_mul(62)?.checked_add(u128::from(digit))
            })
            .map(Self)
            .ok_or(QueueIdError)
    }
}

impl Serialize for QueueId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.to_bytes().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for QueueId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?.parse().map_err(de::Error::custom),
            false => <[u8; 16]>::deserialize(deserializer).map(Self::from_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_sortable_and_survive_text() {
        let ids: Vec<QueueId> = (0..1000).map(|_| QueueId::new()).collect();
        let mut texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        assert!(ids.iter().zip(&texts).all(|(id, text)| text.parse() == Ok(*id)));
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), ids.len());
        let mut sorted = ids.clone();
        sorted.sort();
        assert_eq!(sorted.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn other_text_is_not_an_id() {
        for text in
            ["", "abc", "zzzzzzzzzzzzzzzzzzzzzz", "0000000000000000000000-", "000000000000000000000\u{e9}"]
        {
            assert_eq!(text.parse::<QueueId>(), Err(QueueIdError), "{text}");
        }
    }
}
