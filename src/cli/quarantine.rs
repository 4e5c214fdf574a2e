//! `postern quarantine`: look at held mail and decide about it, through a running gateway or, when none runs, on
//! its spool folder.

mod words;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::access::{self, Access, Place};
use super::{Format, PROBLEMS};
use crate::gateway::quarantine::{Detail, Done, Page};
use crate::spool::QueueId;

#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    act: Act,
    #[command(flatten)]
    place: Place,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text", global = true)]
    output: Format,
}

#[derive(Subcommand)]
enum Act {
    /// List held messages, oldest first
    List {
        /// Of this quarantine only
        #[arg(long, value_name = "NAME")]
        quarantine: Option<String>,
    },
    /// Show a held message: who, why, what matched, its header section
    Show {
        id: QueueId,
        /// The message itself instead, as it came
        #[arg(long)]
        raw: bool,
    },
    /// Send messages on. They are judged again by the rules of now, but not by those that held them
    Release {
        #[arg(required = true)]
        ids: Vec<QueueId>,
    },
    /// End messages. Their sender is told if the quarantine has `onDeny: Reject`
    Deny {
        #[arg(required = true)]
        ids: Vec<QueueId>,
    },
    /// Hold messages longer
    Extend {
        #[arg(required = true)]
        ids: Vec<QueueId>,
        /// Longer than they are held now, such as 720h
        #[arg(long, value_name = "DURATION", required_unless_present = "until", conflicts_with = "until")]
        by: Option<SignedDuration>,
        /// Until this time, such as 2027-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let access = Access::open(&args.place).await?;
        let done = act(&access, args.act, args.output).await;
        access.close().await;
        done
    })
}

async fn act(access: &Access, act: Act, output: Format) -> anyhow::Result<ExitCode> {
    match act {
        Act::List { quarantine } => {
            let page = list(access, quarantine.as_deref()).await?;
            super::print(&match output {
                Format::Json => words::json(&page),
                Format::Text => words::table(&page.messages),
            });
            return Ok(super::queue::all_there(&page.missing));
        }
        Act::Show { id, raw: true } => {
            use std::io::Write;
            let message = access.get(&format!("/quarantine/{id}/raw")).await?;
            // A reader that went away is no error.
            let _ = std::io::stdout().lock().write_all(&message);
        }
        Act::Show { id, raw: false } => {
            let text = access.get(&format!("/quarantine/{id}")).await?;
            let detail: Detail = serde_json::from_slice(&text).context("the answer does not read")?;
            super::print(&match output {
                Format::Json => words::json(&detail),
                Format::Text => words::detail(&detail),
            });
        }
        Act::Release { ids } => return decide(access, &ids, "release", output).await,
        Act::Deny { ids } => return decide(access, &ids, "deny", output).await,
        Act::Extend { ids, by, until } => {
            let how = match (by, until) {
                (Some(by), _) => format!("extend?by={}", by.as_secs().max(0)),
                (None, Some(until)) => format!("extend?until={until}"),
                (None, None) => unreachable!("clap asks for one of them"),
            };
            return decide(access, &ids, &how, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All pages.
async fn list(access: &Access, quarantine: Option<&str>) -> anyhow::Result<Page> {
    let mut all = Page { messages: Vec::new(), next: None, missing: Vec::new() };
    loop {
        let mut path = "/quarantine?limit=100".to_owned();
        if let Some(name) = quarantine {
            path.push_str(&format!("&quarantine={}", access::escape(name)));
        }
        if let Some(after) = &all.next {
            path.push_str(&format!("&after={after}"));
        }
        let page: Page =
            serde_json::from_slice(&access.get(&path).await?).context("the answer does not read")?;
        all.messages.extend(page.messages);
        all.next = page.next;
        all.missing = page.missing;
        if all.next.is_none() {
            return Ok(all);
        }
    }
}

/// The same for each; one that fails does not hold up the others.
async fn decide(access: &Access, ids: &[QueueId], how: &str, output: Format) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    let mut all = Vec::new();
    for id in ids {
        match access.post(&format!("/quarantine/{id}/{how}")).await {
            Ok(text) => {
                let done: Done = serde_json::from_slice(&text).context("the answer does not read")?;
                if output == Format::Text {
                    super::print(&words::done(&done, access.is_offline()));
                }
                all.push(done);
            }
            Err(error) => {
                failed = true;
                super::complain(&error.context(format!("{id}")));
            }
        }
    }
    if output == Format::Json {
        super::print(&words::json(&all));
    }
    Ok(if failed { ExitCode::from(PROBLEMS) } else { ExitCode::SUCCESS })
}
