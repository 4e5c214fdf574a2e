//! Finds a decision again by the reference that its reply ended in. Reads the files as they are, so that it works
//! beside a running gateway and after it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use super::account::Explained;
use super::{log, record};

/// The folder of the log inside the folder of the spool.
pub const FOLDER: &str = "decisions";
/// A longer line is none of ours.
const MAX_LINE: usize = 64 << 20;

/// What a search came to.
#[derive(Debug, Default)]
pub struct Found {
    /// Every decision of the one reference that was meant, oldest first: a message that was held has several.
    pub decisions: Vec<Explained>,
    /// References that begin so, when there are several.
    pub ambiguous: BTreeSet<String>,
    /// The folders that were searched, and the files in them.
    pub searched: Vec<(PathBuf, usize)>,
}

/// Searches the logs of a state folder or a spool folder for a reference, or the beginning of one. Fails only if
/// a log that is there cannot be read.
pub fn find(state: &Path, reference: &str) -> io::Result<Found> {
    let mut found = Found::default();
    let mut references = BTreeSet::new();
    let mut lines = Vec::new();
    for folder in [state.join("spool").join(FOLDER), state.join(FOLDER), state.to_owned()] {
        let names = match log::names(&folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if names.is_empty() && folder == state {
            continue;
        }
        found.searched.push((folder.clone(), names.len()));
        for name in names {
            match File::open(folder.join(name)) {
                Ok(file) => search(file, reference, &mut references, &mut lines)?,
                // The oldest file went while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    // A whole reference is meant by itself, even where it begins another.
    if references.contains(reference) {
        references = BTreeSet::from([reference.to_owned()]);
    }
    if references.len() > 1 {
        found.ambiguous = references;
        return Ok(found);
    }
    let decisions = lines.iter().filter_map(|line: &Vec<u8>| record::read(line));
    found.decisions = decisions.filter(|one| references.contains(&one.r#ref)).collect();
    found.decisions.sort_by_key(|one| one.decided.as_ref().map(|decided| decided.time));
    Ok(found)
}

/// References kept while it is open which one is meant.
const MAX_REFERENCES: usize = 20;

fn search(
    file: File,
    reference: &str,
    references: &mut BTreeSet<String>,
    lines: &mut Vec<Vec<u8>>,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut file, MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let Some(rest) = line.strip_prefix(record::START) else { continue };
        if !rest.starts_with(reference.as_bytes()) {
            continue;
        }
        // A line without its end is torn, or on its way.
        let Some(name) = rest.split(|&byte| byte == b'"').next().filter(|_| line.ends_with(b"\n")) else {
            continue;
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if name == reference || references.len() < MAX_REFERENCES || references.contains(&name) {
            references.insert(name);
            lines.push(line.clone());
        }
    }
}
