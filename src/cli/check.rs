//! `postern check`: every problem of a folder, with file and line, and every case of its `*.test.yaml` files that
//! does not come out as expected.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::cases;
use crate::cli::folder::Folder;
use crate::policy::compile;
use crate::translate::{Outcome, Severity, unattached};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of YAML
    dir: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = super::Format::Text)]
    output: super::Format,
}

/// One line of the report; `-o json` prints a list of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    file: String,
    line: usize,
    severity: &'static str,
    message: String,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = Folder::read(&args.dir)?;
    let mut findings: Vec<Finding> = folder
        .loaded
        .problems
        .iter()
        .map(|problem| Finding {
            file: problem.file.display().to_string(),
            line: problem.line,
            severity: problem.severity.as_str(),
            message: problem.message.clone(),
        })
        .collect();
    let mut outcomes = unattached(&folder.loaded.resources).outcomes;
    for key in folder.keys() {
        let (configured, of_gateway) = folder.translate(&key, None);
        outcomes.extend(of_gateway);
        if let Some(configured) = configured
            && let Err(error) = compile(&configured.bundle, &configured.revision)
        {
            let (file, line) = folder.loaded.locate(&error.object, "");
            let message = format!("{}: {}", error.object, error.message);
            findings.push(Finding { file: file.display().to_string(), line, severity: "error", message });
        }
    }
    findings.extend(outcomes.iter().flat_map(|outcome| of_outcome(&folder, outcome)));
    let cases::Report { passed, failed, told } = cases::run(&folder, Timestamp::now());
    findings.extend(told.into_iter().map(|told| Finding {
        file: told.file.display().to_string(),
        line: told.line,
        severity: Severity::Error.as_str(),
        message: told.message,
    }));
    findings.sort();
    findings.dedup();
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error.as_str()).count();
    match args.output {
        super::Format::Json => super::print(&(serde_json::to_string_pretty(&findings)? + "\n")),
        super::Format::Text => {
            super::print(&text(&findings, errors, outcomes.len(), (passed, passed + failed)));
        }
    }
    Ok(if errors > 0 { ExitCode::from(super::PROBLEMS) } else { ExitCode::SUCCESS })
}

fn of_outcome<'a>(folder: &'a Folder, outcome: &'a Outcome) -> impl Iterator<Item = Finding> + 'a {
    let object = &outcome.origin.object;
    outcome.problems.iter().chain(&outcome.warnings).filter(|_| !folder.loaded.is_malformed(object)).map(
        move |problem| {
            let (file, line) = folder.loaded.locate(object, &problem.path);
            Finding {
                file: file.display().to_string(),
                line,
                severity: problem.severity.as_str(),
                message: format!("{object}: {}", problem.text()),
            }
        },
    )
}

/// `cases`: how many pass, of how many.
fn text(findings: &[Finding], errors: usize, objects: usize, cases: (usize, usize)) -> String {
    let mut out = String::new();
    for Finding { file, line, severity, message } in findings {
        let _ = writeln!(out, "{file}:{line}: {severity}: {message}");
    }
    let warnings = findings.len() - errors;
    let cases = match cases {
        (_, 0) => String::new(),
        (passed, all) => format!(", {passed} of {all} cases pass"),
    };
    let _ = writeln!(out, "{objects} objects, {errors} errors, {warnings} warnings{cases}");
    out
}
