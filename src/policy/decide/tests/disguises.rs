//! More ways to hide a word, each beside a message that differs in nothing but the meaning. What mail clients
//! undo is in [`super::evasion`]; here are scripts, options and texts as people write them.

use super::super::super::testing::*;
use super::*;

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Html,
    /// A raw Subject.
    Subject,
    /// A whole body after this Content-Type line.
    Typed(&'static str),
}
use Kind::{Html, Plain, Subject, Typed};

fn message(kind: Kind, text: &str) -> Vec<u8> {
    let from = "From: a@solarmora.com\r\nTo: b@rcpt.example\r\n";
    match kind {
        Subject => format!("{from}Subject: {text}\r\n\r\nx\r\n"),
        Plain => format!("{from}Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"),
        Html => format!("{from}Subject: x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{text}\r\n"),
        Typed(head) => format!("{from}Subject: x\r\nMIME-Version: 1.0\r\n{head}\r\n\r\n{text}\r\n"),
    }
    .into_bytes()
}

/// (name, word, kind, what must be found, its harmless twin)
const DEFAULT: &[(&str, &str, Kind, &str, &str)] = &[
    // Latin letters in other clothes
    ("full-width", "secret", Plain, "ｓｅｃｒｅｔ", "ｓｅｌｅｃｔ"),
    ("full-width capitals in the subject", "secret", Subject, "ＳＥＣＲＥＴ", "ＳＥＬＥＣＴ"),
    ("mathematical bold", "secret", Plain, "𝐬𝐞𝐜𝐫𝐞𝐭", "𝐬𝐞𝐥𝐞𝐜𝐭"),
    ("mathematical fraktur", "secret", Plain, "𝔰𝔢𝔠𝔯𝔢𝔱", "𝔰𝔢𝔩𝔢𝔠𝔱"),
    ("mathematical monospace capitals", "secret", Plain, "𝚂𝙴𝙲𝚁𝙴𝚃", "𝚂𝙴𝙻𝙴𝙲𝚃"),
    ("double-struck", "secret", Html, "<b>𝕤𝕖𝕔𝕣𝕖𝕥</b>", "<b>𝕤𝕖𝕝𝕖𝕔𝕥</b>"),
    ("circled letters", "secret", Plain, "ⓢⓔⓒⓡⓔⓣ", "ⓢⓔⓛⓔⓒⓣ"),
    ("superscript letters", "hello", Plain, "ʰᵉˡˡᵒ", "ʰᵉˡᵈᵒ"),
    ("script letters", "secret", Plain, "𝓼𝓮𝓬𝓻𝓮𝓽", "𝓼𝓮𝓵𝓮𝓬𝓽"),
    ("ligature fi", "confidential", Plain, "conﬁdential", "conﬁdent"),
    ("ligature ffi", "official", Plain, "oﬃcial", "oﬃce"),
    ("ligature st", "stolen", Plain, "ﬆolen", "ﬆolid"),
    ("digraph dz", "dzban", Plain, "ǳban", "ǳbanek"),
    ("long s", "secret", Plain, "ſecret", "ſelect"),
    ("kelvin sign", "kiosk", Plain, "\u{212a}ios\u{212a}", "\u{212a}ioske"),
    ("angstrom sign", "ångström", Plain, "\u{212b}ngström", "\u{212b}ngströms"),
    ("roman numeral", "vii", Plain, "Ⅶ", "Ⅷ"),
    ("sharp s in capitals", "straße", Plain, "STRAẞE", "STRAẞEN"),
    ("sharp s as ss", "straße", Subject, "STRASSE", "STRASSEN"),
    ("umlaut taken apart", "größe", Plain, "gro\u{308}ße", "gro\u{308}ßer"),
    ("two marks in another order", "ǭx", Plain, "o\u{304}\u{328}x", "o\u{304}\u{328}y"),
    // Invisible characters
    ("word joiner", "secret", Plain, "sec\u{2060}ret", "sel\u{2060}ect"),
    ("zero-width no-break space", "secret", Plain, "se\u{feff}cret", "se\u{feff}lect"),
    ("combining grapheme joiner", "secret", Plain, "se\u{34f}cret", "se\u{34f}lect"),
    ("invisible times", "secret", Plain, "sec\u{2062}ret", "sel\u{2062}ect"),
    ("left-to-right marks", "secret", Plain, "s\u{200e}e\u{200e}cret", "s\u{200e}e\u{200e}lect"),
    ("isolates", "secret", Plain, "\u{2066}sec\u{2069}ret", "\u{2066}sel\u{2069}ect"),
    ("hangul filler", "secret", Plain, "sec\u{3164}ret", "sel\u{3164}ect"),
    ("variation selector supplement", "secret", Plain, "sec\u{e0100}ret", "sel\u{e0100}ect"),
    ("tag characters", "secret", Plain, "sec\u{e0062}ret", "sel\u{e0062}ect"),
    (
        "soft hyphen at every place",
        "secret",
        Plain,
        "s\u{ad}e\u{ad}c\u{ad}r\u{ad}e\u{ad}t",
        "s\u{ad}e\u{ad}l\u{ad}e\u{ad}c\u{ad}t",
    ),
    ("mongolian vowel separator", "secret", Plain, "sec\u{180e}ret", "sel\u{180e}ect"),
    // Bidi
    ("right-to-left override", "secret", Plain, "\u{202e}terces\u{202c}", "\u{202e}tceles\u{202c}"),
    ("override in HTML", "secret", Html, "<p>\u{202e}terces</p>", "<p>\u{202e}tceles</p>"),
    ("hebrew with marks of direction", "סודי", Plain, "\u{200f}סו\u{200f}די", "\u{200f}סו\u{200f}דיות"),
    ("hebrew word", "סודי", Subject, "מסמך סודי מאוד", "מסמך סודיות מאוד"),
    // Arabic
    ("arabic tatweel", "ممنوع", Plain, "ممـــنوع", "ممـــنوعات"),
    ("arabic presentation forms", "سلام", Plain, "ﺳﻼﻡ", "ﺳﻼﻣﺔ"),
    ("arabic marks of presentation", "مَن", Plain, "مﹷن", "مﹷنا"),
    ("persian beside a zero-width joiner", "محرمانه", Plain, "محر\u{200d}مانه", "محر\u{200d}مانگی"),
    // Scripts of India
    ("devanagari nukta taken apart", "क़लम", Plain, "क\u{93c}लम", "क\u{93c}लमदान"),
    ("devanagari with joiner", "गोपनीय", Plain, "गोप\u{200d}नीय", "गोप\u{200d}नीयता"),
    ("tamil vowel taken apart", "கொடி", Plain, "க\u{bc6}\u{bbe}டி", "க\u{bc6}\u{bbe}டிகள்"),
    ("bengali", "গোপন", Subject, "এটা গোপন কথা", "এটা গোপনীয় কথা"),
    // Scripts without blanks
    ("chinese inside a sentence", "机密", Plain, "这是机密文件", "这是机器文件"),
    ("japanese katakana half-width", "カード", Plain, "ｶｰﾄﾞ番号", "ｶｰﾄ番号"),
    ("japanese in the subject", "社外秘", Subject, "【社外秘】資料", "【社外】資料"),
    ("chinese with invisible filler", "机密", Plain, "机\u{200b}密", "机\u{200b}器"),
    ("chinese split by tags", "机密", Html, "<span>机</span><span>密</span>", "<span>机</span><p>密</p>"),
    ("kangxi radical", "人民", Plain, "⼈民", "⼊民"),
    ("thai inside a sentence", "ลับ", Plain, "เอกสารลับมาก", "เอกสารลาบมาก"),
    ("khmer", "សម្ងាត់", Plain, "ឯកសារសម្ងាត់ណាស់", "ឯកសារសាធារណៈណាស់"),
    ("korean beside punctuation", "기밀", Plain, "(기밀)문서", "(기밀성)문서"),
    (
        "korean in jamo",
        "기밀",
        Plain,
        "\u{1100}\u{1175}\u{1106}\u{1175}\u{11af}",
        "\u{1100}\u{1175}\u{1106}\u{1175}\u{11ab}",
    ),
    ("latin beside kana", "secret", Plain, "これはsecretです", "これはselectです"),
    // Greek and Cyrillic
    ("greek final sigma", "φάκελος", Plain, "ΦΆΚΕΛΟΣ", "ΦΆΚΕΛΟΙ"),
    ("cyrillic capitals", "секретно", Subject, "СЕКРЕТНО", "СЕКРЕТНОСТЬ"),
    ("cyrillic letters inside a latin word", "secret", Plain, "s\u{435}cr\u{435}t", "s\u{435}l\u{435}ct"),
    ("greek letters inside a latin word", "noon", Plain, "n\u{3bf}\u{3bf}n", "n\u{3bf}\u{3bf}se"),
    ("latin letters inside a cyrillic word", "секрет", Plain, "c\u{435}крет", "c\u{435}крета"),
    // Phrases and punctuation
    (
        "phrase over tabs and no-break spaces",
        "top secret",
        Plain,
        "top\t\u{a0}\u{3000}secret",
        "top\tsecrets",
    ),
    ("phrase over a folded line", "top secret", Plain, "top\r\nsecret", "top\r\n\r\nsecret"),
    ("phrase over inline tags", "top secret", Html, "<b>top</b> <i>sec</i>ret", "<b>top</b><p>secret</p>"),
    ("phrase over a no-break entity", "top secret", Html, "top&nbsp;secret", "top&nbsp;secretary"),
    ("entry with brackets in full width", "[BAD]", Plain, "［ｂａｄ］", "［ｂａｄ"),
    ("entry with dots", "v1.2", Plain, "see V１．２!", "see v1x2!"),
    ("quotes around", "secret", Plain, "„secret“", "„secrets“"),
    ("apostrophe after", "secret", Plain, "secret’s", "secrets’"),
    // HTML
    (
        "decimal entities without end",
        "secret",
        Html,
        "&#115&#101&#99&#114&#101&#116",
        "&#115&#101&#108&#101&#99&#116",
    ),
    ("windows-1252 entities", "œuvre", Html, "&#156;uvre", "&#156;uvres"),
    ("named entities", "café", Html, "caf&eacute;", "caf&eacute;s"),
    ("zero-width entity", "secret", Html, "sec&#8203;ret", "sel&#8203;ect"),
    (
        "white on white",
        "secret",
        Html,
        "<font style='color:#fff'>secret</font>",
        "<font style='color:#fff'>select</font>",
    ),
    ("word break opportunity", "secret", Html, "sec<wbr>ret", "sec<br>ret"),
    ("empty tags", "secret", Html, "s<a></a>e<a></a>cret", "s<td></td>e<td></td>cret"),
    (
        "hidden by size",
        "secret",
        Html,
        "sec<i style='font-size:0px'>zz</i>ret",
        "sec<i style='font-size:12px'>zz</i>ret",
    ),
    ("cdata and comment", "secret", Html, "sec<!--\r\n-->ret", "sec<p>ret"),
    (
        "title",
        "secret",
        Html,
        "<html><head><title>x</title></head><body>secret",
        "<html><head><title>x</title></head><body>select",
    ),
    // Encodings and charsets
    (
        "quoted-printable with soft breaks",
        "secret",
        Typed("Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable"),
        "se=\r\ncr=65t",
        "se=\r\nle=63t",
    ),
    (
        "base64 with blanks",
        "secret",
        Typed("Content-Type: text/plain\r\nContent-Transfer-Encoding: base64"),
        "c2 Vj\r\ncm\tV0",
        "c2 Vs\r\nZW\tN0",
    ),
    (
        "utf-7",
        "geheim!",
        Typed("Content-Type: text/plain; charset=utf-7"),
        "+AGcAZQBoAGUAaQBt-!",
        "+AGcAZQBoAGUAaQBs-!",
    ),
    (
        "charset with quotes and case",
        "über",
        Typed("Content-Type: TEXT/PLAIN; CHARSET=\"UTF-8\""),
        "ÜBER",
        "ÜBERALL",
    ),
    (
        "iso-2022-jp",
        "機密",
        Typed("Content-Type: text/plain; charset=iso-2022-jp"),
        "\u{1b}$B5!L)\u{1b}(B",
        "\u{1b}$B5!3#\u{1b}(B",
    ),
    (
        "format=flowed",
        "top secret",
        Typed("Content-Type: text/plain; format=flowed"),
        "it is top \r\nsecret",
        "it is top \r\nsecrets",
    ),
    (
        "encoded words of two charsets",
        "größe",
        Subject,
        "=?iso-8859-1?q?gr=F6?= =?utf-8?b?w59l?=",
        "=?iso-8859-1?q?gr=F6?= =?utf-8?b?w59lcg==?=",
    ),
    ("underscores of q", "top secret", Subject, "=?us-ascii?q?top_secret?=", "=?us-ascii?q?top=5Fsecret?="),
    ("language in an encoded word", "secret", Subject, "=?utf-8*en?q?sec=72et?=", "=?utf-8*en?q?sel=65ct?="),
    (
        "japanese encoded word",
        "機密",
        Subject,
        "=?iso-2022-jp?B?GyRCNSFMKRsoQg==?=",
        "=?iso-2022-jp?B?GyRCNSEzIxsoQg==?=",
    ),
];

#[test]
fn r053_r055_every_further_disguise_is_seen_through_and_its_twin_passes() {
    let mut wrong = Vec::new();
    for (name, word, kind, found, twin) in DEFAULT {
        let policy = policy(vec![words("w", &[word])]);
        if !rejects(&policy, &message(*kind, found)) {
            wrong.push(format!("{name}: {found} passed"));
        }
        if rejects(&policy, &message(*kind, twin)) {
            wrong.push(format!("{name}: {twin} rejected"));
        }
    }
    assert!(
        DEFAULT.len() >= 60 && wrong.is_empty(),
        "{} of {}\n{}",
        wrong.len(),
        DEFAULT.len(),
        wrong.join("\n")
    );
}

/// What is found only by an option: without it the same message passes.
#[test]
fn r053_options_see_through_more() {
    let none = WordOptions { confusables: Confusables::Disabled, ..WordOptions::default() };
    let all = WordOptions { confusables: Confusables::All, ..none.clone() };
    let mixed = WordOptions { confusables: Confusables::MixedScript, ..none.clone() };
    let accents = WordOptions { ignore_accents: true, ..none.clone() };
    let turkish = WordOptions { turkish: true, ..none.clone() };
    let inside = |word: &str| WordOptions { substrings: vec![word.into()], ..none.clone() };
    let cases = [
        ("digits for letters", all.clone(), "forbidden", "f0rbidden", "f0rbade"),
        ("one for l", all.clone(), "illegal", "i11egal", "i11ega1e"),
        (
            "whole word in another script",
            all.clone(),
            "cop",
            "\u{441}\u{43e}\u{440}",
            "\u{441}\u{43e}\u{43a}",
        ),
        ("mixed scripts", mixed, "paypal", "p\u{430}yp\u{430}l", "p\u{430}yd\u{430}y"),
        ("accents", accents.clone(), "resume", "rÉsumé", "rÉsumés"),
        ("stroke", accents.clone(), "lodz", "Łódź", "Łódźki"),
        ("hebrew points", accents.clone(), "סודי", "ס\u{5d5}\u{5b9}דִי", "ס\u{5d5}\u{5b9}דִית"),
        ("arabic points", accents.clone(), "سري", "سِرِّي", "سِرِّية"),
        ("vietnamese", accents, "bi mat", "bí mật", "bí mậts"),
        ("turkish dotless", turkish.clone(), "sınır", "SINIR", "SINIRI"),
        ("turkish dotted", turkish, "istanbul", "İSTANBUL", "İSTANBULA"),
        ("korean with a particle", inside("기밀"), "기밀", "기밀입니다", "기록입니다"),
        ("inside a longer word", inside("rahasia"), "rahasia", "kerahasiaan", "keramahan"),
    ];
    for (name, options, word, found, twin) in cases {
        let with = |options: &WordOptions| {
            let mut rule = words("w", &[word]);
            rule.content.as_mut().expect("it has words").word_options = options.clone();
            policy(vec![rule])
        };
        assert!(rejects(&with(&options), &message(Plain, found)), "{name}");
        assert!(!rejects(&with(&options), &message(Plain, twin)), "{name}, twin");
        assert!(!rejects(&with(&none), &message(Plain, found)), "{name} needs its option");
    }
}
