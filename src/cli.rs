//! The command line: one file per subcommand. The only place that prints and that chooses an exit code.

mod access;
mod audit;
mod cases;
mod check;
mod cluster;
mod controller;
mod crds;
mod diff;
mod explain;
mod folder;
mod gateway;
mod kubeconfig;
mod probe;
mod quarantine;
mod queue;
mod remote;
mod rollback;
mod standalone;
mod status;
mod trial;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Problems were found.
pub const PROBLEMS: u8 = 1;
/// The command was used wrongly (clap's own exit code too).
pub const WRONG_USE: u8 = 2;
/// The configuration cannot be used.
pub const UNUSABLE: u8 = 64;

/// An outbound-mail gateway for Kubernetes, and without it.
#[derive(Parser)]
#[command(name = "postern", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a gateway from a folder of YAML: no cluster, watched, reloaded when a file changes
    Standalone(standalone::Args),
    /// Check a folder of YAML: every problem with file and line
    Check(check::Args),
    /// Say what would happen to a message: each rule, what matched and where, the deliveries
    Explain(explain::Args),
    /// Test the way to a mail server without mail: names, connection, TLS, certificate, login
    Probe(Box<probe::Args>),
    /// List held mail, show it, release or deny it
    Quarantine(quarantine::Args),
    /// List mail that waits for its delivery, try it again, drop it; pause a route or a domain
    Queue(queue::Args),
    /// How far the newest change of a gateway has come, pod by pod (in a cluster)
    Status(status::Args),
    /// Have all pods of a gateway run a former revision, list those, or end that (in a cluster)
    Rollback(rollback::Args),
    /// Compare what two folders of YAML, or a cluster and a folder, do to the same mail
    Diff(diff::Args),
    /// Verify the audit log, or print records of it
    Audit(audit::Args),
    /// Print the CustomResourceDefinitions as YAML
    Crds,
    /// Run the operator (in a cluster)
    Controller(controller::Args),
    /// Run the data plane from a mounted bundle (in a pod that the operator made)
    Gateway(gateway::Args),
}

/// The command line asks for what cannot be done; ends in exit code 2, like what clap refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUse(String);

/// How a command prints.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Parses the command line and runs it.
pub fn run() -> ExitCode {
    let cli = parse();
    let done = match cli.command {
        Command::Standalone(args) => standalone::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Probe(args) => probe::run(*args),
        Command::Quarantine(args) => quarantine::run(args),
        Command::Queue(args) => queue::run(args),
        Command::Status(args) => status::run(args),
        Command::Rollback(args) => rollback::run(args),
        Command::Diff(args) => diff::run(&args),
        Command::Audit(args) => audit::run(args),
        Command::Crds => crds::run(),
        Command::Controller(args) => controller::run(args),
        Command::Gateway(args) => gateway::run(args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(if error.is::<folder::Unusable>() {
                UNUSABLE
            } else if error.is::<WrongUse>() {
                WRONG_USE
            } else {
                PROBLEMS
            })
        }
    }
}

/// As `kubectl postern` the same commands act in the cluster by themselves, and help calls them so.
fn parse() -> Cli {
    if !remote::is_plugin() {
        return Cli::parse();
    }
    let command = Cli::command().name("kubectl-postern").bin_name("kubectl postern");
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[expect(clippy::print_stderr, reason = "the command line talks to people")]
fn complain(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Most of our errors tell their cause themselves.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("postern: {text}");
}

/// Says on standard error what limits the answer on standard output.
#[expect(clippy::print_stderr, reason = "the command line talks to people")]
fn caution(text: &str) {
    eprintln!("postern: warning: {text}");
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Resolves when the process is asked to end (SIGTERM or SIGINT).
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let term = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = term => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// The runtime of the long-running commands.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    more_files();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Each connection is a file. The usual soft limit of 1024 is there for programs that use `select`.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The machine's own name, as the kernel knows it.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
