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
