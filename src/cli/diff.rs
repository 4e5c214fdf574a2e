//! `postern diff`: the same mail judged by two folders of YAML, or by what is in force in a cluster and a folder, and every message whose treatment would change
//! (spec R165). One message is in memory at a time.

mod mail;
#[cfg(test)]
mod tests;
mod treatment;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::folder::{Configured, Folder};
use crate::cli::remote::{Cluster, bundle, objects};
use crate::cli::trial::Judge;
use crate::cli::{self, WrongUse};
use crate::gateway::decisions::Listing;
use treatment::{Change, changes};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of YAML: as it is. In a cluster, with no other: the folder that would be applied to it
    before: PathBuf,
    /// Folder of YAML: as it would be
    after: Option<PathBuf>,
    /// Folder of messages (*.eml), each with its envelope in NAME.envelope.yaml or else in its headers
    #[arg(long, value_name = "FOLDER")]
    mail: PathBuf,
    /// One of several gateways, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// The time by which certificates are judged (default: now)
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = cli::Format::Text)]
    output: cli::Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// One message whose treatment would change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Differing {
    mail: String,
    /// Where the envelope comes from: `file` or `headers`.
    envelope: &'static str,
    changes: Vec<Change>,
}

/// A message that could not be judged.
#[derive(Debug, Serialize)]
struct Skipped {
    mail: String,
    why: String,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let names = mail::names(&args.mail)
        .map_err(|error| WrongUse(format!("cannot read {}: {error}", args.mail.display())))?;
    if names.is_empty() {
        return Err(WrongUse(format!("{} has no messages (*.eml)", args.mail.display())).into());
    }
    let now = args.at.unwrap_or_else(Timestamp::now);
    let gateway = args.gateway.as_deref();
    let configured =
        |folder: &Path| -> anyhow::Result<Configured> { Ok(Folder::read(folder)?.gateway(gateway)?) };
    let (before, after) = match &args.after {
        Some(after) => (configured(&args.before)?, configured(after)?),
        None if args.cluster.is_meant() => cli::runtime()?.block_on(async {
            let remote = args.cluster.connect().await?;
            let before = bundle::published(&remote).await?;
            let after = objects::with_folder(&remote, &args.before, &before.last_good).await?;
            anyhow::Ok((before, after))
        })?,
        None => return Err(WrongUse("give two folders, or one and a cluster (--cluster)".to_owned()).into()),
    };
    if let Some(unasked) = before.unasked.as_ref().or(after.unasked.as_ref()) {
        super::caution(unasked);
    }
    let (before, after) = (Judge::new(&before, now)?, Judge::new(&after, now)?);
    let mut report = Report::new(args.output, &before, &after);
    for name in names {
        let shown = name.strip_prefix(&args.mail).unwrap_or(&name).display().to_string();
        match mail::read(&name) {
            Err(why) => report.skipped(Skipped { mail: shown, why }),
            Ok((trial, envelope)) => {
                let one = before.judge(&trial, Listing::Concerned);
                let two = after.judge(&trial, Listing::Concerned);
                let changes = changes(&one, &two);
                report.judged(envelope);
                if !changes.is_empty() {
                    report.differs(Differing { mail: shown, envelope, changes });
                }
            }
        }
    }
    Ok(report.end())
}

/// Prints as it goes, so that thousands of messages need no room.
struct Report {
    output: cli::Format,
    judged: usize,
    from_headers: usize,
    differing: usize,
    skipped: Vec<Skipped>,
}

impl Report {
    fn new(output: cli::Format, before: &Judge, after: &Judge) -> Self {
        if output == cli::Format::Json {
            let (before, after) = (before.revision(), after.revision());
            cli::print(&format!(
                "{{\"version\":1,\"before\":\"{before}\",\"after\":\"{after}\",\"differences\":["
            ));
        }
        Self { output, judged: 0, from_headers: 0, differing: 0, skipped: Vec::new() }
    }

    fn judged(&mut self, envelope: &str) {
        self.judged += 1;
        self.from_headers += usize::from(envelope == mail::HEADERS);
    }

    fn skipped(&mut self, skipped: Skipped) {
        if self.output == cli::Format::Text {
            cli::print(&format!("{}: not judged: {}\n", skipped.mail, skipped.why));
        }
        self.skipped.push(skipped);
    }

    fn differs(&mut self, differing: Differing) {
        self.differing += 1;
        cli::print(&match self.output {
            cli::Format::Json => {
                let comma = if self.differing > 1 { "," } else { "" };
                let text = serde_json::to_string(&differing).expect("it has string keys only");
                format!("{comma}\n{text}")
            }
            cli::Format::Text => {
                let Differing { mail, envelope, changes } = differing;
                let mut text = format!("{mail} (envelope from {envelope})\n");
                for change in &changes {
                    text.push_str(&change.text());
                }
                text
            }
        });
    }

    /// 1 when something differs or could not be judged: what was not looked at is not the same.
    fn end(self) -> ExitCode {
        let Self { output, judged, from_headers, differing, skipped } = self;
        cli::print(&match output {
            cli::Format::Json => {
                let skipped = serde_json::to_string(&skipped).expect("it has string keys only");
                format!(
                    "\n],\"judged\":{judged},\"envelopesFromHeaders\":{from_headers},\"skipped\":{skipped}}}\n"
                )
            }
            cli::Format::Text => format!(
                "{judged} messages judged ({from_headers} with the envelope of their headers), {differing} would be \
                 treated otherwise, {} not judged\n",
                skipped.len()
            ),
        });
        match differing + skipped.len() {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(cli::PROBLEMS),
        }
    }
}
