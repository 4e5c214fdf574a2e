//! The texts of one message and what rules find in them, each thing worked out once per message.
//!
//! Answers are yes, no and unknown. Unknown is what a search that stopped at a limit, or a clause that
//! cannot be read, leaves open; it is never taken for no here.

mod expression;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;

use super::compile::{Conditions, ExpressionCode, Policy};
use super::text::fold::{Folding, View, display, fold};
use super::text::html::{self, Visible};
use super::text::reordered;
use super::verdict::{Evidence, Fuel, Transaction};
use crate::bundle::document::{Combine, Location};
use crate::mail::message::{Limits, Message};

/// Pieces of evidence kept for one condition.
const MAX_EVIDENCE: usize = 8;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Yes(Vec<Evidence>),
    No,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Subject,
    Body,
    Attachment,
    /// The source of an HTML part, body or attachment.
    Source {
        attachment: bool,
    },
    Other,
}

/// One text to search.
struct Text {
    place: Place,
    /// For the trace: `body`, `subject`, `attachment:NAME`, …
    label: String,
    /// As decoded; offsets of evidence count in this. Readings of one HTML text share it.
    source: Rc<str>,
    /// What of it shows, where that differs.
    visible: Option<Visible>,
    /// Stretches of what is searched that a reader is not shown.
    hidden: Vec<Range<usize>>,
    branch: Option<(u32, u32)>,
    views: [OnceCell<View>; 2],
}

impl Text {
    fn new(place: Place, label: impl Into<String>, source: impl Into<Rc<str>>) -> Self {
        Self {
            place,
            label: label.into(),
            source: source.into(),
            visible: None,
            hidden: Vec::new(),
            branch: None,
            views: Default::default(),
        }
    }

    fn shown(&self) -> &str {
        self.visible.as_ref().map_or(&self.source, |visible| &visible.text)
    }

    fn folded(&self) -> &View {
        self.views[0].get_or_init(|| fold(self.shown(), Folding::default()))
    }

    fn display(&self) -> &View {
        self.views[1].get_or_init(|| display(self.shown(), false))
    }

    fn evidence(&self, view: &View, range: &Range<usize>, entry: &str) -> Evidence {
        let (mut offset, mut length) = match range.is_empty() {
            true => (view.map.to_source(range.start), 0),
            false => view.span(self.shown(), range.start, range.end),
        };
        let after = self.hidden.partition_point(|stretch| stretch.end <= offset);
        let hidden = self.hidden.get(after).is_some_and(|stretch| stretch.start < offset + length);
        if let Some(visible) = &self.visible {
            (offset, length) = visible.span(&self.source, offset, length);
        }
        Evidence { part: self.label.clone(), entry: entry.to_owned(), offset, length, hidden }
    }
}

/// One message under inspection.
pub(super) struct Texts<'a> {
    policy: &'a Policy,
    transaction: &'a Transaction<'a>,
    message: &'a Message<'a>,
    fuel: Fuel,
    parts: OnceCell<Parts>,
    words: OnceCell<Words>,
    others: std::cell::RefCell<HashMap<Location, Rc<Vec<Text>>>>,
}

/// Subject, body and attachments.
struct Parts {
    texts: Vec<Text>,
    stopped: Option<&'static str>,
}

/// What the word lists of the policy found, by list.
struct Words {
    found: Vec<Vec<Evidence>>,
    stopped: Option<&'static str>,
}

impl<'a> Texts<'a> {
    pub fn new(
        policy: &'a Policy,
        transaction: &'a Transaction<'a>,
        message: &'a Message<'a>,
        fuel: Fuel,
    ) -> Self {
        let (parts, words) = (OnceCell::new(), OnceCell::new());
        Self { policy, transaction, message, fuel, parts, words, others: Default::default() }
    }

    /// Why the search stopped before the end, if it did.
    pub fn stopped(&self) -> Option<&'static str> {
        let parts = self.parts.get().and_then(|parts| parts.stopped);
        parts.or_else(|| self.words.get().and_then(|words| words.stopped))
    }

    /// What the conditions of a rule come to. `broken`: some of them may be missing here.
    pub fn judge(&self, conditions: &Conditions, broken: bool) -> Answer {
        let mut answers = Vec::with_capacity(conditions.expressions.len() + 1);
        if let Some(list) = conditions.words {
            let words = self.words();
            answers.push(match &words.found[list] {
                found if !found.is_empty() => Answer::Yes(found.clone()),
                _ if words.stopped.is_some() || broken => Answer::Unknown,
                _ => Answer::No,
            });
        }
        for expression in &conditions.expressions {
            answers.push(match expression {
                Some(expression) => self.expression(expression, conditions.html_source),
                None => Answer::Unknown,
            });
        }
        if broken && conditions.combine == Combine::Any {
            answers.push(Answer::Unknown);
        }
        if answers.is_empty() {
            return if broken { Answer::Unknown } else { Answer::No };
        }
        combine(answers, conditions.combine)
    }

    fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| {
            let Fuel { decoded_bytes, parts, depth, entries, nesting } = self.fuel;
            let pieces = self.message.pieces(Limits { decoded_bytes, parts, depth, entries, nesting });
            let mut texts: Vec<Text> = self
                .message
                .all("subject")
                .map(|field| Text::new(Place::Subject, "subject", field.decoded()))
                .collect();
            // Readings of one part often come to the same text: that is searched once.
            let hasher = std::hash::RandomState::new();
            let mut by_hash = HashMap::new();
            for piece in pieces.pieces {
                let label = match (&piece.name, piece.attachment) {
                    (_, false) => "body".to_owned(),
                    (Some(name), true) => format!("attachment:{name}"),
                    (None, true) => format!("attachment:{}", piece.path),
                };
                let place = if piece.attachment { Place::Attachment } else { Place::Body };
                let mut add = |place, source: Rc<str>, visible: Option<Visible>| {
                    let mut text = Text::new(place, label.clone(), source);
                    text.hidden = visible.as_ref().map_or_else(|| piece.hidden.clone(), |v| v.hidden.clone());
                    (text.visible, text.branch) = (visible, piece.branch);
                    let alike =
                        by_hash.entry(hasher.hash_one((&text.label, text.shown()))).or_insert_with(Vec::new);
                    let same = |known: &usize| {
                        let known: &Text = &texts[*known];
                        (known.place, &known.label, known.shown()) == (place, &text.label, text.shown())
                    };
                    if !alike.iter().any(same) {
                        alike.push(texts.len());
                        texts.push(text);
                    }
                };
                let source: Rc<str> = piece.text.into();
                let readings = match piece.html {
                    true => html::visible(&source).into_iter().map(Some).collect(),
                    false => vec![None],
                };
                for visible in readings {
                    let shown = visible.as_ref().map_or(&*source, |visible| &visible.text);
                    // What a screen reorders has no place in the source: offsets count in what it shows.
                    let reordered = reordered(shown);
                    add(place, source.clone(), visible);
                    if let Some(shown) = reordered {
                        add(place, shown.into(), None);
                    }
                }
                if piece.html && self.policy.content.reads_html_source {
                    add(Place::Source { attachment: piece.attachment }, source, None);
                }
            }
            Parts { texts, stopped: pieces.stopped }
        })
    }

    /// One pass of each automaton over each text, for all rules together.
    fn words(&self) -> &Words {
        self.words.get_or_init(|| {
            let parts = self.parts();
            let matcher = &self.policy.content.matcher;
            let mut words = Words { found: vec![Vec::new(); matcher.lists()], stopped: parts.stopped };
            // (list, entry) pairs already reported: one place for each is enough.
            let mut known = std::collections::HashSet::new();
            for text in &parts.texts {
                for set in matcher.sets() {
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
                    let searched = set.search(view, |hit| {
                        let in_source = matches!(text.place, Place::Source { .. });
                        let wanted = !in_source || self.policy.content.source_lists[hit.list];
                        let found = &mut words.found[hit.list];
                        if wanted && found.len() < MAX_EVIDENCE && known.insert((hit.list, hit.entry)) {
                            found.push(text.evidence(
                                view,
                                &hit.range,
                                self.policy.word(hit.list, hit.entry),
                            ));
                        }
                        ControlFlow::Continue(())
                    });
                    if searched.is_err() {
                        words.stopped.get_or_insert("too many word matches");
                    }
                }
            }
            words
        })
    }

    fn expression(&self, expression: &ExpressionCode, html_source: bool) -> Answer {
        let others;
        let mut texts: Vec<&Text> = Vec::new();
        let location = expression.location;
        let from_parts = |place: Place| match location {
            Location::HeadersAndBody => {
                !matches!(place, Place::Subject | Place::Other) && (html_source || !is_source(place))
            }
            Location::Body => {
                place == Place::Body || (html_source && place == Place::Source { attachment: false })
            }
            Location::Attachments => {
                place == Place::Attachment || (html_source && place == Place::Source { attachment: true })
            }
            Location::Subject => place == Place::Subject,
            _ => false,
        };
        let reads_parts =
            matches!(location, Location::HeadersAndBody | Location::Body | Location::Attachments);
        if reads_parts || location == Location::Subject {
            texts.extend(self.parts().texts.iter().filter(|text| from_parts(text.place)));
        }
        if location != Location::Subject && !matches!(location, Location::Body | Location::Attachments) {
            others = self.others(location);
            texts.extend(others.iter());
        }
        let Ok((holds, evidence)) = expression::hold(expression, &texts) else { return Answer::Unknown };
        let incomplete = match location {
            Location::RawMessage => self.message.bytes.len() > self.raw_limit(),
            _ => reads_parts && self.parts().stopped.is_some(),
        };
        match (holds, expression.negated) {
            (true, false) => Answer::Yes(evidence),
            (true, true) => Answer::No,
            (false, _) if incomplete => Answer::Unknown,
            (false, true) => {
                let part = texts.first().map_or("message", |text| &text.label).to_owned();
                Answer::Yes(vec![Evidence {
                    part,
                    entry: expression.value.clone(),
                    offset: 0,
                    length: 0,
                    hidden: false,
                }])
            }
            (false, false) => Answer::No,
        }
    }

    fn raw_limit(&self) -> usize {
        usize::try_from(self.fuel.decoded_bytes).unwrap_or(usize::MAX)
    }

    /// Texts of a location outside subject, body and attachments.
    fn others(&self, location: Location) -> Rc<Vec<Text>> {
        if let Some(texts) = self.others.borrow().get(&location) {
            return texts.clone();
        }
        let fields = |names: &[&str]| -> Vec<Text> {
            let named = self.message.fields.iter().filter(|field| names.iter().any(|name| field.is(name)));
            named.map(|field| Text::new(Place::Other, "headers", field.decoded())).collect()
        };
        let envelope = self.transaction.envelope;
        let mailbox =
            |mailbox: Option<String>| Text::new(Place::Other, "envelope", mailbox.unwrap_or_default());
        let texts = match location {
            Location::HeadersAndBody | Location::FullHeaders => {
                let lines = self.message.fields.iter().map(|f| format!("{}: {}\n", f.name, f.decoded()));
                vec![Text::new(Place::Other, "headers", lines.collect::<String>())]
            }
            Location::FromHeader => fields(&["from"]),
            Location::RecipientsHeader => fields(&["to", "cc", "bcc"]),
            Location::EnvelopeSender => {
                vec![mailbox(envelope.sender.mailbox.as_ref().map(ToString::to_string))]
            }
            Location::AnyEnvelopeRecipient => {
                envelope.recipients.iter().map(|r| mailbox(Some(r.mailbox.to_string()))).collect()
            }
            Location::RawMessage => {
                let bytes = &self.message.bytes[..self.message.bytes.len().min(self.raw_limit())];
                vec![Text::new(Place::Other, "message", String::from_utf8_lossy(bytes).into_owned())]
            }
            Location::Subject | Location::Body | Location::Attachments => Vec::new(),
        };
        let texts = Rc::new(texts);
        self.others.borrow_mut().insert(location, texts.clone());
        texts
    }
}

fn is_source(place: Place) -> bool {
    matches!(place, Place::Source { .. })
}

fn combine(answers: Vec<Answer>, how: Combine) -> Answer {
    let unknown = answers.contains(&Answer::Unknown);
    let refused = answers.contains(&Answer::No);
    let mut evidence: Vec<Evidence> = Vec::new();
    let mut holds = false;
    for answer in answers {
        if let Answer::Yes(found) = answer {
            holds = true;
            evidence.extend(found);
        }
    }
    match how {
        Combine::Any if holds => Answer::Yes(evidence),
        Combine::All if refused => Answer::No,
        _ if unknown => Answer::Unknown,
        Combine::All => Answer::Yes(evidence),
        Combine::Any => Answer::No,
    }
}
