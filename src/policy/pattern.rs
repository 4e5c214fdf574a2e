//! Regular expressions of users, compiled with limits; refusals say where and what to do instead.
//!
//! Rust's `regex` matches in linear time whatever the pattern (decision 11). `^` and `$` stand for the
//! ends of the text, `(?m)` makes them line ends; `.` matches no line end without `(?s)`; matching is
//! case-sensitive without `(?i)`.

mod atoms;
mod sieve;

use regex::{Regex, RegexBuilder};
use regex_syntax::ast;

pub use sieve::{Possible, Sieve};

pub use super::matcher::{HowRead, how_read};

/// Bytes of a compiled program (spec R59). Larger ones are refused.
const MAX_PROGRAM: usize = 2 << 20;
/// Bytes of a pattern as written.
const MAX_PATTERN: usize = 16 << 10;

#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at offset {offset}{}", hint.map(|h| format!("; {h}")).unwrap_or_default())]
pub struct PatternError {
    /// Byte of the pattern.
    pub offset: usize,
    pub message: String,
    /// What to write instead.
    pub hint: Option<&'static str>,
}

/// Compiles a pattern that is searched for.
pub fn compile(pattern: &str) -> Result<Pattern, PatternError> {
    check(pattern)?;
    build(pattern, pattern)
}

/// Compiles a pattern that must match the whole of a text, as if anchored at both ends.
pub fn compile_whole(pattern: &str) -> Result<Pattern, PatternError> {
    check(pattern)?;
    // The pattern alone is well formed by now, so it cannot close the group. A comment at its end,
    // under (?x), could swallow the parenthesis: then a line end must stand before it.
    build(pattern, &format!(r"\A(?:{pattern})\z"))
        .or_else(|_| build(pattern, &format!("\\A(?:{pattern}\n)\\z")))
}

impl Pattern {
    /// As it was written, of one that [`compile`] made.
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Non-overlapping matches as byte ranges, from the left.
    pub fn find_iter<'a>(&'a self, text: &'a str) -> impl Iterator<Item = std::ops::Range<usize>> + 'a {
        self.regex.find_iter(text).map(|found| found.range())
    }
}

fn check(pattern: &str) -> Result<(), PatternError> {
    if pattern.len() > MAX_PATTERN {
        let message =
            format!("the pattern is {} bytes long, at most {MAX_PATTERN} are allowed", pattern.len());
        let hint = Some("put lists of words under match.words, which may be as long as you like");
        return Err(PatternError { offset: MAX_PATTERN, message, hint });
    }
    let parsed = ast::parse::ParserBuilder::new().nest_limit(100).build().parse(pattern);
    if let Err(error) = parsed {
        let (message, hint) = explain(pattern, &error);
        return Err(PatternError { offset: error.span().start.offset, message, hint });
    }
    if let Err(regex_syntax::Error::Translate(error)) = regex_syntax::parse(pattern) {
        return Err(PatternError {
            offset: error.span().start.offset,
            message: error.kind().to_string(),
            hint: None,
        });
    }
    Ok(())
}

fn build(written: &str, pattern: &str) -> Result<Pattern, PatternError> {
    let built =
        RegexBuilder::new(pattern).size_limit(MAX_PROGRAM).dfa_size_limit(4 << 20).nest_limit(110).build();
    built.map(|regex| Pattern { regex }).map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => PatternError {
            offset: written.find('{').unwrap_or(0),
            message: format!("the pattern needs more than {limit} bytes when compiled"),
            hint: Some(
                "make repetitions such as {1000} smaller, or use ASCII classes instead of \\w and \\p{…}",
            ),
        },
        other => PatternError { offset: 0, message: other.to_string(), hint: None },
    })
}

fn explain(pattern: &str, error: &ast::Error) -> (String, Option<&'static str>) {
    use ast::ErrorKind;
    let at = pattern.get(error.span().start.offset..).unwrap_or_default();
    let hint = match error.kind() {
        ErrorKind::UnsupportedLookAround => {
            return (
                "look-around ((?=…), (?!…), (?<=…), (?<!…)) is not supported".into(),
                Some("matching must take linear time; say it with two expressions and combine: All"),
            );
        }
        ErrorKind::UnsupportedBackreference => {
            return (
                "back-references (\\1, \\2, …) are not supported".into(),
                Some("matching must take linear time; write the repeated text out"),
            );
        }
        ErrorKind::GroupUnclosed => Some("close the group with ), or write \\( for a parenthesis"),
        ErrorKind::GroupUnopened => Some("write \\) for a parenthesis"),
        ErrorKind::ClassUnclosed => Some("close the class with ], or write \\[ for a bracket"),
        ErrorKind::RepetitionMissing => Some("put something before *, + or ?, or a \\ to take it literally"),
        ErrorKind::FlagUnrecognized | ErrorKind::FlagUnexpectedEof => {
            Some("flags are i, m, s, U, u, x and R")
        }
        ErrorKind::EscapeUnrecognized if at.starts_with("\\Z") => Some("write \\z for the end of the text"),
        ErrorKind::EscapeUnrecognized => Some("\\ stands before a character with a meaning, or not at all"),
        _ => None,
    };
    (error.kind().to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_where_and_what_instead() {
        for (pattern, offset, text) in [
            ("a(?=b)", 1, "look-around"),
            ("x(?<!b)", 1, "look-around"),
            (r"(a)\1", 3, "back-references"),
            ("a(b", 1, "unclosed group"),
            ("[BAD", 0, "unclosed"),
            ("*x", 0, "repetition"),
            (r"a\p{Nope}", 1, "property not found"),
            (r"a\Z", 1, r"\z"),
        ] {
            let error = compile(pattern).unwrap_err();
            assert_eq!(error.offset, offset, "{pattern}: {error}");
            assert!(error.to_string().contains(text), "{pattern}: {error}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused_or_linear() {
        assert!(compile(&"a".repeat(1 << 20)).unwrap_err().message.contains("bytes long"));
        assert!(compile(r"\p{L}{1000}{1000}").unwrap_err().message.contains("when compiled"));
        assert!(compile(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000))).is_err());
        let start = std::time::Instant::now();
        for pattern in ["(a+)+$", r"(\w+\s?)*$", "(a|a)*b", "(.*)*x"] {
            let text = format!("{}!", "a".repeat(100_000));
            let _ = compile(pattern).unwrap().is_match(&text);
        }
        assert!(start.elapsed().as_secs() < 10);
    }

    #[test]
    fn whole_patterns_match_whole_texts() {
        for (pattern, text, matches) in [
            ("a@b", "a@b", true),
            ("a@b", "xa@b", false),
            ("a@b|c", "a@bx", false),
            ("a|ab", "ab", true),
            (r"^(?i)(user1@solarmora\.com|user2@solarmora\.com)$", "USER2@solarmora.com", true),
            ("(?x) a # comment", "a", true),
            ("(?m)^a$", "a\nb", false),
        ] {
            assert_eq!(compile_whole(pattern).unwrap().is_match(text), matches, "{pattern} {text:?}");
        }
        assert!(compile_whole("a)(b").is_err());
    }
}
