//! `postern rollback`: list the revisions that are kept, have all pods run a former one, and end that again. It
//! sets one field of the OutboundGateway, with the user's own rights; the operator does the rest.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

use super::cluster::{Cluster, Target};
use super::{Format, WrongUse};
use crate::api::OutboundGateway;
use crate::bundle::Revision;
use crate::controller::build::{GATEWAY_LABEL, REVISION_LABEL};
use crate::controller::history::{Changes, Kept, Summary, read_listing};

/// Who wrote the field, among the managers of the object.
const MANAGER: &str = "postern-rollback";

#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Go back to this revision; default: the one in force before
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["list", "undo"])]
    to: Option<String>,
    /// Only list the revisions that are kept
    #[arg(long, conflicts_with = "undo")]
    list: bool,
    /// End it: the pods follow routes and rules again
    #[arg(long)]
    undo: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(act(args))
}

async fn act(args: Args) -> anyhow::Result<ExitCode> {
    let Args { target, to, list, undo, output } = args;
    let cluster = target.open().await?;
    let gateway = cluster.the_gateway().await?;
    if undo {
        return end(&cluster, &gateway, output).await;
    }
    let now = Now::of(&gateway);
    let kept = kept(&cluster, &gateway).await?;
    if list {
        super::print(&match output {
            Format::Text => table(&kept, &now),
            Format::Json => format!("{}\n", serde_json::to_string_pretty(&rows(&kept, &now))?),
        });
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&kept, &now, to.as_deref())?;
    pin(&cluster, Some(&chosen.revision)).await?;
    let named = cluster.named();
    super::print(&match output {
        Format::Text => format!(
            "OutboundGateway {}/{} goes back to revision {}, published {}{}.\n\
             See how far it is:  postern status {named} --watch\n\
             Then repair what was wrong, and end it:  postern rollback {named} --undo\n",
            cluster.namespace,
            cluster.gateway,
            chosen.revision,
            time(chosen.published_at),
            chosen.summary.as_ref().map(|s| format!(", {} rules", s.rules)).unwrap_or_default(),
        ),
        Format::Json => format!("{}\n", json!({"pinnedRevision": chosen.revision})),
    });
    Ok(ExitCode::SUCCESS)
}

async fn end(cluster: &Cluster, gateway: &OutboundGateway, output: Format) -> anyhow::Result<ExitCode> {
    let before = gateway.spec.pinned_revision.clone();
    if before.is_some() {
        pin(cluster, None).await?;
    }
    super::print(&match (output, before) {
        (Format::Json, before) => format!("{}\n", json!({"pinnedRevision": null, "before": before})),
        (Format::Text, Some(before)) => format!(
            "OutboundGateway {}/{} is no longer pinned to revision {before}: its pods follow routes and rules again.\n\
             See how far it is:  postern status {} --watch\n",
            cluster.namespace,
            cluster.gateway,
            cluster.named()
        ),
        (Format::Text, None) => {
            format!("OutboundGateway {}/{} is not pinned.\n", cluster.namespace, cluster.gateway)
        }
    });
    Ok(ExitCode::SUCCESS)
}

async fn pin(cluster: &Cluster, revision: Option<&Revision>) -> anyhow::Result<()> {
    let patch = json!({"spec": {"pinnedRevision": revision}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let api = cluster.api::<OutboundGateway>();
    api.patch(&cluster.gateway, &params, &Patch::Merge(patch)).await.with_context(|| {
        format!(
            "cannot write spec.pinnedRevision of OutboundGateway {}/{}",
            cluster.namespace, cluster.gateway
        )
    })?;
    Ok(())
}

async fn kept(cluster: &Cluster, gateway: &OutboundGateway) -> anyhow::Result<Vec<Kept>> {
    let labels = format!("{GATEWAY_LABEL}={},{REVISION_LABEL}", cluster.gateway);
    let params = ListParams::default().labels(&labels);
    let maps = cluster.api::<ConfigMap>().list_metadata(&params).await;
    let maps = maps.with_context(|| format!("cannot list ConfigMaps in namespace {}", cluster.namespace))?;
    let uid = gateway.uid();
    let kept = read_listing(&maps.items, uid.as_deref());
    Ok(kept.into_iter().filter(|kept| kept.summary.is_some()).collect())
}

/// What the gateway runs and should run.
struct Now {
    in_force: Option<String>,
    pinned: Option<String>,
}

impl Now {
    fn of(gateway: &OutboundGateway) -> Self {
        let rollout = gateway.status.as_ref().and_then(|status| status.rollout.as_ref());
        let in_force = rollout.map(|rollout| rollout.revision.clone());
        Self { in_force, pinned: gateway.spec.pinned_revision.clone() }
    }

    fn word(&self, revision: &Revision) -> &'static str {
        let is = |named: &Option<String>| named.as_deref() == Some(revision.as_str());
        match (is(&self.in_force), is(&self.pinned)) {
            (true, true) => "in force, pinned",
            (true, false) => "in force",
            (false, true) => "pinned",
            (false, false) => "",
        }
    }
}

/// The revision that was asked for, or the newest that is not in force.
fn choose<'a>(kept: &'a [Kept], now: &Now, to: Option<&str>) -> anyhow::Result<&'a Kept> {
    if let Some(to) = to {
        let fits: Vec<&Kept> =
            kept.iter().filter(|kept| !to.is_empty() && kept.revision.as_str().starts_with(to)).collect();
        return match fits.as_slice() {
            [one] => Ok(one),
            [] => bail!("no revision {to} is kept; --list shows those that are"),
            _ => {
                Err(WrongUse(format!("{to} is the beginning of {} revisions: write more of it", fits.len()))
                    .into())
            }
        };
    }
    if let Some(pinned) = &now.pinned {
        let text = format!("already pinned to revision {pinned}: say --to REVISION, or --undo");
        return Err(WrongUse(text).into());
    }
    let former = kept.iter().find(|kept| now.in_force.as_deref() != Some(kept.revision.as_str()));
    former.context("no former revision is kept")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    revision: &'a Revision,
    published_at: Timestamp,
    in_force: bool,
    pinned: bool,
    #[serde(flatten)]
    summary: Option<&'a Summary>,
}

fn rows<'a>(kept: &'a [Kept], now: &Now) -> Vec<Row<'a>> {
    kept.iter()
        .map(|kept| Row {
            revision: &kept.revision,
            published_at: kept.published_at,
            in_force: now.in_force.as_deref() == Some(kept.revision.as_str()),
            pinned: now.pinned.as_deref() == Some(kept.revision.as_str()),
            summary: kept.summary.as_ref(),
        })
        .collect()
}

fn table(kept: &[Kept], now: &Now) -> String {
    if kept.is_empty() {
        return "No revision is kept yet.\n".to_owned();
    }
    let mut text = format!(
        "{:<17} {:<21} {:>6} {:>6}  {:<26} {}\n",
        "REVISION", "PUBLISHED", "RULES", "ROUTES", "RULES AGAINST THE ONE BEFORE", ""
    );
    for kept in kept {
        let Summary { rules, routes, changes, .. } = kept.summary.clone().unwrap_or_default();
        let changes = changes.map_or_else(|| "not known".to_owned(), in_words);
        let line = format!(
            "{:<17} {:<21} {rules:>6} {routes:>6}  {changes:<28} {}",
            kept.revision.as_str(),
            time(kept.published_at),
            now.word(&kept.revision)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn in_words(changes: Changes) -> String {
    let Changes { added, changed, removed } = changes;
    if changes == Changes::default() {
        return "the same".to_owned();
    }
    let some = |count: usize, word: &str| (count > 0).then(|| format!("{count} {word}"));
    let all = [some(added, "new"), some(changed, "changed"), some(removed, "gone")];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, second: i64, changes: Option<Changes>) -> Kept {
        let summary = Summary { rules: 3, routes: 1, changes, ..Summary::default() };
        Kept {
            revision: Revision::named(name).expect("a revision"),
            published_at: Timestamp::from_second(1_795_000_000 + second).unwrap(),
            summary: Some(summary),
            maps: Vec::new(),
        }
    }

    const NEW: &str = "00000000000000bb";
    const OLD: &str = "00000000000000aa";

    fn two() -> Vec<Kept> {
        let changes = Changes { added: 1, changed: 0, removed: 2 };
        vec![kept(NEW, 60, Some(changes)), kept(OLD, 0, None)]
    }

    fn now(in_force: &str, pinned: Option<&str>) -> Now {
        Now { in_force: Some(in_force.to_owned()), pinned: pinned.map(str::to_owned) }
    }

    #[test]
    fn without_a_name_the_way_back_leads_to_the_revision_before() {
        let both = two();
        assert_eq!(choose(&both, &now(NEW, None), None).unwrap().revision.as_str(), OLD);
        // What was published is not kept yet: the newest that is.
        assert_eq!(choose(&both, &now("00000000000000cc", None), None).unwrap().revision.as_str(), NEW);
        assert!(choose(&both[..1], &now(NEW, None), None).is_err());
        assert!(choose(&both, &now(OLD, Some(OLD)), None).unwrap_err().is::<WrongUse>());
        assert_eq!(choose(&both, &now(OLD, Some(OLD)), Some(NEW)).unwrap().revision.as_str(), NEW);
        assert!(choose(&both, &now(NEW, None), Some("0000")).unwrap_err().is::<WrongUse>());
        assert!(choose(&both, &now(NEW, None), Some("ff")).is_err());
    }

    #[test]
    fn the_list_says_what_differs_and_what_is_in_force() {
        let text = table(&two(), &now(NEW, None));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with(NEW) && lines[1].contains("1 new, 2 gone"), "{text}");
        assert!(lines[1].ends_with("in force") && lines[2].ends_with("not known"), "{text}");
        assert_eq!(in_words(Changes::default()), "the same");
    }
}
