//! `postern status`: how far the newest change has come, pod by pod, as the API server shows it. Asks nobody else,
//! so it works with the right to read.

mod draw;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Resource};
use tokio::time::timeout;

use super::cluster::{Cluster, Target};
use super::{Format, PROBLEMS};
use crate::api::{AddressList, ComplianceRule, Directory, OutboundRoute, Quarantine, RoutingRule};
use crate::controller::build::selector_text;
use view::{Told, View};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Look again and again, until it is interrupted; a new picture whenever something changed
    #[arg(short, long)]
    watch: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(act(args))
}

async fn act(args: Args) -> anyhow::Result<ExitCode> {
    let Args { target, watch, output } = args;
    let cluster = target.open().await?;
    if !watch {
        let view = look(&cluster).await?;
        super::print(&show(&view, output)?);
        return Ok(if view.is_done() { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) });
    }
    let mut last = String::new();
    let screen = output == Format::Text && std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let picture = match timeout(LIMIT, look(&cluster)).await {
            Ok(Ok(view)) => show(&view, output)?,
            // The API server may be away for a while; what was seen stays on the screen.
            Ok(Err(error)) if !last.is_empty() => format!("{last}\n{error}; trying again\n"),
            Ok(Err(error)) => return Err(error),
            Err(_) => format!("{last}\nthe API server does not answer; trying again\n"),
        };
        if picture != last {
            let frame = match (screen, last.is_empty()) {
                // Home, and nothing below.
                (true, _) => format!("\x1b[H\x1b[2J{picture}"),
                (false, true) => picture.clone(),
                (false, false) if output == Format::Json => picture.clone(),
                (false, false) => format!("\n{picture}"),
            };
            super::print(&frame);
            last = picture;
        }
        tokio::select! {
            () = super::asked_to_end() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn show(view: &View, output: Format) -> anyhow::Result<String> {
    Ok(match output {
        Format::Text => draw::draw(view),
        Format::Json => format!("{}\n", serde_json::to_string(view)?),
    })
}

async fn look(cluster: &Cluster) -> anyhow::Result<View> {
    let gateway = cluster.the_gateway().await?;
    let params = ListParams::default().labels(&selector_text(&cluster.gateway));
    let pods = cluster.api::<Pod>().list(&params).await?;
    let mut objects = Vec::new();
    objects.extend(told::<OutboundRoute>(cluster).await?);
    objects.extend(told::<RoutingRule>(cluster).await?);
    objects.extend(told::<ComplianceRule>(cluster).await?);
    objects.extend(told::<AddressList>(cluster).await?);
    objects.extend(told::<Directory>(cluster).await?);
    objects.extend(told::<Quarantine>(cluster).await?);
    Ok(View::new(&gateway, &pods.items, objects))
}

/// The objects of a kind in the gateway's namespace that are attached to it.
async fn told<K>(cluster: &Cluster) -> anyhow::Result<Vec<Told>>
where
    K: Resource<DynamicType = ()>,
{
    let resource = kube::api::ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    let found = api.list(&ListParams::default()).await?;
    let kind = K::kind(&());
    let ours = found.items.iter().filter(|object| {
        let reference = &object.data["spec"]["gatewayRef"];
        let named = |field: &str, default: &str| {
            reference[field].as_str().map_or_else(|| default.to_owned(), str::to_owned)
        };
        named("name", crate::api::DEFAULT_GATEWAY) == cluster.gateway
            && named("namespace", &cluster.namespace) == cluster.namespace
    });
    Ok(ours.map(|object| Told::new(&kind, object)).collect())
}
