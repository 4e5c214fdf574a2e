//! What is paused, over a restart: a small file beside the spool.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::delivery::pauses::{Closed, Closures, Pause};
use crate::gateway::files;

pub const FILE: &str = "paused.json";

/// The file is there and cannot be read. Delivery must not start without knowing what it says.
#[derive(Debug, thiserror::Error)]
#[error("cannot read what is paused from {}: {why}; repair it, or delete it if nothing is to be paused", path.display())]
pub struct ClosuresError {
    path: PathBuf,
    why: String,
}

/// One pause, as files and answers write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRow {
    #[serde(flatten)]
    pub closed: Closed,
    #[serde(flatten)]
    pub pause: Pause,
    /// The pod that pauses it, where several were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

pub fn rows(closures: &Closures) -> Vec<PauseRow> {
    closures
        .iter()
        .map(|(closed, pause)| PauseRow { closed: closed.clone(), pause: pause.clone(), pod: None })
        .collect()
}

pub fn read(path: &Path) -> Result<Closures, ClosuresError> {
    let failed = |why: String| ClosuresError { path: path.to_owned(), why };
    match std::fs::read(path) {
        Ok(text) => {
            let rows: Vec<PauseRow> =
                serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
            Ok(rows.into_iter().map(|PauseRow { closed, pause, pod: _ }| (closed, pause)).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Closures::new()),
        Err(error) => Err(failed(error.to_string())),
    }
}

pub fn write(path: &Path, closures: &Closures) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&rows(closures)).expect("these have string keys only");
    files::replace(path, &text)
}

/// Whether somebody who writes `wanted` means this one: the namespace of a route may be left out.
pub fn is_called(closed: &Closed, wanted: &Closed) -> bool {
    match (closed, wanted) {
        (Closed::Route(name), Closed::Route(wanted)) => {
            name == wanted || name.split_once('/').is_some_and(|(_, name)| name == wanted)
        }
        (Closed::Domain(domain), Closed::Domain(wanted)) => domain == wanted,
        (Closed::Route(_), Closed::Domain(_)) | (Closed::Domain(_), Closed::Route(_)) => false,
    }
}
