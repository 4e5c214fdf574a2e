//! `postern explain --ref`: a decision of the past, out of the decision log of a gateway, running or not.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::cli;
use crate::gateway::decisions::{Explained, find};

#[derive(Serialize)]
struct Recalled<'a> {
    #[serde(flatten)]
    newest: &'a Explained,
    /// Decisions of the same message before it: it was held, and released.
    earlier: &'a [Explained],
}

pub fn run(state: &Path, reference: &str, output: cli::Format) -> anyhow::Result<ExitCode> {
    let reference = reference.trim().trim_matches(['(', ')', '.']);
    let found = find(state, reference)
        .with_context(|| format!("cannot read the decisions in {}", state.display()))?;
    if !found.ambiguous.is_empty() {
        let several: Vec<_> = found.ambiguous.iter().map(String::as_str).collect();
        anyhow::bail!("several references begin with {reference}: {}", several.join(", "));
    }
    let Some((newest, earlier)) = found.decisions.split_last() else {
        let searched: Vec<_> = found
            .searched
            .iter()
            .map(|(folder, files)| format!("{} ({files} files)", folder.display()))
            .collect();
        anyhow::bail!(
            "no decision {reference} in {}; it is older than the log, was made by another pod, or the message was \
             accepted without any rule that matched",
            searched.join(", ")
        );
    };
    match output {
        cli::Format::Json => {
            cli::print(&(serde_json::to_string_pretty(&Recalled { newest, earlier })? + "\n"));
        }
        cli::Format::Text => {
            let texts: Vec<_> = found.decisions.iter().map(super::text).collect();
            cli::print(&texts.join("\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
