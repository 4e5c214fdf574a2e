//! Keys and tokens that name themselves by how they begin.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::Find;
use super::words;
use crate::bundle::document::{Confidence, Detector};

static PRIVATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-[0-9]:")
        .expect("it is written here")
});

/// Characters of a key looked at after its first line.
const BODY: usize = 4096;
/// Letters of base64 without which a first line is only talked about.
const FEWEST: usize = 40;

/// A key with its content counts fully: its first line is the word that names it.
pub(super) fn private_keys(text: &str, found: &mut dyn FnMut(Find)) {
    for first in PRIVATE.find_iter(text) {
        let rest: String = text[first.end()..].chars().take(BODY).collect();
        let rest = rest.split("-----").next().unwrap_or_default();
        let rest = rest.replace("\\r", "").replace("\\n", "");
        let in_base64 = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        let key: String = rest.chars().filter(in_base64).take(200).collect();
        let sure = key.len() >= FEWEST;
        let confidence = if sure { Confidence::High } else { Confidence::Low };
        found(Find { range: first.range(), confidence, key: if sure { key } else { String::new() } });
    }
}

static ACCESS: LazyLock<Regex> = LazyLock::new(|| {
    let kinds = [
        // Amazon
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
        // GitHub
        r"gh[pousr]_[A-Za-z0-9]{36,251}",
        r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
        // GitLab
        r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|oas)-[A-Za-z0-9_-]{20,300}",
        // Slack
        r"xox[abeoprs]-(?:[0-9]-)?[A-Za-z0-9-]{10,250}",
        r"xapp-[0-9]-[A-Z0-9]{6,20}-[0-9]{6,20}-[a-f0-9]{20,100}",
        r"hooks\.slack\.com/services/T[A-Z0-9]{6,14}/B[A-Z0-9]{6,14}/[A-Za-z0-9]{20,40}",
        // Google
        r"AIza[A-Za-z0-9_-]{35}",
        r"GOCSPX-[A-Za-z0-9_-]{28}",
        r"ya29\.[A-Za-z0-9_-]{40,500}",
        // Stripe
        r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}",
        r"whsec_[A-Za-z0-9]{32,64}",
        // Others with a beginning of their own
        r"npm_[A-Za-z0-9]{36}",
        r"pypi-AgE[A-Za-z0-9_-]{50,300}",
        r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
        r"sk-(?:ant-|proj-)[A-Za-z0-9_-]{32,250}",
        r"hf_[A-Za-z0-9]{34}",
        r"dop_v1_[a-f0-9]{64}",
        r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
        r"AccountKey=[A-Za-z0-9+/]{86}==",
        // Signed web tokens
        r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
    ];
    Regex::new(&kinds.join("|")).expect("it is written here")
});

/// A secret of Amazon has no mark of its own, so it needs its name in front.
static AMAZON_SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let name = r"(?i:aws.{0,20}(?:secret|private).{0,20}|secret_?access_?key)";
    Regex::new(&format!(r#"{name}['" ]*[:=]['" ]*([A-Za-z0-9/+]{{40}})(?:[^A-Za-z0-9/+=]|$)"#))
        .expect("it is written here")
});

pub(super) fn access_keys(text: &str, found: &mut dyn FnMut(Find)) {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    for find in ACCESS.find_iter(text) {
        let (before, after) = (&text[..find.start()], &text[find.end()..]);
        if is_inside(before.chars().next_back()) || is_inside(after.chars().next()) {
            continue;
        }
        let range = find.range();
        let varied = find.as_str().chars().rev().take(24).collect::<HashSet<char>>().len() > 5;
        let confidence = match (varied, words::beside(Detector::AccessKey, text, &range)) {
            (false, _) => Confidence::Low,
            (true, false) => Confidence::Medium,
            (true, true) => Confidence::High,
        };
        found(Find { range, confidence, key: find.as_str().to_owned() });
    }
    for find in AMAZON_SECRET.captures_iter(text).filter_map(|captures| captures.get(1)) {
        found(Find { range: find.range(), confidence: Confidence::High, key: find.as_str().to_owned() });
    }
}
