//! Regular expressions, judged by the parser that will run them (spec R59).

use super::problem::Problem;
use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};

/// Whether the gateway can compile this pattern; the problem names the place and the cause.
pub(super) fn judge(path: &str, pattern: &str) -> Result<(), Problem> {
    regex::Regex::new(pattern).map(drop).map_err(|error| {
        let message = format!("{}: {}", checks::PATTERN.message, error);
        Problem::new(path, Reason::PatternInvalid, message, ConditionType::Accepted)
    })
}
