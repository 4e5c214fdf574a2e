//! What the conditions of rules come to for one message, each thing worked out once per message.
//!
//! Answers are yes, no and unknown. Unknown is what a search that stopped at a limit, a container that
//! cannot be opened, or a clause that cannot be read leaves open; it is never taken for no here. What a
//! rule makes of it is for `onScanLimit` and `onUnreadable` to say.

mod expression;
mod facts;
mod finds;
mod text;

use std::cell::OnceCell;
use std::collections::HashSet;

use self::expression::Searches;
use self::finds::Finds;
use self::text::{Clause, Place, Places, SEARCHED};
use super::compile::{Conditions, ContentCode, ExpressionCode, Policy};
use super::text::fold::{Folding, fold};
use super::verdict::{Evidence, Fuel, Outcome, Transaction, Unreadable};
use crate::bundle::document::{Combine, OnScanLimit, OnUnreadable, Rule};
use crate::mail::message::Message;

/// Pieces of evidence kept for one condition.
const MAX_EVIDENCE: usize = 8;

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Yes(Vec<Evidence>),
    No,
    Unknown(Open),
}

/// Why an answer is open. Neither: a clause cannot be read (broken rules only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Open {
    /// A search stopped at a limit.
    limit: bool,
    /// A container could not be opened, and the rule does not take it for empty.
    unreadable: bool,
}

impl Open {
    fn any(self) -> bool {
        self.limit || self.unreadable
    }

    fn or(self, other: Open) -> Open {
        Open { limit: self.limit || other.limit, unreadable: self.unreadable || other.unreadable }
    }
}

/// One message under inspection.
pub(super) struct Texts<'a> {
    policy: &'a Policy,
    transaction: &'a Transaction<'a>,
    message: &'a Message<'a>,
    places: Places<'a>,
    words: OnceCell<Words>,
    searches: Searches,
    finds: OnceCell<Finds>,
}

/// What the word lists of the policy found, by list.
struct Words {
    found: Vec<Vec<Evidence>>,
    stopped: Option<&'static str>,
}

/// A rule's way with what is open.
#[derive(Clone, Copy)]
struct Asked<'r> {
    rule: &'r Rule,
    html_source: bool,
}

impl Asked<'_> {
    fn minds_unreadable(self) -> bool {
        self.rule.on_unreadable != OnUnreadable::TreatAsNoMatch
    }
}

impl<'a> Texts<'a> {
    pub fn new(
        policy: &'a Policy,
        transaction: &'a Transaction<'a>,
        message: &'a Message<'a>,
        fuel: Fuel,
    ) -> Self {
        Self {
            policy,
            transaction,
            message,
            places: Places::new(message, transaction, fuel, policy.content.reads_html_source),
            words: OnceCell::new(),
            searches: Searches::default(),
            finds: OnceCell::new(),
        }
    }

    /// What the content of the message comes to for a rule.
    pub fn outcome(&self, content: &ContentCode, rule: &Rule) -> Outcome {
        let answer = match content {
            ContentCode::Always => Answer::Yes(Vec::new()),
            ContentCode::Unreadable => Answer::Unknown(Open::default()),
            ContentCode::Conditions(conditions) => self.judge(conditions, rule),
        };
        match (answer, &rule.broken) {
            // Had the container been open, the answer might be another one: the trace says so.
            (Answer::No, None) if !self.unreadable().is_empty() => Outcome::NoMatch("onUnreadable"),
            (Answer::No, _) => Outcome::NoMatch("match"),
            (_, Some(why)) => Outcome::Deferred(why.clone()),
            (Answer::Yes(evidence), None) => Outcome::Matched(evidence),
            (Answer::Unknown(open), None) => self.treat(open, rule),
        }
    }

    /// Files that could not be opened, as far as anything was read.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let Some(parts) = self.places.parts_if_read() else { return Vec::new() };
        let files = parts.pieces.unreadable.iter();
        files.map(|(name, why)| Unreadable { name: name.clone(), why }).collect()
    }

    /// The stricter of what a rule says about limits and about containers, as far as each is concerned.
    fn treat(&self, open: Open, rule: &Rule) -> Outcome {
        let mut outcome = Outcome::NoMatch("onScanLimit");
        if open.limit || !open.unreadable {
            let why = self.stopped().unwrap_or("the search stopped before the end");
            match rule.on_scan_limit {
                OnScanLimit::TreatAsMatch => return Outcome::MatchedByScanLimit(why.to_owned()),
                OnScanLimit::TreatAsNoMatch => {}
                OnScanLimit::Defer => outcome = Outcome::Deferred(why.to_owned()),
            }
        }
        if open.unreadable {
            let files = self.unreadable().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            match rule.on_unreadable {
                OnUnreadable::TreatAsMatch => return Outcome::MatchedByScanLimit(files),
                OnUnreadable::TreatAsNoMatch => {}
                OnUnreadable::Defer => outcome = Outcome::Deferred(files),
            }
        }
        outcome
    }

    /// Why the search stopped before the end, if it did.
    fn stopped(&self) -> Option<&'static str> {
        let parts = self.places.parts_if_read().and_then(|parts| parts.pieces.stopped);
        parts
            .or_else(|| self.words.get().and_then(|words| words.stopped))
            .or_else(|| self.searches.stopped())
            .or_else(|| {
                self.places.raw_is_cut().then_some("the message is longer than what is searched of it")
            })
    }

    fn judge(&self, conditions: &Conditions, rule: &Rule) -> Answer {
        let asked = Asked { rule, html_source: conditions.html_source };
        let broken = rule.broken.is_some();
        let mut answers = Vec::with_capacity(conditions.expressions.len() + 1);
        if let Some(list) = conditions.words {
            let words = self.words();
            let mut open = self.open_parts(asked);
            open.limit |= words.stopped.is_some();
            answers.push(match &words.found[list] {
                found if !found.is_empty() => Answer::Yes(found.clone()),
                _ if open.any() || broken => Answer::Unknown(open),
                _ => Answer::No,
            });
        }
        for (number, expression) in conditions.expressions.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            answers.push(match expression {
                Some(ExpressionCode::Text(code)) => self.text(number, code, asked),
                Some(ExpressionCode::Metadata(fact)) => self.fact(number, fact, asked),
                Some(ExpressionCode::Detector(detection)) => self.detection(number, detection, asked),
                None => Answer::Unknown(Open::default()),
            });
        }
        if broken && conditions.combine == Combine::Any {
            answers.push(Answer::Unknown(Open::default()));
        }
        if answers.is_empty() {
            return if broken { Answer::Unknown(Open::default()) } else { Answer::No };
        }
        combine(answers, conditions.combine)
    }

    /// What the parts of the message leave open.
    fn open_parts(&self, asked: Asked<'_>) -> Open {
        let pieces = &self.places.parts().pieces;
        Open {
            limit: pieces.stopped.is_some(),
            unreadable: asked.minds_unreadable() && !pieces.unreadable.is_empty(),
        }
    }

    /// What a search of these places leaves open.
    fn open_places(&self, places: &[Place], asked: Asked<'_>) -> Open {
        let has = |place: Place| places.contains(&place);
        let mut open = Open::default();
        if has(Place::Body) || has(Place::Attachment) {
            open = self.open_parts(asked);
            // A container is an attachment.
            open.unreadable &= has(Place::Attachment);
        }
        open.limit |= has(Place::Raw) && self.places.raw_is_cut();
        open
    }

    /// One pass of each automaton over each text, for all rules together.
    fn words(&self) -> &Words {
        self.words.get_or_init(|| {
            let shared = &self.policy.content;
            let mut words = Words { found: vec![Vec::new(); shared.matcher.lists()], stopped: None };
            // (list, entry) pairs already reported: one place for each is enough.
            let mut known = HashSet::new();
            for set in shared.matcher.sets() {
                let mut progress = set.progress();
                for place in SEARCHED {
                    for text in self.places.texts(place) {
                        if set.skips(text.shown()) {
                            continue;
                        }
                        let fresh;
                        let view = if set.folding() == Folding::default() {
                            text.folded()
                        } else {
                            fresh = fold(text.shown(), set.folding());
                            &fresh
                        };
                        let searched = set.search(view, &mut progress, |hit| {
                            if place.is_source() && !shared.source_lists[hit.list] {
                                return false;
                            }
                            let found = &mut words.found[hit.list];
                            if found.len() < MAX_EVIDENCE && known.insert((hit.list, hit.entry)) {
                                let entry = self.policy.word(hit.list, hit.entry);
                                let clause = Clause { entry, expression: None, secret: false };
                                found.push(text.evidence(view, &hit.range, clause));
                            }
                            true
                        });
                        if searched.is_err() {
                            words.stopped.get_or_insert("too many word matches");
                        }
                    }
                }
            }
            words
        })
    }
}

fn combine(answers: Vec<Answer>, how: Combine) -> Answer {
    let refused = answers.contains(&Answer::No);
    let mut evidence: Vec<Evidence> = Vec::new();
    let (mut holds, mut open) = (false, None);
    for answer in answers {
        match answer {
            Answer::Yes(found) => {
                holds = true;
                evidence.extend(found);
            }
            Answer::Unknown(why) => open = Some(open.unwrap_or(Open::default()).or(why)),
            Answer::No => {}
        }
    }
    match (how, open) {
        (Combine::Any, _) if holds => Answer::Yes(evidence),
        (Combine::All, _) if refused => Answer::No,
        (_, Some(open)) => Answer::Unknown(open),
        (Combine::All, None) => Answer::Yes(evidence),
        (Combine::Any, None) => Answer::No,
    }
}
