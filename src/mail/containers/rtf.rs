//! Rich text: control words, code pages, hidden text. Our own reader, since what hides a word in RTF
//! (groups inside a word, `\'hh`, `\uN`, `\v`) is just what a converter to plain text smooths over.

use std::collections::HashMap;

use super::document::Document;
use super::{Budget, DAMAGED, Sink};
use crate::mail::message::{guess_charset, text_by_label};

/// Groups open at once; a document has a dozen.
const DEEPEST: usize = 10_000;

pub fn read(content: &[u8], budget: &Budget) -> Document {
    let mut reader = Reader {
        sink: Sink::new(budget),
        groups: vec![Group::default()],
        pending: Vec::new(),
        code_page: 1252,
        fonts: HashMap::new(),
        font: None,
        white: Vec::new(),
        colour: (None, false),
        skip: 0,
        high: None,
        object: Vec::new(),
        objects: Vec::new(),
        star: false,
    };
    let whole = reader.run(content);
    let texts = reader.sink.take().into_iter().collect();
    let failed = (!whole).then_some(DAMAGED);
    Document { texts, files: reader.objects, failed, holds_files: false }
}

#[derive(Debug, Clone, Default)]
struct Group {
    destination: Destination,
    hidden: bool,
    tiny: bool,
    pale: bool,
    code_page: Option<u32>,
    /// Characters after each `\u` that stand for it where Unicode is not known; 1 unless said.
    fallback: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Destination {
    #[default]
    Text,
    /// A field's code: part of the file, not of what is read.
    Unseen,
    Fonts,
    Colours,
    Object,
    Nothing,
}

struct Reader<'b> {
    sink: Sink<'b>,
    groups: Vec<Group>,
    /// Octets of the code page at hand, not yet decoded: a character may take two.
    pending: Vec<u8>,
    code_page: u32,
    fonts: HashMap<i32, u32>,
    font: Option<i32>,
    /// Which entries of the colour table are white, nearly.
    white: Vec<bool>,
    /// The entry being read: whether it is pale so far, and whether anything was said.
    colour: (Option<bool>, bool),
    skip: usize,
    /// The first half of a character beyond the basic plane.
    high: Option<u16>,
    object: Vec<u8>,
    objects: Vec<(String, Vec<u8>)>,
    star: bool,
}

impl Reader<'_> {
    /// False if the file ends inside a group.
    fn run(&mut self, content: &[u8]) -> bool {
        let mut rest = content;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            match byte {
                b'{' => {
                    self.flush();
                    let group = self.group().clone();
                    if self.groups.len() >= DEEPEST {
                        return false;
                    }
                    self.groups.push(group);
                    (self.star, self.skip) = (false, 0);
                }
                b'}' => {
                    self.flush();
                    self.close();
                }
                b'\\' => rest = self.control(tail),
                b'\r' | b'\n' => {}
                byte => self.octet(byte),
            }
        }
        self.flush();
        self.groups.len() <= 1
    }

    fn group(&mut self) -> &mut Group {
        self.groups.last_mut().expect("the outermost group is never closed")
    }

    fn close(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        let ended = self.groups.pop().expect("there are two").destination;
        (self.star, self.skip) = (false, 0);
        if ended == Destination::Object && self.group().destination != Destination::Object {
            let object = std::mem::take(&mut self.object);
            self.embedded(&object);
        }
    }

    /// An object in hexadecimal: an OLE 1 wrapper around a file.
    fn embedded(&mut self, hex: &[u8]) {
        let octets: Vec<u8> = hex.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        const MARKS: [&[u8]; 4] = [b"\xd0\xcf\x11\xe0", b"PK\x03\x04", b"%PDF-", b"{\\rtf"];
        let starts = MARKS.iter().filter_map(|mark| memchr::memmem::find(&octets, mark)).min();
        if let Some(start) = starts {
            self.objects.push((format!("object{}", self.objects.len() + 1), octets[start..].to_vec()));
        }
    }

    fn octet(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        match self.group().destination {
            Destination::Text | Destination::Unseen => self.pending.push(byte),
            Destination::Colours if byte == b';' => {
                let (pale, said) = self.colour;
                self.white.push(said && pale.unwrap_or(false));
                self.colour = (None, false);
            }
            Destination::Object => {
                if let Some(digit) = char::from(byte).to_digit(16)
                    && self.sink.budget.unpacked(1)
                {
                    self.object.push(digit as u8);
                }
            }
            Destination::Fonts | Destination::Colours | Destination::Nothing => {}
        }
    }

    /// Decodes what has gathered.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.pending);
        let page = self.group().code_page.unwrap_or(self.code_page);
        let text = match bytes.is_ascii() {
            true => guess_charset(&bytes),
            false => text_by_label(&bytes, &label(page)).unwrap_or_else(|| guess_charset(&bytes)),
        };
        self.show(&text);
    }

    fn show(&mut self, text: &str) {
        let group = self.group();
        let hidden = group.hidden || group.tiny || group.pale || group.destination == Destination::Unseen;
        if matches!(group.destination, Destination::Text | Destination::Unseen) {
            self.sink.push(text, hidden);
        }
    }

    /// Reads what follows a backslash.
    fn control<'c>(&mut self, rest: &'c [u8]) -> &'c [u8] {
        let Some((&first, tail)) = rest.split_first() else { return rest };
        if !first.is_ascii_alphabetic() {
            match first {
                b'\'' => {
                    let digit = |at: usize| tail.get(at).and_then(|&b| char::from(b).to_digit(16));
                    if let (Some(high), Some(low)) = (digit(0), digit(1)) {
                        self.octet((high << 4 | low) as u8);
                        return &tail[2..];
                    }
                    return tail;
                }
                b'*' => self.star = true,
                b'\\' | b'{' | b'}' => self.octet(first),
                b'~' => self.special(" "),
                b'_' => self.special("-"),
                b'\r' | b'\n' => self.paragraph(),
                _ => {}
            }
            return tail;
        }
        let length = rest.iter().take(32).take_while(|b| b.is_ascii_alphabetic()).count();
        let word = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        let mut rest = &rest[length..];
        let negative = rest.first() == Some(&b'-');
        let digits = &rest[usize::from(negative)..];
        let count = digits.iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        let mut number = None;
        if count > 0 {
            let value = digits[..count].iter().fold(0i64, |sum, b| sum * 10 + i64::from(b - b'0'));
            number = Some(if negative { -value } else { value });
            rest = &digits[count..];
        }
        rest = rest.strip_prefix(b" ").unwrap_or(rest);
        if word == "bin" {
            let length = usize::try_from(number.unwrap_or(0)).unwrap_or(0);
            return &rest[length.min(rest.len())..];
        }
        self.word(word, number);
        rest
    }

    fn special(&mut self, text: &str) {
        self.flush();
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.show(text);
    }

    fn paragraph(&mut self) {
        self.flush();
        if self.group().destination == Destination::Text {
            self.sink.boundary();
        }
    }

    fn word(&mut self, word: &str, number: Option<i64>) {
        let star = std::mem::take(&mut self.star);
        let on = number != Some(0);
        match word {
            "u" => {
                self.flush();
                self.unicode(number.unwrap_or(0));
                self.skip = self.group().fallback.unwrap_or(1);
                return;
            }
            "uc" => {
                self.group().fallback =
                    Some(number.and_then(|n| usize::try_from(n).ok()).unwrap_or(1).min(64));
                return;
            }
            _ => self.flush(),
        }
        match word {
            "par" | "cell" | "nestcell" | "row" | "nestrow" | "sect" | "page" | "column" => self.paragraph(),
            "line" | "lbr" | "softline" => self.special("\n"),
            "tab" | "emspace" | "enspace" | "qmspace" => self.special(" "),
            "emdash" => self.special("—"),
            "endash" => self.special("–"),
            "bullet" => self.special("•"),
            "lquote" => self.special("‘"),
            "rquote" => self.special("’"),
            "ldblquote" => self.special("“"),
            "rdblquote" => self.special("”"),
            "v" => self.group().hidden = on,
            "plain" => {
                let group = self.group();
                (group.hidden, group.tiny, group.pale) = (false, false, false);
            }
            "fs" => self.group().tiny = number.is_some_and(|size| size <= 2),
            "cf" => {
                let pale =
                    number.and_then(|n| usize::try_from(n).ok()).and_then(|n| self.white.get(n)).copied();
                self.group().pale = pale.unwrap_or(false);
            }
            "ansicpg" => self.code_page = number.and_then(|n| u32::try_from(n).ok()).unwrap_or(1252),
            "mac" => self.code_page = 10_000,
            "pc" => self.code_page = 437,
            "pca" => self.code_page = 850,
            "f" => self.font(number.unwrap_or(0) as i32),
            "fcharset" => {
                if let (Some(font), Some(page)) = (self.font, number.and_then(page_of_charset))
                    && self.fonts.len() < 4096
                {
                    self.fonts.insert(font, page);
                }
            }
            "red" | "green" | "blue" if self.group().destination == Destination::Colours => {
                let bright = number.unwrap_or(0) >= 0xf5;
                self.colour = (Some(self.colour.0.unwrap_or(true) && bright), true);
            }
            _ => self.destination(word, star),
        }
    }

    fn font(&mut self, number: i32) {
        if self.group().destination == Destination::Fonts {
            self.font = Some(number);
        } else {
            let page = self.fonts.get(&number).copied();
            self.group().code_page = page;
        }
    }

    fn destination(&mut self, word: &str, star: bool) {
        let destination = match word {
            "fonttbl" => Destination::Fonts,
            "colortbl" => Destination::Colours,
            "fldinst" => Destination::Unseen,
            "objdata" => Destination::Object,
            "stylesheet" | "info" | "pict" | "listtable" | "listoverridetable" | "filetbl" | "revtbl"
            | "xmlnstbl" | "bkmkstart" | "bkmkend" | "atnid" | "atnauthor" | "atntime" | "atnref"
            | "atndate" | "pntext" | "panose" | "falt" | "fname" | "objclass" | "objname" | "sp" => {
                Destination::Nothing
            }
            // Optional, and still what is read: comments, text in shapes.
            "annotation" | "shpinst" | "shptxt" | "shp" | "footnote" | "nesttableprops" => return,
            _ if star => Destination::Nothing,
            _ => return,
        };
        let group = self.group();
        if group.destination != Destination::Nothing {
            group.destination = destination;
        }
    }

    fn unicode(&mut self, number: i64) {
        if !matches!(self.group().destination, Destination::Text | Destination::Unseen) {
            return;
        }
        // Written as a signed number of 16 bits; some write larger ones as they are.
        let code = if number < 0 { number + 0x1_0000 } else { number };
        let Ok(code) = u32::try_from(code) else { return };
        let c = match (self.high.take(), code) {
            (_, 0xd800..0xdc00) => {
                self.high = Some(code as u16);
                return;
            }
            (Some(high), 0xdc00..0xe000) => {
                char::from_u32(0x1_0000 + ((u32::from(high) - 0xd800) << 10) + (code - 0xdc00))
            }
            _ => char::from_u32(code),
        };
        if let Some(c) = c {
            self.show(c.encode_utf8(&mut [0; 4]));
        }
    }
}

fn page_of_charset(charset: i64) -> Option<u32> {
    Some(match charset {
        77 => 10_000,
        128 => 932,
        129 => 949,
        130 => 1361,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        254 => 437,
        255 => 850,
        _ => return None,
    })
}

pub(super) fn label(page: u32) -> String {
    match page {
        932 => "shift_jis".into(),
        936 => "gbk".into(),
        949 | 1361 => "euc-kr".into(),
        950 => "big5".into(),
        874 => "windows-874".into(),
        10_000 => "macintosh".into(),
        65_001 => "utf-8".into(),
        437 | 850 | 852 | 855 | 857 | 858 | 860..=866 => format!("ibm{page}"),
        page => format!("windows-{page}"),
    }
}
