//! Records that fit a question, as they stand in the files: what leaves can still be verified.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, chain, log};

/// What is asked for. All that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// `Kind/namespace/name`, or a name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// A user or a field manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Wanted {
    pub fn fits(&self, entry: &Entry) -> bool {
        let Self { since, until, object, actor, namespace } = self;
        let is = |wanted: &str, whole: &str| wanted == whole || whole.rsplit('/').next() == Some(wanted);
        since.is_none_or(|since| entry.at >= since)
            && until.is_none_or(|until| entry.at < until)
            && object
                .as_ref()
                .is_none_or(|object| entry.object.as_ref().is_some_and(|whole| is(object, whole)))
            && actor.as_ref().is_none_or(|actor| {
                entry.user.as_ref() == Some(actor)
                    || entry.managers.contains(actor)
                    || entry.source.as_ref() == Some(actor)
            })
            && namespace.as_ref().is_none_or(|namespace| entry.namespace() == Some(namespace.as_str()))
    }

    /// Nothing is left out: what comes is a whole chain.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// Hands on each line that fits (with its line end); one that cannot be read is handed on too when everything is
/// wanted. Stops when `take` says so.
pub fn lines(folder: &Path, wanted: &Wanted, take: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut line = Vec::new();
    for path in log::segments(folder)? {
        let mut reader = BufReader::new(File::open(&path)?);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Some(whole) = line.strip_suffix(b"\n") else { break };
            let fits =
                wanted.is_everything() || chain::open(whole).is_ok_and(|sealed| wanted.fits(&sealed.entry));
            if fits && !take(&line) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A record for people: one line, and one for each field that changed.
pub fn words(entry: &Entry) -> String {
    let Entry {
        at,
        event,
        object,
        uid: _,
        generation,
        unit,
        user,
        managers,
        source,
        reason,
        revision,
        fields,
        omitted,
        detail,
    } = entry;
    let mut text = format!("{} {event:<12}", at.strftime("%F %H:%M:%S%.3fZ"));
    let mut add = |name: &str, value: &str| {
        let blank = if name.is_empty() { "" } else { " " };
        let _ = write!(text, " {name}{blank}{}", plain(value));
    };
    if let Some(object) = object {
        add("", object);
    }
    if let Some(generation) = generation {
        add("generation", &generation.to_string());
    }
    for (name, value) in [("unit", unit), ("revision", revision), ("by", user)] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    if !managers.is_empty() {
        add("by", &managers.join(", "));
    }
    if let Some(source) = source {
        add("from", source);
    }
    if let Some(reason) = reason {
        add("because", reason);
    }
    for (name, value) in detail {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        add(name, &value);
    }
    text.push('\n');
    for change in fields {
        let value =
            |value: &Option<serde_json::Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
        let _ = writeln!(
            text,
            "    {}: {} → {}",
            plain(&change.path),
            plain(&value(&change.old)),
            plain(&value(&change.new))
        );
    }
    if *omitted > 0 {
        let _ = writeln!(text, "    and {omitted} more fields");
    }
    text
}

/// A terminal must not obey what somebody wrote into an object.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
