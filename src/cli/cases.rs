//! The tests that people write for their own rules: `*.test.yaml` files of a folder, run by `check` with the code
//! that would judge real mail. `docs/testing-rules.md` is their manual.

mod compare;
mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::cli::folder::{Folder, Unusable};
use crate::cli::trial::{self, Judge, envelope};
use crate::gateway::decisions::Listing;
use read::{Case, Mail};

/// Something to tell of a file of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub file: PathBuf,
    pub line: usize,
    pub message: String,
}

/// What running all cases of a folder came to.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failed: usize,
    /// Mistakes in the files, and what failing cases expected.
    pub told: Vec<Told>,
}

/// Runs every case of the folder.
pub fn run(folder: &Folder, now: Timestamp) -> Report {
    let mut report = Report::default();
    let mut judges: Vec<(Option<String>, Result<Judge, Unusable>)> = Vec::new();
    for file in &folder.loaded.cases {
        let told = &mut report.told;
        let mut tell = |line: usize, message: String| told.push(Told { file: file.clone(), line, message });
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                tell(1, format!("cannot be read: {error}"));
                continue;
            }
        };
        let (suites, troubles) = read::suites(&text);
        for trouble in troubles {
            tell(trouble.line, trouble.message);
        }
        for suite in suites {
            let known = judges.iter().position(|(name, _)| *name == suite.gateway);
            let at = known.unwrap_or_else(|| {
                let judge = folder.gateway(suite.gateway.as_deref()).and_then(|one| Judge::new(&one, now));
                judges.push((suite.gateway.clone(), judge));
                judges.len() - 1
            });
            let judge = match &judges[at].1 {
                Ok(judge) => judge,
                Err(error) => {
                    tell(suite.line, format!("the cases cannot run: {error}"));
                    continue;
                }
            };
            for case in suite.cases {
                let differences = try_case(judge, file, &case);
                match differences.is_empty() {
                    true => report.passed += 1,
                    false => report.failed += 1,
                }
                for (line, difference) in differences {
                    tell(line, format!("case {:?}: {difference}", case.name));
                }
            }
        }
    }
    report
}

/// What is not as the case expects, each with the line of the expectation.
fn try_case(judge: &Judge, file: &Path, case: &Case) -> Vec<(usize, String)> {
    let content = match &case.mail {
        Mail::Inline(text) => text.clone().into_bytes(),
        Mail::File(name) => match std::fs::read(file.with_file_name("").join(name)) {
            Ok(content) => content,
            Err(error) => return vec![(case.mail_line, format!("mail {name}: {error}"))],
        },
    };
    let trial: trial::Trial = match envelope::trial(case.envelope.clone(), &content) {
        Ok(trial) => trial,
        Err(why) => return vec![(case.line, why.to_owned())],
    };
    compare::differences(&case.expect, &judge.judge(&trial, Listing::All).explained)
}
