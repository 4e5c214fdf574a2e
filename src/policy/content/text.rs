//! The texts of a message by place, each read once and only when some condition asks for its place.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::rc::Rc;

use crate::bundle::document::Location;
use crate::mail::message::{Limits, Message, Pieces};
use crate::policy::snippet;
use crate::policy::text::fold::{Folding, View, display, fold};
use crate::policy::text::html::{self, Visible};
use crate::policy::text::reordered;
use crate::policy::verdict::{Evidence, Fuel, Transaction};

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Subject,
    Body,
    Attachment,
    /// The source of HTML parts.
    BodySource,
    AttachmentSource,
    Headers,
    /// What people write into headers: those that mail programs fill with numbers are left out.
    WrittenHeaders,
    From,
    Recipients,
    EnvelopeSender,
    EnvelopeRecipients,
    Raw,
}

pub(super) const PLACES: usize = Place::Raw as usize + 1;
/// What word lists are searched for in (spec R51).
pub(super) const SEARCHED: [Place; 5] =
    [Place::Subject, Place::Body, Place::Attachment, Place::BodySource, Place::AttachmentSource];
/// What detectors look at: all that HeadersAndBody covers, as far as people wrote it.
pub(super) const DETECTED: [Place; 3] = [Place::Body, Place::Attachment, Place::WrittenHeaders];

impl Place {
    /// Whether it comes from the parts of the message.
    const fn is_part(self) -> bool {
        (self as usize) < SEARCHED.len()
    }

    pub const fn is_source(self) -> bool {
        matches!(self, Place::BodySource | Place::AttachmentSource)
    }

    pub const fn of(location: Location, html_source: bool) -> &'static [Place] {
        use Place::*;
        match (location, html_source) {
            (Location::HeadersAndBody, false) => &[Body, Attachment, Headers],
            (Location::HeadersAndBody, true) => &[Body, Attachment, BodySource, AttachmentSource, Headers],
            (Location::Body, false) => &[Body],
            (Location::Body, true) => &[Body, BodySource],
            (Location::Attachments, false) => &[Attachment],
            (Location::Attachments, true) => &[Attachment, AttachmentSource],
            (Location::Subject, _) => &[Subject],
            (Location::FullHeaders, _) => &[Headers],
            (Location::FromHeader, _) => &[From],
            (Location::RecipientsHeader, _) => &[Recipients],
            (Location::EnvelopeSender, _) => &[EnvelopeSender],
            (Location::AnyEnvelopeRecipient, _) => &[EnvelopeRecipients],
            (Location::RawMessage, _) => &[Raw],
        }
    }
}

/// Which way of reading a text something was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Folded,
    Display,
    Compatible,
}

/// One text to search.
pub(super) struct Text {
    /// For the trace: `body`, `subject`, `attachment:NAME`, …
    pub label: String,
    /// As decoded; offsets of evidence count in this. Readings of one HTML text share it.
    source: Rc<str>,
    /// What of it shows, where that differs.
    visible: Option<Visible>,
    /// Stretches of what is searched that a reader is not shown.
    hidden: Vec<Range<usize>>,
    pub branch: Option<(u32, u32)>,
    folded: OnceCell<View>,
    display: OnceCell<View>,
    /// `None`: the same as `display`.
    compatible: OnceCell<Option<View>>,
}

/// What evidence is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clause<'a> {
    pub entry: &'a str,
    /// The number of the expression; `None` is the word list.
    pub expression: Option<u16>,
    /// The find itself must not be shown.
    pub secret: bool,
}

impl Text {
    fn new(label: impl Into<String>, source: impl Into<Rc<str>>) -> Self {
        Self {
            label: label.into(),
            source: source.into(),
            visible: None,
            hidden: Vec::new(),
            branch: None,
            folded: OnceCell::new(),
            display: OnceCell::new(),
            compatible: OnceCell::new(),
        }
    }

    pub fn shown(&self) -> &str {
        self.visible.as_ref().map_or(&self.source, |visible| &visible.text)
    }

    pub fn folded(&self) -> &View {
        self.folded.get_or_init(|| fold(self.shown(), Folding::default()))
    }

    pub fn display(&self) -> &View {
        self.display.get_or_init(|| display(self.shown(), false))
    }

    /// With full-width and other compatible letters as plain ones, where that makes a difference.
    pub fn compatible(&self) -> Option<&View> {
        let view = self.compatible.get_or_init(|| {
            let view = self.display();
            let other = (!view.text.is_ascii()).then(|| display(self.shown(), true));
            other.filter(|other| other.text != view.text)
        });
        view.as_ref()
    }

    pub fn view(&self, way: Way) -> &View {
        match way {
            Way::Folded => self.folded(),
            Way::Display => self.display(),
            Way::Compatible => self.compatible().unwrap_or_else(|| self.display()),
        }
    }

    pub fn evidence(&self, view: &View, range: &Range<usize>, clause: Clause<'_>) -> Evidence {
        let (offset, length) = match range.is_empty() {
            true => (view.map.to_source(range.start), 0),
            false => view.span(self.shown(), range.start, range.end),
        };
        let snippet = snippet::around(self.shown(), offset, length, clause.secret);
        let after = self.hidden.partition_point(|stretch| stretch.end <= offset);
        let hidden = self.hidden.get(after).is_some_and(|stretch| stretch.start < offset + length);
        let (offset, length) = match &self.visible {
            Some(visible) => visible.span(&self.source, offset, length),
            None => (offset, length),
        };
        Evidence {
            part: self.label.clone(),
            entry: clause.entry.to_owned(),
            offset,
            length,
            hidden,
            expression: clause.expression,
            snippet,
        }
    }
}

/// Subject, body and attachments.
pub(super) struct Parts {
    texts: [Vec<Text>; SEARCHED.len()],
    /// What else the walk found, its texts taken out.
    pub pieces: Pieces,
}

/// The texts of one message.
pub(super) struct Places<'a> {
    message: &'a Message<'a>,
    transaction: &'a Transaction<'a>,
    fuel: Fuel,
    html_source: bool,
    parts: OnceCell<Parts>,
    others: [OnceCell<Vec<Text>>; PLACES - SEARCHED.len()],
}

impl<'a> Places<'a> {
    pub fn new(
        message: &'a Message<'a>,
        transaction: &'a Transaction<'a>,
        fuel: Fuel,
        html_source: bool,
    ) -> Self {
        Self { message, transaction, fuel, html_source, parts: OnceCell::new(), others: Default::default() }
    }

    pub fn texts(&self, place: Place) -> &[Text] {
        if place.is_part() {
            return &self.parts().texts[place as usize];
        }
        self.others[place as usize - SEARCHED.len()].get_or_init(|| self.others(place))
    }

    pub fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| self.read_parts())
    }

    pub fn parts_if_read(&self) -> Option<&Parts> {
        self.parts.get()
    }

    /// Whether the message is longer than what may be searched of it.
    pub fn raw_is_cut(&self) -> bool {
        self.message.bytes.len() > self.raw_limit()
    }

    fn raw_limit(&self) -> usize {
        usize::try_from(self.fuel.decoded_bytes).unwrap_or(usize::MAX)
    }

    fn read_parts(&self) -> Parts {
        let Fuel { decoded_bytes, parts, depth, entries, nesting } = self.fuel;
        let limits = Limits { decoded_bytes, parts, depth, entries, nesting };
        let mut pieces = self.message.pieces(limits);
        let mut texts: [Vec<Text>; SEARCHED.len()] = Default::default();
        let subjects = self.message.all("subject");
        texts[Place::Subject as usize].extend(subjects.map(|field| Text::new("subject", field.decoded())));
        // Readings of one part often come to the same text: that is searched once.
        let hasher = std::hash::RandomState::new();
        let mut by_hash: HashMap<u64, Vec<(Place, usize)>> = HashMap::new();
        for piece in std::mem::take(&mut pieces.pieces) {
            let label = match (&piece.name, piece.attachment) {
                (_, false) => "body".to_owned(),
                (Some(name), true) => format!("attachment:{name}"),
                (None, true) => format!("attachment:{}", piece.path),
            };
            let (place, source_place) = match piece.attachment {
                true => (Place::Attachment, Place::AttachmentSource),
                false => (Place::Body, Place::BodySource),
            };
            let mut add = |place: Place, source: Rc<str>, visible: Option<Visible>| {
                let mut text = Text::new(label.clone(), source);
                text.hidden = visible.as_ref().map_or_else(|| piece.hidden.clone(), |v| v.hidden.clone());
                (text.visible, text.branch) = (visible, piece.branch);
                let alike = by_hash.entry(hasher.hash_one((&text.label, text.shown()))).or_default();
                let same = |(there, at): &(Place, usize)| {
                    let known = &texts[*there as usize][*at];
                    (*there, &known.label, known.shown()) == (place, &text.label, text.shown())
                };
                if !alike.iter().any(same) {
                    alike.push((place, texts[place as usize].len()));
                    texts[place as usize].push(text);
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
            if piece.html && self.html_source {
                add(source_place, source, None);
            }
        }
        Parts { texts, pieces }
    }

    /// Texts outside subject, body and attachments.
    fn others(&self, place: Place) -> Vec<Text> {
        let fields = |names: &[&str]| -> Vec<Text> {
            let named = self.message.fields.iter().filter(|field| names.iter().any(|name| field.is(name)));
            named.map(|field| Text::new("headers", field.decoded())).collect()
        };
        let lines = |written: bool| {
            let fields = self.message.fields.iter().filter(|field| !written || !is_machine_made(field.name));
            let lines = fields.map(|field| format!("{}: {}\n", field.name, field.decoded()));
            vec![Text::new("headers", lines.collect::<String>())]
        };
        let envelope = self.transaction.envelope;
        let mailbox = |mailbox: Option<String>| Text::new("envelope", mailbox.unwrap_or_default());
        match place {
            Place::Headers => lines(false),
            Place::WrittenHeaders => lines(true),
            Place::From => fields(&["from"]),
            Place::Recipients => fields(&["to", "cc", "bcc"]),
            Place::EnvelopeSender => vec![mailbox(envelope.sender.mailbox.as_ref().map(ToString::to_string))],
            Place::EnvelopeRecipients => {
                envelope.recipients.iter().map(|r| mailbox(Some(r.mailbox.to_string()))).collect()
            }
            Place::Raw => {
                let bytes = &self.message.bytes[..self.message.bytes.len().min(self.raw_limit())];
                vec![Text::new("message", String::from_utf8_lossy(bytes).into_owned())]
            }
            Place::Subject
            | Place::Body
            | Place::Attachment
            | Place::BodySource
            | Place::AttachmentSource => Vec::new(),
        }
    }
}

/// Fields whose numbers, ids and addresses mail programs make up: a detector would find things in them
/// that nobody wrote.
fn is_machine_made(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "authentication-results",
        "content-id",
        "content-type",
        "date",
        "dkim-signature",
        "in-reply-to",
        "message-id",
        "mime-version",
        "received",
        "references",
        "resent-date",
        "resent-message-id",
        "return-path",
        "thread-index",
        "x-gm-message-state",
    ];
    const PREFIXES: [&str; 4] = ["arc-", "x-google-", "x-ms-", "x-received"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
        || PREFIXES
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}
