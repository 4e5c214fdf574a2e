//! `postern explain --ref`: a decision of the past, out of the decision log of a gateway, running or not.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::cli::access::{Access, escape};
use crate::cli::remote::Cluster;
use crate::gateway::decisions::{Explained, find, http};

#[derive(Serialize)]
struct Recalled<'a> {
    #[serde(flatten)]
    newest: &'a Explained,
    /// Decisions of the same message before it: it was held, and released.
    earlier: &'a [Explained],
}

/// By the pods of a gateway in a cluster.
pub fn in_cluster(cluster: &Cluster, reference: &str, output: cli::Format) -> anyhow::Result<ExitCode> {
    #[derive(Deserialize)]
    struct FromPod {
        pod: String,
        answer: Option<http::Recalled>,
    }
    #[derive(Deserialize)]
    struct FromPods {
        pods: Vec<FromPod>,
    }
    let reference = reference.trim().trim_matches(['(', ')', '.']);
    let found = cli::runtime()?.block_on(async {
        let access = Access::in_cluster(cluster).await?;
        let found = access.get(&format!("/decisions/{}", escape(reference))).await;
        access.close().await;
        found
    })?;
    let FromPods { pods } = serde_json::from_slice(&found).context("the answer does not read")?;
    for FromPod { pod, answer } in pods {
        let Some(http::Recalled { decisions }) = answer else { continue };
        let Some((newest, earlier)) = decisions.split_last() else { continue };
        match output {
            cli::Format::Json => {
                cli::print(&(serde_json::to_string_pretty(&Recalled { newest, earlier })? + "\n"));
            }
            cli::Format::Text => {
                let texts: Vec<_> = decisions.iter().map(super::text).collect();
                cli::print(&format!("Decided by {pod}\n{}", texts.join("\n")));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
