//! `postern queue`: look at the mail that waits for its delivery and act on it, through a running gateway or, when
//! none runs, on its spool folder. Long queues are gone through page by page; the gateway goes on meanwhile.

mod words;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use jiff::SignedDuration;

use super::access::{Access, Place, escape};
use super::{Format, PROBLEMS, WrongUse};
use crate::delivery::pauses::Closed;
use crate::gateway::queue::{Acted, Detail, Missing, Page};
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
    /// List waiting messages, oldest first, and what is paused
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Go on behind this message (the end of the last list says which)
        #[arg(long, value_name = "ID")]
        after: Option<QueueId>,
    },
    /// Show a message: its envelope, how each recipient stands, what the next hop said last
    Show {
        id: QueueId,
        /// The message itself instead. It is somebody's letter: reading it is noted in the gateway's log
        #[arg(long)]
        content: bool,
    },
    /// Try messages again now. Many are spread over time, 500 in a second
    Retry {
        ids: Vec<QueueId>,
        #[command(flatten)]
        filter: Filter,
        /// Every message that waits
        #[arg(long)]
        all: bool,
    },
    /// Take messages out of the queue for good; their senders are told
    Drop {
        ids: Vec<QueueId>,
        #[command(flatten)]
        filter: Filter,
        /// Every message that waits
        #[arg(long)]
        all: bool,
        /// Without telling the senders
        #[arg(long)]
        no_report: bool,
        /// Without asking first
        #[arg(long, short)]
        yes: bool,
    },
    /// Stop delivery over a route or to a domain until it is resumed. Its mail waits and is not given up
    Pause {
        #[command(flatten)]
        what: What,
        /// Why, for those who meet it in the list
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Go on with a paused route or domain; its mail is tried again by and by
    Resume {
        #[command(flatten)]
        what: What,
    },
}

/// Which messages, and of these which recipients: all that is given must fit.
#[derive(clap::Args)]
struct Filter {
    /// Envelope sender: an address, @domain, or <> for the null sender
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Envelope recipient: an address or @domain
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Domain of the recipient
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Route: NAME or NAMESPACE/NAME, `default` for the inline default route, `mx` for none
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// How it waits
    #[arg(long, value_name = "STATUS")]
    status: Option<Status>,
    /// Accepted at least this long ago, such as 2h
    #[arg(long, value_name = "DURATION")]
    older: Option<SignedDuration>,
    /// Accepted less than this long ago
    #[arg(long, value_name = "DURATION")]
    younger: Option<SignedDuration>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Status {
    /// Never attempted
    New,
    /// Attempted in vain so far
    Deferred,
    /// An attempt runs
    Active,
    /// Its route or domain is paused
    Paused,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// NAME or NAMESPACE/NAME, `default` for the inline default route, `mx` for none
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// A recipient domain, whatever the route; not its subdomains
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

impl Filter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let Filter { sender, recipient, domain, route, status, older, younger } = self;
        let seconds = |by: &SignedDuration| by.as_secs().max(0).to_string();
        let state = status.map(|status| match status {
            Status::New => "new".to_owned(),
            Status::Deferred => "deferred".to_owned(),
            Status::Active => "active".to_owned(),
            Status::Paused => "paused".to_owned(),
        });
        let all = [
            ("sender", sender.clone()),
            ("recipient", recipient.clone()),
            ("domain", domain.clone()),
            ("route", route.clone()),
            ("state", state),
            ("older", older.as_ref().map(seconds)),
            ("younger", younger.as_ref().map(seconds)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The same for an act, which must not mean everything by saying nothing.
    fn of_act(&self, ids: &[QueueId], all: bool) -> anyhow::Result<Option<Vec<(&'static str, String)>>> {
        let mut query = self.query();
        match (ids.is_empty(), query.is_empty(), all) {
            (false, true, false) => Ok(None),
            (true, false, false) => Ok(Some(query)),
            (true, true, true) => {
                query.push(("older", "0".to_owned()));
                Ok(Some(query))
            }
            _ => Err(WrongUse("say which messages: ids, or filters, or --all".to_owned()).into()),
        }
    }
}

impl What {
    fn query(&self) -> Vec<(&'static str, String)> {
        let all = [("route", &self.route), ("domain", &self.domain)];
        all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

fn path(base: &str, query: &[(&'static str, String)]) -> String {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    if query.is_empty() { base.to_owned() } else { format!("{base}?{}", query.join("&")) }
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
        Act::List { filter, limit, after } => {
            let page = list(access, &filter, limit, after).await?;
            super::print(&match output {
                Format::Json => words::json(&page),
                Format::Text => words::list(&page),
            });
            return Ok(all_there(&page.missing));
        }
        Act::Show { id, content: true } => {
            let message = access.get(&format!("/queue/{id}/content")).await?;
            let mut out = std::io::stdout().lock();
            // A reader that went away is no error.
            let _ = match out.is_terminal() {
                true => out.write_all(words::harmless(&String::from_utf8_lossy(&message)).as_bytes()),
                false => out.write_all(&message),
            };
        }
        Act::Show { id, content: false } => {
            let text = access.get(&format!("/queue/{id}")).await?;
            let detail: Detail = serde_json::from_slice(&text).context("the answer does not read")?;
            super::print(&match output {
                Format::Json => words::json(&detail),
                Format::Text => words::detail(&detail),
            });
        }
        Act::Retry { ids, filter, all } => {
            if access.is_offline() {
                bail!("no gateway runs here: what is due is tried when one is started");
            }
            return match filter.of_act(&ids, all)? {
                None => each(access, &ids, "retry", &[], output).await,
                Some(query) => all_parts(access, "retry", query, output).await,
            };
        }
        Act::Drop { ids, filter, all, no_report, yes } => {
            let report = ("report", (!no_report).to_string());
            let query = filter.of_act(&ids, all)?;
            if !yes && !sure(&ids, query.is_none(), no_report)? {
                return Ok(ExitCode::from(PROBLEMS));
            }
            return match query {
                None => each(access, &ids, "drop", &[report], output).await,
                Some(mut query) => {
                    query.push(report);
                    all_parts(access, "drop", query, output).await
                }
            };
        }
        Act::Pause { what, reason } => {
            let mut query = what.query();
            query.extend(reason.map(|reason| ("reason", reason)));
            let text = access.post(&path("/queue/pause", &query)).await?;
            let closed: Closed = serde_json::from_slice(&text).context("the answer does not read")?;
            super::print(&match output {
                Format::Json => words::json(&closed),
                Format::Text => format!("{closed} paused\n"),
            });
        }
        Act::Resume { what } => {
            let text = access.post(&path("/queue/resume", &what.query())).await?;
            let closed: Closed = serde_json::from_slice(&text).context("the answer does not read")?;
            super::print(&match output {
                Format::Json => words::json(&closed),
                Format::Text => format!("{closed} resumed; its mail is tried again by and by\n"),
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Pages until there are enough.
async fn list(
    access: &Access,
    filter: &Filter,
    limit: usize,
    after: Option<QueueId>,
) -> anyhow::Result<Page> {
    let mut all = Page { next: after.map(|id| id.to_string()), ..Page::default() };
    loop {
        let mut query = filter.query();
        query.push(("limit", limit.saturating_sub(all.messages.len()).clamp(1, 100).to_string()));
        query.extend(all.next.take().map(|after| ("after", after)));
        let page: Page = serde_json::from_slice(&access.get(&path("/queue", &query)).await?)
            .context("the answer does not read")?;
        all.messages.extend(page.messages);
        all.next = page.next;
        all.paused = page.paused;
        all.missing = page.missing;
        if all.next.is_none() || all.messages.len() >= limit {
            return Ok(all);
        }
    }
}

/// The same for each; one that fails does not hold up the others.
async fn each(
    access: &Access,
    ids: &[QueueId],
    how: &str,
    query: &[(&'static str, String)],
    output: Format,
) -> anyhow::Result<ExitCode> {
    let (mut failed, mut sum) = (false, Acted::default());
    for id in ids {
        match access.post(&path(&format!("/queue/{id}/{how}"), query)).await {
            Ok(text) => words::add(&mut sum, &acted(&text)?),
            Err(error) => {
                failed = true;
                super::complain(&error.context(format!("{id}")));
            }
        }
    }
    tell(how, &sum, output);
    Ok(if failed { ExitCode::from(PROBLEMS) } else { ExitCode::SUCCESS })
}

/// All that fits, part by part.
async fn all_parts(
    access: &Access,
    how: &str,
    mut query: Vec<(&'static str, String)>,
    output: Format,
) -> anyhow::Result<ExitCode> {
    let mut sum = Acted::default();
    let fixed = query.len();
    loop {
        query.truncate(fixed);
        query.push(("turn", sum.messages.to_string()));
        query.extend(sum.next.take().map(|after| ("after", after)));
        match access.post(&path(&format!("/queue/{how}"), &query)).await {
            Ok(text) => words::add(&mut sum, &acted(&text)?),
            Err(error) => {
                tell(how, &sum, output);
                return Err(error);
            }
        }
        if sum.next.is_none() {
            tell(how, &sum, output);
            return Ok(all_there(&sum.missing));
        }
    }
}

/// Who gave no answer is named: what is not in it is not nothing.
pub fn all_there(missing: &[Missing]) -> ExitCode {
    for Missing { pod, error } in missing {
        super::caution(&format!("pod {pod} is not in this answer: {error}"));
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) }
}

fn acted(text: &[u8]) -> anyhow::Result<Acted> {
    serde_json::from_slice(text).context("the answer does not read")
}

fn tell(how: &str, sum: &Acted, output: Format) {
    super::print(&match output {
        Format::Json => words::json(sum),
        Format::Text => words::acted(how, sum),
    });
}

/// Asks whoever sits there; nobody there means no.
#[expect(clippy::print_stderr, reason = "a question is not the command's output")]
fn sure(ids: &[QueueId], only_these: bool, silent: bool) -> anyhow::Result<bool> {
    let what = match only_these {
        true if ids.len() == 1 => "this message".to_owned(),
        true => format!("these {} messages", ids.len()),
        false => "all messages that fit".to_owned(),
    };
    let told = if silent { "the senders are NOT told" } else { "the senders are told" };
    if !std::io::stdin().is_terminal() {
        return Err(WrongUse(format!("dropping {what} is for good ({told}): confirm with --yes")).into());
    }
    eprint!("Drop {what} for good ({told})? [y/N] ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
