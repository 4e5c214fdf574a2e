//! A policy that grew decides what one compiled at once decides.

use proptest::prelude::*;

use super::growth::Limits;
use super::*;
use crate::bundle::document::{
    Combine, Confusables, Content, ExpressionKind, Location, ObjectKind, Reject, TextExpression, WordOptions,
};
use crate::policy::testing::{bundle, envelope, revision, rule, transaction};
use crate::policy::{Decision, Fuel, decide};

const WORDS: [&str; 12] = [
    "rahasia",
    "secret",
    "top secret",
    "[BAD]",
    "bad",
    "a",
    "aa",
    "ab",
    "geheim",
    "größe",
    "機密",
    "confidential",
];
const TEXTS: [&str; 3] = ["needle", "Secret", "aa"];
const PATTERNS: [&str; 5] = [r"(?i)pro(ject)?-\d+", "a+b", r"\bBAD\b", "[0-9]{3}", "x*"];
const MAILS: [&str; 4] = [
    "a top secret plan: aab, needle in project-77",
    "nothing of the kind",
    "[BAD] aa ab aaa 機密です größe GRÖSSE pro-5 123 \u{455}ecret b\u{430}d",
    "confidential confidential geheim rahasia bad",
];

/// A rule in few numbers.
#[derive(Debug, Clone)]
struct Sketch {
    words: Vec<usize>,
    text: Option<usize>,
    pattern: Option<usize>,
    confusables: bool,
    accents: bool,
    priority: u16,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let words = prop::collection::vec(0..WORDS.len(), 0..5);
    let (text, pattern) = (prop::option::of(0..TEXTS.len()), prop::option::of(0..PATTERNS.len()));
    (words, text, pattern, any::<bool>(), any::<bool>(), 1..4u16).prop_map(
        |(words, text, pattern, confusables, accents, priority)| Sketch {
            words,
            text,
            pattern,
            confusables,
            accents,
            priority,
        },
    )
}

fn made(name: usize, sketch: &Sketch) -> Arc<Rule> {
    let expression = |kind, value: &str| {
        let text =
            TextExpression { location: Location::HeadersAndBody, kind, value: value.into(), min_count: 1 };
        Expression::Text(text)
    };
    let text = sketch.text.map(|at| expression(ExpressionKind::Contains, TEXTS[at]));
    let pattern = sketch.pattern.map(|at| expression(ExpressionKind::MatchesRegex, PATTERNS[at]));
    let content = Content {
        words: sketch.words.iter().map(|at| WORDS[*at].to_owned()).collect(),
        word_options: WordOptions {
            confusables: if sketch.confusables { Confusables::MixedScript } else { Confusables::Disabled },
            ignore_accents: sketch.accents,
            ..WordOptions::default()
        },
        search_html_source: false,
        expressions: text.into_iter().chain(pattern).collect(),
        combine: Combine::Any,
    };
    let made = rule(ObjectKind::ComplianceRule, &format!("r{name:02}"), Action::Reject(Reject::default()));
    Arc::new(Rule { content: Some(content), priority: sketch.priority, ..made })
}

fn decisions(policy: &Policy) -> Vec<Decision> {
    let envelope = envelope("ani@solarmora.com", &["b@rcpt.example"]);
    let judge = |text: &&str| {
        let mail =
            format!("From: ani@solarmora.com\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n");
        decide(policy, &transaction(&envelope), mail.as_bytes(), Fuel::default())
    };
    MAILS.iter().map(judge).collect()
}

fn of(rules: Vec<Arc<Rule>>) -> Arc<Bundle> {
    let mut bundle = Bundle { rules, ..bundle(Vec::new()) };
    bundle.sort();
    Arc::new(bundle)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_policy_that_grew_decides_what_one_made_at_once_decides(
        edits in prop::collection::vec((0..12usize, prop::option::weighted(0.8, sketch())), 1..30),
    ) {
        let limits = Limits { least: 0, share: 1 };
        let mut rules: std::collections::BTreeMap<usize, Arc<Rule>> = Default::default();
        let mut grown: Option<Policy> = None;
        for (name, edit) in edits {
            match edit {
                Some(sketch) => drop(rules.insert(name, made(name, &sketch))),
                None => drop(rules.remove(&name)),
            }
            let bundle = of(rules.values().cloned().collect());
            let next = grow(grown.as_ref(), &bundle, &revision(), limits).unwrap();
            prop_assert_eq!(decisions(&next), decisions(&compile(&bundle, &revision()).unwrap()));
            grown = Some(next);
        }
    }
}

fn many(count: usize) -> Vec<Arc<Rule>> {
    (0..count).map(|n| made(n, &sketch_of(n))).collect()
}

#[test]
fn one_changed_rule_of_many_is_compiled_alone_until_many_have_changed() {
    let mut rules = many(2000);
    let first = compile(&of(rules.clone()), &revision()).unwrap();
    assert_eq!(first.growth.since, 0);
    rules[7] = made(7, &Sketch { words: vec![0, 1, 2], ..sketch_of(7) });
    let second = compile_after(Some(&first), &of(rules.clone()), &revision()).unwrap();
    assert!((1..20).contains(&second.growth.since), "{:?}", second.growth);
    assert_eq!(decisions(&second), decisions(&compile(&of(rules.clone()), &revision()).unwrap()));
    for (n, rule) in rules.iter_mut().enumerate().take(500) {
        *rule = made(n, &Sketch { words: vec![3], ..sketch_of(n) });
    }
    let third = compile_after(Some(&second), &of(rules), &revision()).unwrap();
    assert_eq!(third.growth.since, 0, "so many are compiled together with all others");
}

fn sketch_of(n: usize) -> Sketch {
    Sketch {
        words: vec![n % WORDS.len()],
        text: None,
        pattern: None,
        confusables: true,
        accents: false,
        priority: 1,
    }
}

#[test]
fn what_is_tried_out_is_only_what_is_new() {
    let good = of(many(3));
    let mut rules = good.rules.clone();
    let broken = Sketch { pattern: None, text: None, ..sketch_of(9) };
    let mut broken = Rule::clone(&made(9, &broken));
    broken.content.as_mut().unwrap().words = vec![" ".to_owned()];
    rules.push(broken.into());
    let next = of(rules);
    let error = try_out(&next, Some(&good), &revision()).unwrap_err();
    assert_eq!(error.object.name, "r09");
    assert!(try_out(&good, Some(&good), &revision()).is_ok());
    // What runs already is not asked again.
    assert!(try_out(&next, Some(&next), &revision()).is_ok());
}
