//! What commands that print mail share: text that somebody else chose, times, tables.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

/// Characters of a cell whose text somebody else chose.
const WIDEST: usize = 40;

pub fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("these have string keys only");
    text.push('\n');
    text
}

/// Columns as wide as they must be.
pub fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut whole = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(whole, "{cell:width$}  ");
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

/// A table of one line for each, with the pod behind it where there are several.
pub fn with_pods<'a>(table: &str, pods: impl Iterator<Item = Option<&'a str>> + Clone) -> String {
    if pods.clone().all(|pod| pod.is_none()) {
        return table.to_owned();
    }
    let width = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let cells = std::iter::once("POD").chain(pods.map(Option::unwrap_or_default));
    table.lines().zip(cells).map(|(line, pod)| format!("{line:width$}  {}\n", clean(pod))).collect()
}

pub fn time(at: Timestamp) -> String {
    at.strftime("%F %H:%M:%SZ").to_string()
}

pub fn cut(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(WIDEST) {
        None => text,
        Some(_) => text.chars().take(WIDEST - 1).chain(['…']).collect(),
    }
}

/// Mail chooses its own words; a terminal must not obey them.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{FFFD}' } else { c }).collect()
}
