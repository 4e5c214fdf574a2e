//! What CSS does to the sight of a text: enough of it to tell what a reader is not shown.
//!
//! Inline styles, attributes of old, and rules of style sheets that end in a class, an id or a tag. Where
//! clients differ, or a rule holds on some screens only, the answer is maybe; nothing is ever left
//! unsearched for being hidden, so a wrong answer costs a reading and not a match.

use std::collections::HashMap;

use html5gum::StartTag;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Hidden {
    #[default]
    No,
    Maybe,
    Surely,
}

type Colour = [u8; 3];

/// How the text of an element looks; what is inside inherits it.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Taken out as a whole: nothing inside can show again.
    gone: Hidden,
    invisible: Hidden,
    tiny: Hidden,
    transparent: bool,
    colour: Option<Colour>,
    /// `None`: a picture, or what nobody can tell.
    background: Option<Colour>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            gone: Hidden::No,
            invisible: Hidden::No,
            tiny: Hidden::No,
            transparent: false,
            colour: None,
            background: Some([255; 3]),
        }
    }
}

impl Style {
    pub fn hidden(&self) -> Hidden {
        let alike = |a: Colour, b: Colour| a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 10);
        let colourless = self.transparent
            || self.colour.zip(self.background).is_some_and(|(colour, background)| alike(colour, background));
        let colourless = if colourless { Hidden::Surely } else { Hidden::No };
        self.gone.max(self.invisible).max(self.tiny).max(colourless)
    }

    fn apply(&mut self, declared: &Declared, sure: bool) {
        let level = if sure { Hidden::Surely } else { Hidden::Maybe };
        match declared.gone {
            Some(true) => self.gone = self.gone.max(level),
            // Another declaration shows it again: which one wins is the client's to say.
            Some(false) if self.gone == Hidden::Surely && declared.display => self.gone = Hidden::Maybe,
            _ => {}
        }
        if declared.may_be_gone {
            self.gone = self.gone.max(Hidden::Maybe);
        }
        for (ours, said) in [(&mut self.invisible, declared.invisible), (&mut self.tiny, declared.tiny)] {
            match said {
                Some(true) => *ours = (*ours).max(level),
                Some(false) if sure => *ours = Hidden::No,
                Some(false) => *ours = (*ours).min(Hidden::Maybe),
                None => {}
            }
        }
        if let Some(background) = declared.background {
            self.background = background;
        }
        match declared.colour {
            Some(Paint::Colour(colour)) => (self.colour, self.transparent) = (Some(colour), false),
            Some(Paint::Nothing) => self.transparent = true,
            None => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Paint {
    Colour(Colour),
    Nothing,
}

/// What a block of declarations says of these things.
#[derive(Debug, Clone, Default)]
struct Declared {
    gone: Option<bool>,
    /// `gone` was said by `display`.
    display: bool,
    may_be_gone: bool,
    invisible: Option<bool>,
    tiny: Option<bool>,
    colour: Option<Paint>,
    background: Option<Option<Colour>>,
}

impl Declared {
    fn says_something(&self) -> bool {
        self.gone.is_some()
            || self.may_be_gone
            || self.invisible.is_some()
            || self.tiny.is_some()
            || self.colour.is_some()
            || self.background.is_some()
    }

    fn read(declarations: &str) -> Self {
        let text: String = declarations.chars().filter(|c| !c.is_whitespace()).collect();
        let text = text.to_ascii_lowercase();
        let mut said = Self::default();
        let (mut no_room, mut clipped, mut placed, mut cut_out) = (false, false, false, false);
        for (property, value) in text.split(';').filter_map(|one| one.split_once(':')) {
            let value = value.strip_suffix("!important").unwrap_or(value);
            match property {
                "display" => {
                    said.gone = Some(said.gone == Some(true) && !said.display || value == "none");
                    said.display = true;
                }
                "content-visibility" if value == "hidden" => said.gone = Some(true),
                "visibility" => said.invisible = Some(matches!(value, "hidden" | "collapse")),
                "mso-hide" => said.may_be_gone |= value == "all",
                "opacity" if is_zero(value) => said.gone = Some(true),
                "font-size" => said.tiny = is_tiny(value).or(said.tiny),
                "font" => {
                    let size = value.find(|c: char| c.is_ascii_digit() || c == '.').map(|at| &value[at..]);
                    said.tiny = size.and_then(|size| is_tiny(size.split('/').next()?)).or(said.tiny);
                }
                "max-height" | "max-width" | "height" | "width" | "line-height" => no_room |= is_zero(value),
                "overflow" | "overflow-x" | "overflow-y" => clipped |= matches!(value, "hidden" | "clip"),
                "position" => placed = matches!(value, "absolute" | "fixed" | "relative"),
                "left" | "top" | "right" | "bottom" | "margin-left" | "margin-top" | "margin"
                | "text-indent"
                    if is_far(value) =>
                {
                    said.gone = Some(true);
                }
                "clip" => cut_out |= value.starts_with("rect(0") || value.starts_with("rect(1px,1px,1px,1px"),
                "clip-path" => {
                    cut_out |= value.starts_with("inset(50%")
                        || value.starts_with("inset(100%")
                        || value.starts_with("circle(0");
                }
                "transform" if value.contains("scale(0)") || value.contains("translate(-9") => {
                    said.gone = Some(true);
                }
                "color" => said.colour = paint(value).or(said.colour),
                "background-color" => said.background = Some(solid(value)),
                "background" => {
                    said.background = match paint(value) {
                        _ if value.contains("url(") || value.contains("gradient(") => Some(None),
                        Some(Paint::Colour(colour)) => Some(Some(colour)),
                        _ => said.background,
                    };
                }
                "background-image" if value != "none" => said.background = Some(None),
                "-webkit-text-fill-color" => said.colour = paint(value).or(said.colour),
                _ => {}
            }
        }
        if (no_room && clipped) || (cut_out && placed) {
            said.gone = Some(true);
        } else if no_room || cut_out {
            said.may_be_gone = true;
        }
        said
    }
}

fn solid(value: &str) -> Option<Colour> {
    match paint(value) {
        Some(Paint::Colour(colour)) => Some(colour),
        _ => None,
    }
}

/// A number and its unit.
fn measure(value: &str) -> Option<(f64, &str)> {
    let end =
        value.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+')).unwrap_or(value.len());
    Some((value[..end].parse().ok()?, &value[end..]))
}

fn is_zero(value: &str) -> bool {
    measure(value).is_some_and(|(number, _)| number == 0.0)
}

/// Letters too small to be read; `None` for what is no size.
fn is_tiny(value: &str) -> Option<bool> {
    if matches!(value, "medium" | "small" | "large" | "x-small" | "xx-small" | "x-large" | "xx-large") {
        return Some(false);
    }
    let (number, unit) = measure(value)?;
    let relative = unit.starts_with("em") || unit.starts_with("rem") || unit.starts_with('%');
    let least = if unit.starts_with('%') { 8.0 } else { 0.08 };
    // A size relative to nothing is nothing: only what was said in full shows again.
    match relative {
        true if number > least => None,
        true => Some(true),
        false => Some(number <= 1.0),
    }
}

/// Far enough off to be outside of any screen.
fn is_far(value: &str) -> bool {
    measure(value).is_some_and(|(number, unit)| match unit {
        "em" | "rem" => number <= -50.0,
        "%" | "vw" | "vh" => number <= -100.0,
        _ => number <= -500.0,
    })
}

fn paint(value: &str) -> Option<Paint> {
    let value = value.trim();
    if value.starts_with("transparent") {
        return Some(Paint::Nothing);
    }
    if let Some(list) = value.strip_prefix("rgba(").or_else(|| value.strip_prefix("rgb(")) {
        let inner = list.split(')').next()?;
        let mut parts = inner.split([',', '/']).map(|part| match part.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(|part| part * 2.55),
            None => part.parse::<f64>().ok(),
        });
        let mut next = || parts.next().flatten();
        let colour = [next()? as u8, next()? as u8, next()? as u8];
        return match next() {
            Some(0.0) => Some(Paint::Nothing),
            _ => Some(Paint::Colour(colour)),
        };
    }
    let hex = value.strip_prefix('#').unwrap_or(value);
    let digits = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
    let digit =
        |at: usize| hex.as_bytes().get(at).and_then(|b| char::from(*b).to_digit(16)).unwrap_or(0) as u8;
    let marked = value.starts_with('#');
    match digits {
        8 if marked && &hex[6..8] == "00" => return Some(Paint::Nothing),
        6 | 8 => {
            let pair = |at| digit(at) << 4 | digit(at + 1);
            return Some(Paint::Colour([pair(0), pair(2), pair(4)]));
        }
        4 if marked && digit(3) == 0 => return Some(Paint::Nothing),
        3 | 4 if marked => return Some(Paint::Colour([digit(0) * 17, digit(1) * 17, digit(2) * 17])),
        _ => {}
    }
    let name = &value[..value.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(value.len())];
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, colour)| Paint::Colour(*colour))
}

const NAMED: &[(&str, Colour)] = &[
    ("white", [255, 255, 255]),
    ("snow", [255, 250, 250]),
    ("ivory", [255, 255, 240]),
    ("ghostwhite", [248, 248, 255]),
    ("whitesmoke", [245, 245, 245]),
    ("floralwhite", [255, 250, 240]),
    ("mintcream", [245, 255, 250]),
    ("azure", [240, 255, 255]),
    ("black", [0, 0, 0]),
    ("gray", [128, 128, 128]),
    ("grey", [128, 128, 128]),
    ("lightgray", [211, 211, 211]),
    ("lightgrey", [211, 211, 211]),
    ("silver", [192, 192, 192]),
    ("red", [255, 0, 0]),
    ("maroon", [128, 0, 0]),
    ("green", [0, 128, 0]),
    ("lime", [0, 255, 0]),
    ("blue", [0, 0, 255]),
    ("navy", [0, 0, 128]),
    ("yellow", [255, 255, 0]),
    ("orange", [255, 165, 0]),
    ("purple", [128, 0, 128]),
    ("teal", [0, 128, 128]),
    ("olive", [128, 128, 0]),
    ("aqua", [0, 255, 255]),
    ("cyan", [0, 255, 255]),
    ("fuchsia", [255, 0, 255]),
    ("magenta", [255, 0, 255]),
];

/// Rules kept of all style sheets of one text, and applied to one element.
const MOST_RULES: usize = 1024;
const MOST_APPLIED: usize = 16;

/// The rules of the style sheets of a text that say something of its sight.
#[derive(Debug, Default)]
pub struct Sheet {
    rules: Vec<(Declared, bool)>,
    /// By `.class`, `#id` or `tag`.
    by_key: HashMap<String, Vec<usize>>,
}

impl Sheet {
    /// Reads all `<style>` elements; linear in the length of the text.
    pub fn read(html: &str) -> Self {
        let mut sheet = Self::default();
        let mut rest = html;
        while let Some(open) = find_ascii_case(rest, "<style") {
            let text = &rest[open..];
            let end = find_ascii_case(text, "</style").unwrap_or(text.len());
            let start = text[..end].find('>').map_or(end, |at| at + 1);
            sheet.rules_of(&plain(&text[start..end]));
            rest = &text[end.max(1)..];
        }
        sheet
    }

    fn rules_of(&mut self, text: &str) {
        let mut rest = text;
        // Blocks open around the rules: whether each makes them hold at times only.
        let mut around: Vec<bool> = Vec::new();
        while let Some(at) = rest.find(['{', '}', ';']) {
            let prelude = rest[..at].trim();
            let mark = rest.as_bytes()[at];
            rest = &rest[at + 1..];
            match mark {
                b'{' if prelude.starts_with('@') => {
                    let always =
                        matches!(prelude, "@media screen" | "@media all") || prelude.starts_with("@layer");
                    around.push(!always);
                }
                b'{' => {
                    let end = rest.find('}').unwrap_or(rest.len());
                    self.rule(prelude, &rest[..end], !around.contains(&true));
                    rest = rest.get(end + 1..).unwrap_or_default();
                }
                b'}' => {
                    around.pop();
                }
                _ => {}
            }
            around.truncate(16);
        }
    }

    fn rule(&mut self, selectors: &str, declarations: &str, always: bool) {
        let said = Declared::read(declarations);
        if !said.says_something() {
            return;
        }
        for selector in selectors.split(',') {
            if self.rules.len() >= MOST_RULES {
                return;
            }
            let selector = selector.trim();
            let last = selector.split([' ', '>', '+', '~', '\n', '\t']).next_back().unwrap_or_default();
            // What depends on a state or an attribute holds at times.
            if last.is_empty() || last.contains([':', '[', '*']) {
                continue;
            }
            let at = last.rfind(['.', '#']);
            let key = at.map_or_else(|| last.to_ascii_lowercase(), |at| last[at..].to_owned());
            let plain = last.len() == selector.len() && last.matches(['.', '#']).count() <= 1;
            let simple = plain && at.is_none_or(|at| at == 0);
            self.by_key.entry(key).or_default().push(self.rules.len());
            self.rules.push((said.clone(), always && simple));
        }
    }

    /// How the text of an element looks inside one that looks like `around`.
    pub fn style_of(&self, tag: &StartTag<usize>, around: Style) -> Style {
        let attribute =
            |name: &str| tag.attributes.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value));
        let mut style = around;
        if matches!(tag.name.as_slice(), b"rt" | b"rp" | b"template" | b"datalist")
            || attribute("hidden").is_some()
        {
            style.gone = Hidden::Surely;
        }
        if let Some(background) = attribute("bgcolor") {
            style.background = solid(&background.to_ascii_lowercase());
        }
        if attribute("background").is_some() {
            style.background = None;
        }
        if let Some(Paint::Colour(colour)) =
            attribute("color").or_else(|| attribute("text")).and_then(|c| paint(&c.to_ascii_lowercase()))
        {
            style.colour = Some(colour);
        }
        if !self.rules.is_empty() {
            self.apply(&String::from_utf8_lossy(&tag.name), &mut style);
            for class in attribute("class").unwrap_or_default().split_ascii_whitespace().take(MOST_APPLIED) {
                self.apply(&format!(".{class}"), &mut style);
            }
            if let Some(id) = attribute("id") {
                self.apply(&format!("#{id}"), &mut style);
            }
        }
        if let Some(inline) = attribute("style") {
            style.apply(&Declared::read(&plain(&inline)), true);
        }
        style
    }

    fn apply(&self, key: &str, style: &mut Style) {
        for &at in self.by_key.get(key).into_iter().flatten().take(MOST_APPLIED) {
            let (declared, sure) = &self.rules[at];
            style.apply(declared, *sure);
        }
    }
}

/// CSS without comments and with escapes undone.
fn plain(css: &str) -> String {
    let mut out = String::with_capacity(css.len());
    let mut rest = css;
    while let Some(at) = rest.find(['/', '\\']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(comment) = tail.strip_prefix("/*") {
            rest = comment.find("*/").map_or("", |end| &comment[end + 2..]);
        } else if let Some(escaped) = tail.strip_prefix('\\') {
            let digits = escaped.bytes().take(6).take_while(u8::is_ascii_hexdigit).count();
            let c = u32::from_str_radix(&escaped[..digits], 16).ok().and_then(char::from_u32);
            out.extend(c);
            rest = &escaped[digits..];
            if digits > 0 {
                rest = rest.strip_prefix(' ').unwrap_or(rest);
            }
        } else {
            out.push('/');
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    out
}

fn find_ascii_case(text: &str, lower: &str) -> Option<usize> {
    let first = lower.as_bytes()[0];
    memchr::memchr_iter(first, text.as_bytes()).find(|&at| {
        text.as_bytes()
            .get(at..at + lower.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(lower.as_bytes()))
    })
}
