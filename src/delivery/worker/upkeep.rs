//! What delivery does without mail: keeps policies of MTA-STS fresh and on disk, and sends the reports about
//! TLS. Whatever fails here is tried again; mail never waits for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::job::Shared;
use crate::delivery::protect::Protection;
use crate::delivery::{files, sts, tlsrpt};

/// A process that is killed loses what it learned in this time, and learns it again.
const EVERY: Duration = Duration::from_secs(15);
/// How often source addresses are looked at.
const TIDY: Duration = Duration::from_secs(5);

/// Runs until it is told to stop; then writes what is not written yet.
pub async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let folder = shared.spool.dir().to_owned();
    let outside = &shared.outside;
    let asking = async {
        loop {
            tokio::time::sleep(EVERY).await;
            let (table, now) = (shared.routes.current(), Timestamp::now());
            outside.protection.sts.refresh(&outside.dns, &table.dns, now).await;
            tlsrpt::send_due(outside, &shared.spool, &table, now).await;
        }
    };
    // Beside the other, which waits for the world.
    let saving = async {
        loop {
            tokio::time::sleep(EVERY).await;
            save(&outside.protection, &folder, Timestamp::now()).await;
        }
    };
    let tidying = async {
        loop {
            tidy(&shared).await;
            tokio::time::sleep(TIDY).await;
        }
    };
    tokio::select! {
        // What was not sent stays in the counts.
        () = stop.cancelled() => {}
        () = asking => {}
        () = saving => {}
        () = tidying => {}
    }
    save(&outside.protection, &folder, Timestamp::now()).await;
}

/// Tidies limits, and writes what new addresses have sent.
pub async fn tidy(shared: &Shared) {
    let news = shared.throttle.tidy(&shared.routes.current(), Timestamp::now());
    if let Some((path, bytes)) = news {
        write(
            path,
            bytes,
            "the counts of new addresses are not on disk; a restart would begin their day anew",
        )
        .await;
    }
}

/// Writes what changed.
async fn save(protection: &Protection, folder: &Path, now: Timestamp) {
    if let Some(bytes) = protection.sts.unsaved(now)
        && !write(sts::file(folder), bytes, FORGOTTEN).await
    {
        protection.sts.still_unsaved();
    }
    if let Some(bytes) = protection.reports.unsaved()
        && !write(tlsrpt::file(folder), bytes, FORGOTTEN).await
    {
        protection.reports.still_unsaved();
    }
}

const FORGOTTEN: &str = "what was learned about other domains cannot be kept";

/// `otherwise`: what it means that it could not be written.
async fn write(path: std::path::PathBuf, bytes: Vec<u8>, otherwise: &str) -> bool {
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || files::replace(&path, &bytes)).await;
    match written {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(file = shown, %error, "{otherwise}");
            false
        }
        Err(_) => false,
    }
}
