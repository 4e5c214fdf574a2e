//! `postern explain`: what would happen to a message, by the code that would make it happen; or what happened to
//! one, by the decision log (spec R164). No network; deterministic.

mod recall;
mod text;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;

use crate::cli::WrongUse;
use crate::cli::folder::Folder;
use crate::cli::remote::{Cluster, bundle};
use crate::cli::trial::{self, Judge, Trial};
use crate::delivery::sign;
use crate::gateway::decisions::Listing;
use crate::mail::address::{Domain, Mailbox};
use crate::mail::edit::{self, Edit, Signing};
use crate::policy::Decision;
use crate::policy::verdict::{Disposition, Spam};
pub use text::text;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of YAML (default in a cluster: what is in force there)
    dir: Option<PathBuf>,
    /// The message, as a file
    #[arg(long, value_name = "FILE", required_unless_present = "reference")]
    mail: Option<PathBuf>,
    /// The envelope sender; an empty text is the null sender
    #[arg(long, value_name = "ADDRESS", required_unless_present = "reference")]
    from: Option<String>,
    /// An envelope recipient (may be given several times)
    #[arg(long, value_name = "ADDRESS", required_unless_present = "reference", num_args = 1..)]
    to: Vec<Mailbox>,
    /// The client's address; without it the client is taken as allowed
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The message came in clear text (default: over TLS)
    #[arg(long)]
    clear: bool,
    /// A domain that SPF or DKIM vouch for (may be given several times; default: none)
    #[arg(long, value_name = "DOMAIN")]
    authenticated: Vec<Domain>,
    /// The classifier takes the message for spam
    #[arg(long)]
    spam: bool,
    /// The classifier takes the message for phishing
    #[arg(long)]
    phishy: bool,
    /// The classifier takes the message for blatant spam
    #[arg(long)]
    blatant: bool,
    /// The time by which certificates are judged (default: now)
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// One of several gateways, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// Write the bytes of each delivery into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A decision of the past: the reference that ended its reply, or the beginning of it
    #[arg(
        long = "ref",
        value_name = "REF",
        conflicts_with_all = ["dir", "mail", "from", "to", "client", "clear", "authenticated", "spam", "phishy",
            "blatant", "at", "gateway", "out"]
    )]
    reference: Option<String>,
    /// With --ref: the state folder of a standalone gateway, or the spool folder of a pod
    #[arg(long, value_name = "DIR", requires = "reference")]
    state: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = super::Format::Text)]
    output: super::Format,
    #[command(flatten)]
    cluster: Cluster,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let (Some(reference), Some(state)) = (&args.reference, &args.state) {
        return recall::run(state, reference, args.output);
    }
    if let (Some(reference), true) = (&args.reference, args.cluster.is_meant()) {
        return recall::in_cluster(&args.cluster, reference, args.output);
    }
    let wrong = || WrongUse("give DIR, --mail, --from and --to, or --ref and --state".to_owned());
    let (Some(mail), Some(from)) = (&args.mail, &args.from) else { return Err(wrong().into()) };
    let content =
        fs::read(mail).map_err(|error| WrongUse(format!("cannot read {}: {error}", mail.display())))?;
    let sender = trial::sender(from).map_err(|error| WrongUse(format!("--from {from}: {error}")))?;
    let trial = Trial {
        content: trial::crlf(&content),
        sender,
        to: args.to.clone(),
        client: args.client,
        clear: args.clear,
        authenticated: args.authenticated.clone(),
        spam: Spam { spam: args.spam || args.blatant, phishy: args.phishy, blatant: args.blatant },
    };
    let configured = match &args.dir {
        Some(dir) => Folder::read(dir)?.gateway(args.gateway.as_deref())?,
        None if args.cluster.is_meant() => super::runtime()?.block_on(async {
            let remote = args.cluster.connect().await?;
            bundle::published(&remote).await
        })?,
        None => return Err(wrong().into()),
    };
    if let Some(unasked) = &configured.unasked {
        super::caution(unasked);
    }
    let judge = Judge::new(&configured, args.at.unwrap_or_else(Timestamp::now))?;
    let outcome = judge.judge(&trial, Listing::All);
    if let Some(folder) = &args.out {
        let signers = sign::smime(&configured.bundle.gateway.smime_signers, &configured.materials);
        let signing = Signing { signers: &signers, now: args.at.unwrap_or_else(Timestamp::now) };
        write_deliveries(folder, &outcome.decision, &trial.content, signing)?;
    }
    match args.output {
        super::Format::Json => super::print(&(serde_json::to_string_pretty(&outcome.explained)? + "\n")),
        super::Format::Text => super::print(&text(&outcome.explained)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes what would leave, below the Received field that the gateway adds: numbered in the order of the account,
/// the archive's copy last.
fn write_deliveries(
    folder: &Path,
    decision: &Decision,
    content: &[u8],
    signing: Signing<'_>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copies = decision.verdicts.iter().flat_map(|verdict| match &verdict.disposition {
        Disposition::Deliver(copies) => copies.as_slice(),
        _ => &[],
    });
    for (number, copy) in copies.chain(&decision.archive).enumerate() {
        // What cannot be changed as it must be does not leave; the account says so, and its number stays free.
        let Some(bytes) = edited(content, &copy.edits, signing) else { continue };
        let path = folder.join(format!("{:03}.eml", number + 1));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The bytes as they would leave, below our own Received field: added fields stand under that one.
fn edited(content: &[u8], edits: &[Edit], signing: Signing<'_>) -> Option<Vec<u8>> {
    const OWN: &[u8] = b"Received: by explain\r\n";
    if edits.iter().any(|edit| matches!(edit, Edit::Journal { .. })) {
        // The journal has a header section of its own, and our field would stand inside it.
        return edit::apply_signed(content, edits, signing).ok().map(edit::Edited::into_bytes);
    }
    let own = [OWN, content].concat();
    let edited = edit::apply_signed(&own, edits, signing).ok()?.into_bytes();
    Some(edited.strip_prefix(OWN).unwrap_or(&edited).to_vec())
}
