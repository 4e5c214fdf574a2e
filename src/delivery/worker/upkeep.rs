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

/// Runs until it is told to stop; then writes what is not written yet.
pub async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let folder = shared.spool.dir().to_owned();
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let now = Timestamp::now();
        if !stopped {
            let table = shared.routes.current();
            let outside = &shared.outside;
            let work = async {
                outside.protection.sts.refresh(&outside.dns, &table.dns, now).await;
                tlsrpt::send_due(outside, &shared.spool, &table, now).await;
            };
            tokio::select! {
                () = work => {}
                // What was not sent stays in the counts.
                () = stop.cancelled() => {}
            }
        }
        save(&shared.outside.protection, &folder, now).await;
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Writes what changed.
async fn save(protection: &Protection, folder: &Path, now: Timestamp) {
    if let Some(bytes) = protection.sts.unsaved(now)
        && !write(sts::file(folder), bytes).await
    {
        protection.sts.still_unsaved();
    }
    if let Some(bytes) = protection.reports.unsaved()
        && !write(tlsrpt::file(folder), bytes).await
    {
        protection.reports.still_unsaved();
    }
}

async fn write(path: std::path::PathBuf, bytes: Vec<u8>) -> bool {
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || files::replace(&path, &bytes)).await;
    match written {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(file = shown, %error, "what was learned about other domains cannot be kept");
            false
        }
        Err(_) => false,
    }
}
