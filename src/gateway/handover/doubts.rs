//! Batches whose end is not known: written down before they are sent, so that a process that dies in the middle asks
//! about them before anybody delivers them here. A small file beside the spool.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::peers::Label;
use crate::gateway::files;
use crate::spool::QueueId;

const FILE: &str = "handover.json";

/// A batch on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The spool it was sent to.
    pub peer: String,
    /// The pod that had that spool.
    pub at: String,
    pub label: Label,
    pub ids: Vec<QueueId>,
    pub since: Timestamp,
}

pub struct Doubts(PathBuf);

impl Doubts {
    /// What an earlier process left open. An unreadable file stops the start: its mail may be elsewhere already.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Doubt>), String> {
        let file = folder.join(FILE);
        let found = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        let found = found.map_err(|error| {
            format!(
                "cannot read what was handed over to whom from {}: {error}; delete it to deliver that mail here, \
                 where it may be delivered twice",
                file.display()
            )
        })?;
        Ok((Self(file), found))
    }

    /// Durable on return.
    pub async fn write(&self, doubts: &[Doubt]) -> io::Result<()> {
        let (file, text) = (self.0.clone(), serde_json::to_vec(doubts).expect("its keys are strings"));
        let write = move || files::replace(&file, &text);
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}
