//! Golden pairs in `tests/golden/decide/`: rules and a message, then the decision. The part before
//! `=== decision` is written by hand, the rest by UPDATE=1.
//!
//! ```text
//! rule ComplianceRule no-secrets     a rule, its fields indented below it
//!   words secret, top secret
//!   reject Not this
//! route relay                        an OutboundRoute; more words: why it is broken
//! default-route missing relay        or: named relay
//! user a@b.c /unit group@b.c         an account of the directory, with its groups
//! group all@b.c
//! unit /sales disable RoutingRule/x  also: unknown-senders refuse, directory-broken WHY
//! list partners partner.example, !x@y.z     an entry with ! needs no authentication
//! archive a@b.c relay rejected       the last word: those refused are recorded too
//! gateway drop-blatant               also: spam-headers, smime ADDRESS
//! fuel 100                           bytes of text that may be searched
//! mail from a@b.c to d@e.f, g@h.i    flags: clear, utf8, spam, phishy, blatant, auth=DOMAIN, except=NAME
//! ---                                then the message
//! === decision
//! ```

mod setup;

use std::path::Path;
use std::sync::Arc;

use self::setup::Setup;
use super::super::super::testing::*;
use crate::policy::verdict::Spam;
use crate::policy::{compile, decide};

#[test]
fn decisions_are_the_golden_ones() {
    let folder = "tests/golden/decide";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let file = format!("{folder}/{name}");
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
        let input = text.split("\n=== decision\n").next().unwrap().trim_end();
        golden(&file, &format!("{input}\n=== decision\n{}", run(input)));
    }
}

fn run(input: &str) -> String {
    let (lines, message) = input.split_once("\n---\n").expect("--- stands before the message");
    let setup = Setup::read(lines);
    let policy = match compile(&Arc::new(setup.bundle.clone()), &revision()) {
        Ok(policy) => policy,
        Err(error) => return format!("not compiled: {error}\n"),
    };
    let (from, to) = setup.mail.strip_prefix("from ").unwrap().split_once(" to ").unwrap();
    let words = to.split([',', ' ']).filter(|word| !word.is_empty());
    let (to, flags): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('@'));
    let envelope = envelope(from.trim_matches(['<', '>']), &to);
    let with = |name: &str| flags.iter().filter_map(|flag| flag.strip_prefix(name)).collect::<Vec<_>>();
    let authenticated: Vec<_> = with("auth=").iter().map(|domain| domain.parse().unwrap()).collect();
    let named = |name: &&str| setup.bundle.rules.iter().find(|rule| rule.origin.object.name == **name);
    let except = with("except=");
    let except: Vec<_> = except.iter().filter_map(|name| Some(named(name)?.origin.object.clone())).collect();
    let mut transaction = transaction(&envelope);
    transaction.tls = !flags.contains(&"clear");
    transaction.utf8_replies = flags.contains(&"utf8");
    let blatant = flags.contains(&"blatant");
    transaction.spam =
        Spam { spam: blatant || flags.contains(&"spam"), phishy: flags.contains(&"phishy"), blatant };
    transaction.authenticated = &authenticated;
    transaction.except = &except;
    let bytes = message.replace('\n', "\r\n");
    describe(&decide(&policy, &transaction, bytes.as_bytes(), setup.fuel), &envelope)
}
