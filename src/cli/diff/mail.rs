//! The folder of messages: `NAME.eml` with its envelope beside it in `NAME.envelope.yaml` (or `.json`), or in its
//! own headers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::trial::Trial;
use crate::cli::trial::envelope::{self, Written};
use crate::cli::trial::form::Notes;
use crate::manifest::yaml;

pub const FILE: &str = "file";
pub const HEADERS: &str = "headers";
const MAX_DEPTH: usize = 16;

/// Every message of a folder and those below it, in the order of their names.
pub fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                collect(&path, depth + 1, found)?;
            }
        } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("eml")) {
            found.push(path);
        }
    }
    Ok(())
}

/// A message and where its envelope comes from; the error is for people.
pub fn read(file: &Path) -> Result<(Trial, &'static str), String> {
    let content = fs::read(file).map_err(|error| error.to_string())?;
    let sidecar =
        ["yaml", "yml", "json"].iter().map(|ending| file.with_extension(format!("envelope.{ending}")));
    let (written, whence) = match sidecar.into_iter().find(|path| path.exists()) {
        Some(path) => (sidecar_of(&path)?, FILE),
        None => (Written::default(), HEADERS),
    };
    let trial = envelope::trial(written, &content).map_err(str::to_owned)?;
    Ok((trial, whence))
}

fn sidecar_of(path: &Path) -> Result<Written, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let trouble = |trouble: &yaml::Trouble| format!("{name}:{}: {}", trouble.line, trouble.message);
    let (node, doubled) = yaml::read(&text, 0).map_err(|error| trouble(&error))?;
    let mut notes = Notes(doubled);
    let written = envelope::read(&node, "envelope", &mut notes);
    match notes.0.first() {
        Some(first) => Err(trouble(first)),
        None => Ok(written),
    }
}
