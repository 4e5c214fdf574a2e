//! MTA-STS policies and the records that announce them (RFC 8461 section 3): text in, values out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Policies that a domain wants kept for longer are kept this long (RFC 8461 section 3.2).
const LONGEST: u64 = 31_557_600;
/// Patterns of one policy; nobody has so many mail hosts.
const MAX_PATTERNS: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub mode: Mode,
    /// Names of mail hosts in lower case, `*.` in front for one label of any kind.
    pub mx: Vec<String>,
    pub max_age: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Enforce,
    Testing,
    None,
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("it has no `version: STSv1`")]
    Version,
    #[error("it has no mode of enforce, testing or none")]
    Mode,
    #[error("it has no max_age")]
    MaxAge,
    #[error("it names no mx, or one that is no host")]
    Mx,
    #[error("it is not text")]
    NotText,
}

impl Policy {
    pub fn parse(body: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(body).map_err(|_| PolicyError::NotText)?;
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.lines() {
            // Unknown fields are for those who know them (section 3.2).
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            // A field that stands twice counts once, as it came first.
            match field.trim() {
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(max_age.get_or_insert(value)),
                "mx" => mx.push(value.trim_end_matches('.').to_ascii_lowercase()),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let digits = |text: &&str| (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let max_age: u64 =
            max_age.filter(digits).and_then(|text| text.parse().ok()).ok_or(PolicyError::MaxAge)?;
        let needs_mx = mode != Mode::None;
        if (needs_mx && mx.is_empty()) || mx.len() > MAX_PATTERNS || !mx.iter().all(|name| is_pattern(name)) {
            return Err(PolicyError::Mx);
        }
        Ok(Self { mode, mx, max_age: max_age.min(LONGEST) })
    }

    /// Whether a mail host is one of those the domain names (section 4.1). A `*` stands for one label.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            None => *pattern == host,
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
        })
    }

    /// The lines of the policy, as reports repeat them (RFC 8460 section 4.3).
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {}", self.mode)];
        lines.extend(self.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", self.max_age));
        lines
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        })
    }
}

fn is_pattern(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// The id that a domain's TXT records announce (section 3.1): exactly one of them is about MTA-STS, else
/// the domain has none.
pub fn announced(records: &[String]) -> Option<String> {
    let mut ours = records.iter().filter(|text| {
        let rest = text.strip_prefix("v=STSv1");
        rest.is_some_and(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(';'))
    });
    let (one, more) = (ours.next()?, ours.next());
    if more.is_some() {
        return None;
    }
    let id = one.split(';').find_map(|field| field.trim().strip_prefix("id="))?.trim();
    let fine = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    fine.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str =
        "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_is_read_as_rfc_8461_writes_it() {
        let policy = Policy::parse(GOOD.as_bytes()).unwrap();
        let mx = vec!["mail.example.com".to_owned(), "*.example.net".to_owned()];
        assert_eq!(policy, Policy { mode: Mode::Enforce, mx, max_age: 604_800 });
        for (change, expected) in [
            (GOOD.replace("\r\n", "\n"), Ok(Mode::Enforce)),
            (GOOD.replace("enforce", "testing") + "x-more: things", Ok(Mode::Testing)),
            ("version: STSv1\nmode: none\nmax_age: 10".to_owned(), Ok(Mode::None)),
            (GOOD.to_owned() + "mode: none\n", Ok(Mode::Enforce)),
            (GOOD.replace("STSv1", "STSv2"), Err(PolicyError::Version)),
            (GOOD.replace("enforce", "please"), Err(PolicyError::Mode)),
            (GOOD.replace("604800", "a week"), Err(PolicyError::MaxAge)),
            (GOOD.replace("604800", "99999999999"), Err(PolicyError::MaxAge)),
            (GOOD.replace("mx", "my"), Err(PolicyError::Mx)),
            (GOOD.replace("mail.example.com", "mail example.com"), Err(PolicyError::Mx)),
            (GOOD.replace("*.example.net", "a.*.net"), Err(PolicyError::Mx)),
        ] {
            assert_eq!(Policy::parse(change.as_bytes()).map(|policy| policy.mode), expected, "{change}");
        }
        assert_eq!(Policy::parse(b"\xff"), Err(PolicyError::NotText));
        let forever = GOOD.replace("604800", "4000000000");
        assert_eq!(Policy::parse(forever.as_bytes()).unwrap().max_age, LONGEST);
    }

    #[test]
    fn hosts_are_matched_by_name_or_by_one_label() {
        let policy = Policy::parse(GOOD.as_bytes()).unwrap();
        for yes in ["mail.example.com", "MAIL.example.com.", "a.example.net", "B.Example.NET"] {
            assert!(policy.names(yes), "{yes}");
        }
        for no in
            ["example.net", "a.b.example.net", "xmail.example.com", "a.mail.example.com", ".example.net"]
        {
            assert!(!policy.names(no), "{no}");
        }
    }

    #[test]
    fn one_record_announces_a_policy() {
        let announced =
            |records: &[&str]| announced(&records.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(announced(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
        assert_eq!(announced(&["v=spf1 -all", "v=STSv1;id=1"]).as_deref(), Some("1"));
        assert_eq!(announced(&["v=STSv1; x=y; id=a1 ; z"]).as_deref(), Some("a1"));
        for none in [
            &["v=STSv1; id=1", "v=STSv1; id=2"][..],
            &["v=STSv11; id=1"],
            &["v=STSv1"],
            &["v=STSv1; id="],
            &["v=STSv1; id=a-b"],
            &["id=1; v=STSv1"],
            &[],
        ] {
            assert_eq!(announced(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_sends_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(policy) = Policy::parse(&body) {
                prop_assert_eq!(Policy::parse(policy.lines().join("\n").as_bytes()), Ok(policy));
            }
        }

        #[test]
        fn what_reports_repeat_reads_as_it_was(
            mode in prop::sample::select(vec![Mode::Enforce, Mode::Testing, Mode::None]),
            mx in prop::collection::vec("(\\*\\.)?[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}", 1..5),
            max_age in 0u64..LONGEST,
        ) {
            let policy = Policy { mode, mx, max_age };
            prop_assert_eq!(Policy::parse(policy.lines().join("\r\n").as_bytes()), Ok(policy));
        }
    }
}
