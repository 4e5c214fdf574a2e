//! Regular expressions, judged by the code that will run them (spec R59).

use super::problem::Problem;
use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};
use crate::policy::pattern::{self, PatternError};

/// A pattern that is searched for.
pub(super) fn search(path: &str, text: &str) -> Result<(), Problem> {
    pattern::compile(text).map(drop).map_err(|error| refused(path, &error))
}

/// A pattern that must match a whole address.
pub(super) fn whole(path: &str, text: &str) -> Result<(), Problem> {
    pattern::compile_whole(text).map(drop).map_err(|error| refused(path, &error))
}

fn refused(path: &str, error: &PatternError) -> Problem {
    let message = format!("{}: {error}", checks::PATTERN.message);
    Problem::new(path, Reason::PatternInvalid, message, ConditionType::Accepted)
}
