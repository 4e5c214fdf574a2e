//! HTML → what a reader sees, with a map back to the source.
//!
//! Tokenised by html5gum (WHATWG section 13.2.5, no dependencies, no unsafe): visible text needs exact
//! tokens but no tree, and a tree of hostile HTML costs memory and recursion. Inline tags join,
//! block tags, cells, list items and `<br>` separate; comments, style, script and attributes do not
//! show. Text hidden by CSS is part of the first reading and told as hidden; further ones leave it out,
//! since what is hidden inside a word splits it for us and not for the reader.

use std::ops::Range;

use html5gum::{DefaultEmitter, HtmlString, StartTag, State, Token, Tokenizer};

mod style;

use super::{BOUNDARY, Map};
use style::{Hidden, Sheet, Style};

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

/// Every reading of an HTML text: everything, without what is surely hidden and without what some
/// clients may hide, if anything is, and the contents of conditional comments, which one widespread
/// client shows.
pub fn visible(html: &str) -> Vec<Visible> {
    let mut reader = Reader::new(html);
    reader.run();
    let mut readings = vec![reader.all];
    if reader.hid_surely {
        readings.push(reader.shown);
    }
    if reader.hid_maybe {
        readings.push(reader.bare);
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
    /// Without what is surely hidden.
    shown: Visible,
    /// Without what any client may hide.
    bare: Visible,
    hid_surely: bool,
    hid_maybe: bool,
    /// Open elements and how their text looks.
    open: Vec<(Box<[u8]>, Style)>,
    preformatted: usize,
    /// Inside style, script or template: nothing of it is text.
    dropping: Option<Vec<u8>>,
    sheet: Sheet,
    /// Where the contents of conditional comments stand: `<!--[if mso]>…<![endif]-->`.
    conditional: Vec<(usize, usize)>,
}

/// Elements open at once whose looks are tracked; deeper ones look like the last of them.
const MAX_OPEN: usize = 4096;

impl<'a> Reader<'a> {
    fn new(html: &'a str) -> Self {
        Self {
            html,
            all: Visible::default(),
            shown: Visible::default(),
            bare: Visible::default(),
            hid_surely: false,
            hid_maybe: false,
            open: Vec::new(),
            preformatted: 0,
            dropping: None,
            sheet: Sheet::read(html),
            conditional: Vec::new(),
        }
    }

    fn style(&self) -> Style {
        self.open.last().map(|(_, style)| *style).unwrap_or_default()
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
        if !is_void(name) {
            // Elements that end where the next one of their kind begins.
            let ends = matches!(name, b"p" | b"li" | b"td" | b"th" | b"tr" | b"dt" | b"dd" | b"option");
            self.open.pop_if(|(open, _)| ends && **open == *name);
            if self.open.len() < MAX_OPEN {
                let style = self.sheet.style_of(tag, self.style());
                self.open.push((name.into(), style));
            }
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
        if let Some(at) = self.open[near..].iter().rposition(|(open, _)| **open == *name) {
            self.open.truncate(near + at);
        }
        let at = self.all.text.len();
        self.separate(name, self.all.map.to_source(at));
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
        let hidden = self.style().hidden();
        if hidden != Hidden::Surely {
            add(&mut self.shown, c, source);
        }
        match hidden {
            Hidden::No => add(&mut self.bare, c, source),
            Hidden::Maybe => self.hid_maybe |= !c.is_whitespace(),
            Hidden::Surely => {
                self.hid_surely |= !c.is_whitespace();
                let end = self.all.text.len();
                match self.all.hidden.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => self.all.hidden.push(start..end),
                }
            }
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
    fn r055_text_of_no_size_or_colour_and_off_the_screen_is_told_as_hidden() {
        for decoy in [
            "<span style='display:none'>",
            "<span style='DISPLAY : /* x */ none !important'>",
            "<span style='visibility:hidden'>",
            "<span style='font-size:0'>",
            "<span style='font-size:1px'>",
            "<span style='font:0/0 a'>",
            "<span style='opacity:0'>",
            "<span style='opacity:.0'>",
            "<span style='color:#fff'>",
            "<span style='color:white;background:#fefefe'>",
            "<font color=white>",
            "<span style='color:transparent'>",
            "<span style='color:rgba(0,0,0,0)'>",
            "<span style='position:absolute;left:-9999px'>",
            "<span style='text-indent:-9999px'>",
            "<span style='max-height:0;overflow:hidden'>",
            "<span style='clip:rect(0,0,0,0);position:absolute'>",
            "<span style='\\64isplay:none'>",
            "<span hidden>",
            "<style>.d{display:none}</style><span class=d>",
            "<style>@import 'x';/*}*/#d{font-size:0}</style><span id=d>",
            "<style>s{display:none}</style><s>",
            "<table bgcolor=#000000><tr><td style='color:black'>",
        ] {
            let html = format!("for{decoy}xx</span></font></s></table>bidden");
            let readings = visible(&html);
            let all = &readings[0];
            let at = all.text.find("xx").unwrap();
            assert!(all.hidden.iter().any(|range| range.contains(&at)), "{decoy}: {readings:?}");
            let shown = readings.last().unwrap().text.replace(BOUNDARY, "");
            assert!(shown.contains("forbidden"), "{decoy}: {shown}");
        }
        for visible_text in [
            "<span style='display:block'>",
            "<span style='font-size:10px'>",
            "<span style='color:#fff;background:#000'>",
            "<td bgcolor=navy><font color=white>",
            "<span style='opacity:0.9'>",
            "<div style='font-size:0'><span style='font-size:14px'>",
            "<div style='visibility:hidden'><span style='visibility:visible'>",
            "<span style='left:-1px'>",
            "<style>.d{color:red}.d:hover{display:none}</style><span class=d>",
        ] {
            let readings = visible(&format!("{visible_text}forbidden</span>"));
            assert!(readings[0].hidden.is_empty(), "{visible_text}");
        }
    }

    #[test]
    fn r055_what_only_some_screens_hide_is_read_both_ways() {
        for html in [
            "<style>@media (max-width:600px){.m{display:none}}</style>for<i class=m>xx</i>bidden",
            "for<i style='mso-hide:all'>xx</i>bidden",
            "<style>.a{display:none}.b{display:inline}</style>for<i class='a b'>xx</i>bidden",
        ] {
            let readings = visible(html);
            assert!(readings[0].hidden.is_empty(), "{html}");
            assert!(readings.iter().any(|r| r.text.contains("forbidden")), "{html}: {readings:?}");
            assert!(readings.iter().any(|r| r.text.contains("forxxbidden")), "{html}");
        }
        // Letters shown one by one inside what is hidden as a whole.
        let html = "<div style='font-size:0'>x<b style='font-size:9pt'>for</b>y<b style='font-size:9pt'>bidden</b></div>";
        assert!(visible(html).iter().any(|reading| reading.text.contains("forbidden")));
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
