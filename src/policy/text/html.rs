//! HTML → what a reader sees, with a map back to the source.
//!
//! Tokenised by html5gum (WHATWG section 13.2.5, no dependencies, no unsafe): visible text needs exact
//! tokens but no tree, and a tree of hostile HTML costs memory and recursion. Inline tags join,
//! block tags, cells, list items and `<br>` separate; comments, style, script and attributes do not
//! show. Text hidden by CSS is part of the first reading; a second one leaves it out, since what is
//! hidden inside a word splits it for us and not for the reader.

use std::ops::Range;

use html5gum::{DefaultEmitter, HtmlString, StartTag, State, Token, Tokenizer};

use super::{BOUNDARY, Map};

/// A text made from HTML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    pub text: String,
    /// Back to the HTML source.
    pub map: Map,
    /// Stretches of the text that CSS hides, in order.
    pub hidden: Vec<Range<usize>>,
}

impl Visible {
    /// The stretch of the HTML source behind a stretch of the visible text: offset and length.
    pub fn span(&self, source: &str, start: usize, length: usize) -> (usize, usize) {
        let from = self.map.to_source(start);
        let shown = self.text.get(start..start + length).unwrap_or_default();
        let Some((at, c)) = shown.char_indices().next_back() else { return (from, 0) };
        let last = self.map.to_source(start + at);
        let rest = source.get(last..).unwrap_or_default();
        let end = match rest.chars().next() {
            Some('&') if c != '&' => last + rest.find(';').filter(|at| *at < 40).map_or(1, |at| at + 1),
            Some(c) => last + c.len_utf8(),
            None => last,
        };
        (from, end.saturating_sub(from))
    }
}

/// Every reading of an HTML text: everything, without what is hidden if anything is, and the contents
/// of conditional comments, which one widespread client shows.
pub fn visible(html: &str) -> Vec<Visible> {
    let mut reader = Reader::new(html);
    reader.run();
    let mut readings = vec![reader.all];
    if reader.hid_something {
        readings.push(reader.shown);
    }
    if !reader.conditional.is_empty() {
        let mut joined = Visible::default();
        for (start, end) in reader.conditional {
            // Comments inside are left alone, so this goes no deeper.
            let mut inner = Reader::new(&html[start..end]);
            inner.run();
            add(&mut joined, BOUNDARY, start);
            for (at, c) in inner.all.text.char_indices() {
                add(&mut joined, c, start + inner.all.map.to_source(at));
            }
        }
        readings.push(joined);
    }
    readings
}

struct Reader<'a> {
    html: &'a str,
    all: Visible,
    shown: Visible,
    hid_something: bool,
    /// Open elements that matter: name and whether it hides.
    open: Vec<(Vec<u8>, bool)>,
    hiding: usize,
    preformatted: usize,
    /// Inside style, script or template: nothing of it is text.
    dropping: Option<Vec<u8>>,
    /// Classes and ids that the style sheets of the text hide.
    hidden_names: Vec<String>,
    /// Where the contents of conditional comments stand: `<!--[if mso]>…<![endif]-->`.
    conditional: Vec<(usize, usize)>,
}

/// Elements open at once whose hiding is tracked; deeper ones count as shown.
const MAX_OPEN: usize = 512;

impl<'a> Reader<'a> {
    fn new(html: &'a str) -> Self {
        Self {
            html,
            all: Visible::default(),
            shown: Visible::default(),
            hid_something: false,
            open: Vec::new(),
            hiding: 0,
            preformatted: 0,
            dropping: None,
            hidden_names: hidden_names(html),
            conditional: Vec::new(),
        }
    }

    fn run(&mut self) {
        let emitter = DefaultEmitter::<usize>::new_with_span();
        let mut tokens = Tokenizer::new_with_emitter(self.html, emitter);
        while let Some(Ok(token)) = tokens.next() {
            match token {
                Token::StartTag(tag) => {
                    if let Some(state) = self.start(&tag) {
                        tokens.set_state(state);
                    }
                }
                Token::EndTag(tag) => self.end(&tag.name),
                Token::String(text) => {
                    if self.dropping.is_none() {
                        self.text(&text.value, text.span.start, text.span.end);
                    }
                }
                Token::Comment(comment) => self.comment(comment.span.start, comment.span.end),
                Token::Doctype(_) | Token::Error(_) => {}
            }
        }
    }

    fn comment(&mut self, start: usize, end: usize) {
        let source = self.html.get(start..end).unwrap_or_default();
        if let Some(rest) = source.strip_prefix("<!--[if")
            && let Some(at) = rest.find("]>")
        {
            self.conditional.push((end - rest.len() + at + 2, end));
        }
    }

    fn start(&mut self, tag: &StartTag<usize>) -> Option<State> {
        let name = tag.name.as_slice();
        self.separate(name, tag.span.start);
        match name {
            b"script" => {
                self.dropping = Some(name.to_vec());
                return Some(State::ScriptData);
            }
            b"style" => {
                self.dropping = Some(name.to_vec());
                return Some(State::RawText);
            }
            b"title" | b"textarea" => return Some(State::RcData),
            b"xmp" => return Some(State::RawText),
            b"plaintext" => return Some(State::PlainText),
            b"pre" | b"listing" => self.preformatted += 1,
            _ => {}
        }
        if !is_void(name) && self.open.len() < MAX_OPEN {
            let hides = self.hides(tag);
            self.hiding += usize::from(hides);
            self.open.push((name.to_vec(), hides));
        }
        None
    }

    fn end(&mut self, name: &HtmlString) {
        let name = name.as_slice();
        if self.dropping.as_deref() == Some(name) {
            self.dropping = None;
            return;
        }
        if matches!(name, b"pre" | b"listing") {
            self.preformatted = self.preformatted.saturating_sub(1);
        }
        // The end tag closes the nearest such element and everything opened inside it.
        let near = self.open.len().saturating_sub(32);
        if let Some(at) = self.open[near..].iter().rposition(|(open, _)| open == name) {
            for (_, hides) in self.open.drain(near + at..) {
                self.hiding -= usize::from(hides);
            }
        }
        let at = self.all.text.len();
        self.separate(name, self.all.map.to_source(at));
    }

    fn hides(&self, tag: &StartTag<usize>) -> bool {
        let attribute = |name: &str| tag.attributes.get(name.as_bytes());
        if matches!(tag.name.as_slice(), b"rt" | b"rp" | b"template" | b"datalist")
            || attribute("hidden").is_some()
        {
            return true;
        }
        if let Some(style) = attribute("style")
            && hiding_style(&String::from_utf8_lossy(style))
        {
            return true;
        }
        let named = |name: &&str| {
            let value = attribute(name).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
            value.split_ascii_whitespace().any(|one| self.hidden_names.iter().any(|hidden| hidden == one))
        };
        !self.hidden_names.is_empty() && ["class", "id"].iter().any(named)
    }

    fn separate(&mut self, name: &[u8], source: usize) {
        let separator = match name {
            b"br" => '\n',
            name if is_block(name) => BOUNDARY,
            _ => return,
        };
        self.push(separator, source);
    }

    fn push(&mut self, c: char, source: usize) {
        let start = self.all.text.len();
        add(&mut self.all, c, source);
        if self.hiding == 0 {
            add(&mut self.shown, c, source);
            return;
        }
        self.hid_something |= !c.is_whitespace();
        let end = self.all.text.len();
        match self.all.hidden.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.all.hidden.push(start..end),
        }
    }

    /// Characters between tags. `start..end` is their place in the source, references not yet read.
    fn text(&mut self, value: &[u8], start: usize, end: usize) {
        let value = String::from_utf8_lossy(value);
        let mut aligned = Aligned { raw: self.html.get(start..end).unwrap_or_default(), at: 0 };
        for c in value.chars() {
            let at = start + aligned.place_of(c);
            let c = if self.preformatted == 0 && matches!(c, '\n' | '\r' | '\t' | '\u{c}') { ' ' } else { c };
            self.push(c, at);
        }
    }
}

fn add(visible: &mut Visible, c: char, source: usize) {
    visible.map.mark(visible.text.len(), source);
    visible.text.push(c);
}

/// Walks the source beside the characters that the tokenizer made of it.
struct Aligned<'a> {
    raw: &'a str,
    at: usize,
}

impl Aligned<'_> {
    /// Where in the source this next character stands.
    fn place_of(&mut self, c: char) -> usize {
        let here = self.at;
        let rest = self.raw.get(here..).unwrap_or_default();
        let Some(raw) = rest.chars().next() else { return here };
        let name = |c: char| c.is_ascii_alphanumeric() || c == '#';
        if raw == '&' && (c != '&' || rest[1..].starts_with(name)) {
            let length = rest[1..].find(|c| !name(c)).unwrap_or(rest.len() - 1).min(32) + 1;
            let closed = rest[length..].starts_with(';');
            self.at += length + usize::from(closed);
        } else {
            self.at += raw.len_utf8();
            if raw == '\r' && rest.starts_with("\r\n") {
                self.at += 1;
            }
        }
        here
    }
}

/// Elements that start and end on a line of their own, cells and list items included.
fn is_block(name: &[u8]) -> bool {
    const BLOCK: &[&[u8]] = &[
        b"address",
        b"article",
        b"aside",
        b"blockquote",
        b"body",
        b"button",
        b"caption",
        b"center",
        b"dd",
        b"details",
        b"dialog",
        b"dir",
        b"div",
        b"dl",
        b"dt",
        b"fieldset",
        b"figcaption",
        b"figure",
        b"footer",
        b"form",
        b"h1",
        b"h2",
        b"h3",
        b"h4",
        b"h5",
        b"h6",
        b"head",
        b"header",
        b"hgroup",
        b"hr",
        b"html",
        b"iframe",
        b"legend",
        b"li",
        b"listing",
        b"main",
        b"menu",
        b"nav",
        b"ol",
        b"optgroup",
        b"option",
        b"p",
        b"plaintext",
        b"pre",
        b"search",
        b"section",
        b"select",
        b"summary",
        b"table",
        b"tbody",
        b"td",
        b"textarea",
        b"tfoot",
        b"th",
        b"thead",
        b"title",
        b"tr",
        b"ul",
        b"xmp",
    ];
    BLOCK.binary_search(&name).is_ok()
}

fn is_void(name: &[u8]) -> bool {
    const VOID: &[&[u8]] = &[
        b"area", b"base", b"br", b"col", b"embed", b"hr", b"img", b"input", b"link", b"meta", b"source",
        b"track", b"wbr",
    ];
    VOID.binary_search(&name).is_ok()
}

/// Whether declarations hide what they apply to.
fn hiding_style(style: &str) -> bool {
    let style: String = style.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    style.split(';').filter_map(|one| one.split_once(':')).any(|(property, value)| {
        let value = value.trim_end_matches("!important");
        match property {
            "display" => value == "none",
            "visibility" => matches!(value, "hidden" | "collapse"),
            "mso-hide" => value == "all",
            "opacity" => is_zero(value),
            "font-size" | "max-height" | "max-width" | "height" | "width" | "line-height" => is_zero(value),
            _ => false,
        }
    })
}

fn is_zero(value: &str) -> bool {
    let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
    number.parse::<f64>().is_ok_and(|n| n == 0.0)
}

/// Names of `.class` and `#id` rules that hide, in all style sheets of the text. Other selectors are
/// not understood; their text stays in both readings.
fn hidden_names(html: &str) -> Vec<String> {
    const MAX: usize = 64;
    let mut names = Vec::new();
    let mut rest = html;
    while let Some(open) = find_ascii_case(rest, "<style") {
        let sheet = &rest[open..];
        let end = find_ascii_case(sheet, "</style").unwrap_or(sheet.len());
        for rule in sheet[..end].split('}') {
            let Some((selectors, declarations)) = rule.rsplit_once('{') else { continue };
            if !hiding_style(declarations) {
                continue;
            }
            for selector in selectors.split([',', '>']) {
                let selector = selector.trim();
                let Some(at) = selector.rfind(['.', '#']) else { continue };
                if names.len() < MAX {
                    names.push(selector[at + 1..].to_owned());
                }
            }
        }
        rest = &sheet[end.max(1)..];
    }
    names
}

fn find_ascii_case(text: &str, lower: &str) -> Option<usize> {
    let first = lower.as_bytes()[0];
    memchr::memchr_iter(first, text.as_bytes()).find(|&at| {
        text.as_bytes()
            .get(at..at + lower.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(lower.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(html: &str) -> String {
        let readings = visible(html);
        let text = &readings.last().unwrap().text;
        text.split(BOUNDARY).map(str::trim).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn inline_joins_and_block_separates() {
        for (html, text) in [
            ("<p>for<b>bid</b>den</p>", "forbidden"),
            ("<p>forb<!-- filler -->idden</p>", "forbidden"),
            ("forbid&shy;den", "forbid\u{ad}den"),
            ("&#102;&#x6f;rbidden &amp; &lt;x&gt; &nbsp", "forbidden & <x>"),
            ("<p>for</p><p>bidden</p>", "for|bidden"),
            ("for<br>bidden", "for\nbidden"),
            ("<td>for</td><td>bidden</td>", "for|bidden"),
            ("<li>for<li>bidden", "for|bidden"),
            ("<style>x</style>a<script>if (a<b) y</script>b", "ab"),
            ("<a href='forbidden' title=forbidden>x</a>", "x"),
            ("<font>for</font><wbr>bidden", "forbidden"),
            ("a<title>t</title>b", "a|t|b"),
            ("a\r\n b<pre>c\nd</pre>", "a  b|c\nd"),
            ("<noscript>for<i>b</i></noscript>", "forb"),
            ("1 < 2 & 3 <3", "1 < 2 & 3 <3"),
            ("a<xmp>for<b>x</xmp>", "a|for<b>x"),
        ] {
            assert_eq!(shown(html), text, "{html}");
        }
    }

    #[test]
    fn what_css_hides_is_read_both_ways() {
        for html in [
            "for<span style='display: none'>x<b>y</b></span>bidden",
            "for<i hidden>x</i>bidden",
            "for<i style=\"font-size:0px\">x</i>bidden",
            "<style>p{} a, .q{color:red;display:none !important}</style>for<i class='a q'>x</i>bidden",
            "<ruby>for<rt>x</rt>bidden</ruby>",
        ] {
            let readings = visible(html);
            assert_eq!(readings.len(), 2, "{html}");
            assert!(readings[0].text.contains('x'));
            assert_eq!(readings[1].text.replace(BOUNDARY, ""), "forbidden", "{html}");
        }
        assert_eq!(visible("<p style='font-size:10px'>x</p>").len(), 1);
    }

    #[test]
    fn conditional_comments_are_a_reading_of_their_own() {
        let html = "a<!--[if mso]><p>for<b>bidden</b></p><![endif]-->b<!-- [if x]>c -->";
        let readings = visible(html);
        assert_eq!((readings.len(), readings[0].text.as_str()), (2, "ab"));
        let at = readings[1].text.find("forbidden").unwrap();
        let (offset, length) = readings[1].span(html, at, 9);
        assert_eq!(&html[offset..offset + length], "for<b>bidden");
    }

    #[test]
    fn positions_lead_back_to_the_source() {
        for (html, word, source) in [
            ("<p>a <b>bad</b></p>", "bad", "bad"),
            ("x &amp; &lt; b&#97;d y", "bad", "b&#97;d"),
            ("x\r\n\r\nb<i>a</i>d", "bad", "b<i>a</i>d"),
            ("&eacute; <p>ba&#100;</p>", "bad", "ba&#100;"),
            ("é & ü bad", "bad", "bad"),
        ] {
            let seen = &visible(html)[0];
            let at = seen.text.find(word).unwrap();
            let (offset, length) = seen.span(html, at, word.len());
            assert_eq!(&html[offset..offset + length], source, "{html}");
        }
    }

    #[test]
    fn hostile_html_is_read_in_bounded_time() {
        for piece in [
            "<",
            "<b>",
            "<p ",
            "&",
            "<!--",
            "<style>",
            "</",
            "<a b=",
            "&#",
            "<b hidden>",
            "<!--[if x]>",
            "<!--[if x]>-->",
            "<style>.a{display:none}",
        ] {
            let html = piece.repeat(200_000 / piece.len());
            assert!(visible(&html)[0].text.len() <= html.len() * 3, "{piece}");
        }
    }
}
