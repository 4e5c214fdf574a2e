//! `postern audit`: is the log whole, and what does it say. From the folder of a log, or from the operator.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use http_body_util::BodyExt;
use hyper::Method;
use jiff::Timestamp;

use super::access::escape;
use super::remote::Cluster;
use super::{Format, PROBLEMS, words};
use crate::audit::verify::{self, Report, Verifier};
use crate::audit::{Link, Wanted, chain, log, read};

#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    act: Act,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Subcommand)]
enum Act {
    /// Say whether records were changed, left out, put in or cut off: file and line of each break; exit code 1
    Verify {
        /// Folder of the log, or the state folder of a standalone gateway (default: the operator's, in the cluster)
        dir: Option<PathBuf>,
        /// An end of the log that was noted earlier (SEQ:HASH): it must still be in it
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<Link>,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
    /// Print records
    Export {
        /// Folder of the log, or the state folder of a standalone gateway (default: the operator's, in the cluster)
        dir: Option<PathBuf>,
        /// From this time on, such as 2026-11-22T10:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<Timestamp>,
        /// Before this time
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
        /// About this object: KIND/NAMESPACE/NAME, or the name alone
        #[arg(long, value_name = "OBJECT")]
        object: Option<String>,
        /// By this user or field manager
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
        /// In the cluster: of all namespaces, which takes the right in all of them
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// `jsonl`: the lines as they are in the log; without any choice they can be verified elsewhere
        #[arg(short, long, value_name = "FORMAT", default_value = "jsonl")]
        output: Form,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Jsonl,
    Text,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { act, cluster } = args;
    match act {
        Act::Verify { dir: Some(dir), head, output } => {
            let folder = folder(&dir)?;
            let report = verify::folder(&folder, head);
            tell(&report.with_context(|| format!("cannot read {}", folder.display()))?, output)
        }
        Act::Verify { dir: None, head, output } => super::runtime()?.block_on(async {
            let mut verifier = Verifier::new(head);
            verifier.file("the operator's log");
            fetch(&cluster, &Wanted::default(), |line| {
                match line.strip_suffix(b"\n") {
                    Some(whole) => verifier.line(whole),
                    None => verifier.torn(line.len()),
                }
                Ok(())
            })
            .await?;
            tell(&verifier.finish(), output)
        }),
        Act::Export { dir, since, until, object, actor, all_namespaces, output } => {
            let mut wanted = Wanted { since, until, object, actor, namespace: None };
            let mut out = std::io::stdout().lock();
            let mut put = |line: &[u8]| -> anyhow::Result<()> {
                match output {
                    Form::Jsonl => out.write_all(line)?,
                    Form::Text => {
                        let whole = line.strip_suffix(b"\n").unwrap_or(line);
                        match chain::open(whole) {
                            Ok(sealed) => out.write_all(read::words(&sealed.entry).as_bytes())?,
                            Err(flaw) => writeln!(out, "(a record is left out: {flaw})")?,
                        }
                    }
                }
                Ok(())
            };
            match dir {
                Some(dir) => {
                    let folder = folder(&dir)?;
                    let mut done = Ok(());
                    read::lines(&folder, &wanted, &mut |line| {
                        done = put(line);
                        done.is_ok()
                    })
                    .with_context(|| format!("cannot read {}", folder.display()))?;
                    quiet(done)?;
                }
                None => super::runtime()?.block_on(async {
                    if !all_namespaces {
                        wanted.namespace = Some(cluster.namespace().await?);
                    }
                    quiet(fetch(&cluster, &wanted, put).await)
                })?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A reader that went away is no error.
fn quiet(done: anyhow::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The log in a state folder or a spool folder, or the folder itself if it is one.
fn folder(dir: &Path) -> anyhow::Result<PathBuf> {
    for candidate in [dir.join("audit"), dir.to_owned()] {
        if log::segments(&candidate).is_ok_and(|segments| !segments.is_empty()) {
            return Ok(candidate);
        }
    }
    bail!("there is no audit log in {}", dir.display())
}

/// Hands on each line of what the operator sends, as it comes.
async fn fetch(
    cluster: &Cluster,
    wanted: &Wanted,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let remote = cluster.connect().await?;
    let Wanted { since, until, object, actor, namespace } = wanted;
    let time = |time: &Option<Timestamp>| time.map(|time| time.to_string());
    let parameters = [
        ("since", time(since)),
        ("until", time(until)),
        ("object", object.clone()),
        ("actor", actor.clone()),
        ("namespace", namespace.clone()),
    ];
    let parameters =
        parameters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(&value?))));
    let path = format!("/v1/audit?{}", parameters.collect::<Vec<_>>().join("&"));
    let response = remote.open(Method::GET, &path).await?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let text = super::access::collect(axum::body::Body::new(body)).await?;
        return Err(super::access::refusal(status, &text));
    }
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("the transfer broke off: {error}"))?;
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        let mut begin = 0;
        while let Some(end) = rest[begin..].iter().position(|byte| *byte == b'\n') {
            take(&rest[begin..=begin + end])?;
            begin += end + 1;
        }
        rest.drain(..begin);
    }
    if !rest.is_empty() {
        take(&rest)?;
    }
    remote.close().await;
    Ok(())
}

fn tell(report: &Report, output: Format) -> anyhow::Result<ExitCode> {
    super::print(&match output {
        Format::Json => words::json(report),
        Format::Text => text(report),
    });
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

fn text(report: &Report) -> String {
    use std::fmt::Write as _;
    let Report { files, records, first, last, head, expired_through, breaks } = report;
    let mut text = String::new();
    for place in breaks {
        let _ = writeln!(text, "{place}");
    }
    let verdict = if breaks.is_empty() { "whole" } else { "BROKEN" };
    let _ = write!(text, "{verdict}: {records} records in {files} files");
    if let (Some((_, first)), Some((_, last))) = (first, last) {
        let _ = write!(text, ", from {} to {}", words::time(*first), words::time(*last));
    }
    text.push('\n');
    if let Some(through) = expired_through {
        let _ = writeln!(text, "records up to {through} were removed by retention, as the log says itself");
    }
    if let Some(head) = head {
        let _ = writeln!(text, "its end, to be noted elsewhere and given to --head next time: {head}");
    }
    text
}
