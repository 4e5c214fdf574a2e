//! SPF records as values (RFC 7208): pure. A record that breaks a rule of the grammar is an error as a whole, as
//! receivers see it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub terms: Vec<Term>,
    /// Where evaluation goes on when no term matched.
    pub redirect: Option<Text>,
}

/// A mechanism and what a match of it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub qualifier: Qualifier,
    pub mechanism: Mechanism,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    All,
    Include(Text),
    /// The addresses of a name (default: the domain itself), each widened to these prefix lengths.
    A(Option<Text>, Widths),
    Mx(Option<Text>, Widths),
    Ptr(Option<Text>),
    Net(IpNet),
    Exists(Text),
}

/// Prefix lengths for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    pub v4: u8,
    pub v6: u8,
}

impl Widths {
    /// The network of one address.
    pub fn around(self, address: IpAddr) -> IpNet {
        let net = match address {
            IpAddr::V4(v4) => Ipv4Net::new(v4, self.v4).map(IpNet::V4),
            IpAddr::V6(v6) => Ipv6Net::new(v6, self.v6).map(IpNet::V6),
        };
        net.expect("the widths were read within their bounds").trunc()
    }
}

/// A domain with macros in it (RFC 7208 section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Macro { letter: char, keep: Option<usize>, reverse: bool, escape: bool, delimiters: String },
}

/// What the macros stand for.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub address: Option<IpAddr>,
    /// The domain of the sender, whose local part is `postmaster`.
    pub sender: &'a str,
    /// The domain whose record is evaluated.
    pub domain: &'a str,
    pub helo: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no SPF term")]
pub struct Unreadable(pub String);

/// Whether a TXT record claims to be SPF.
pub fn is_record(text: &str) -> bool {
    let version = text.get(..6).is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"));
    version && matches!(text.as_bytes().get(6), None | Some(b' '))
}

/// Reads a record.
pub fn read(text: &str) -> Result<Record, Unreadable> {
    let mut record = Record::default();
    let (mut redirects, mut explanations) = (0, 0);
    for word in text.split(' ').skip(1).filter(|word| !word.is_empty()) {
        let bad = || Unreadable(word.to_owned());
        if let Some((name, value)) = modifier(word) {
            match name.to_ascii_lowercase().as_str() {
                "redirect" => {
                    redirects += 1;
                    record.redirect = Some(domain_text(value).ok_or_else(bad)?);
                }
                "exp" => {
                    explanations += 1;
                    domain_text(value).ok_or_else(bad)?;
                }
                _ => drop(pieces(value).ok_or_else(bad)?),
            }
            if redirects > 1 || explanations > 1 {
                return Err(bad());
            }
            continue;
        }
        record.terms.push(term(word).ok_or_else(bad)?);
    }
    Ok(record)
}

/// `name=value`, where the name is not that of a mechanism with an argument.
fn modifier(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    (first && rest).then_some((name, value))
}

fn term(word: &str) -> Option<Term> {
    let (qualifier, rest) = match word.as_bytes().first()? {
        b'+' => (Qualifier::Pass, &word[1..]),
        b'-' => (Qualifier::Fail, &word[1..]),
        b'~' => (Qualifier::SoftFail, &word[1..]),
        b'?' => (Qualifier::Neutral, &word[1..]),
        _ => (Qualifier::Pass, word),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, argument) = rest.split_at(end);
    let value = argument.strip_prefix(':');
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if argument.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(domain_text(value?)?),
        "exists" => Mechanism::Exists(domain_text(value?)?),
        "ptr" if argument.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(domain_text(value?)?)),
        "a" => {
            let (name, widths) = widened(argument)?;
            Mechanism::A(name, widths)
        }
        "mx" => {
            let (name, widths) = widened(argument)?;
            Mechanism::Mx(name, widths)
        }
        "ip4" => Mechanism::Net(network::<Ipv4Addr>(value?, 32)?),
        "ip6" => Mechanism::Net(network::<Ipv6Addr>(value?, 128)?),
        _ => return None,
    };
    Some(Term { qualifier, mechanism })
}

fn network<A: std::str::FromStr + Into<IpAddr>>(text: &str, most: u8) -> Option<IpNet> {
    let (address, width) =
        text.split_once('/').map_or((text, None), |(address, width)| (address, Some(width)));
    let address: A = address.parse().ok()?;
    let width = width.map_or(Some(most), |width| prefix(width, most))?;
    IpNet::new(address.into(), width).ok().map(|net| net.trunc())
}

/// A prefix length: digits without a leading zero.
fn prefix(text: &str, most: u8) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|width| plain && *width <= most)
}

/// `[:name][/v4][//v6]`.
fn widened(argument: &str) -> Option<(Option<Text>, Widths)> {
    let mut widths = Widths { v4: 32, v6: 128 };
    let mut rest = argument;
    if let Some((before, v6)) = rest.rsplit_once("//") {
        widths.v6 = prefix(v6, 128)?;
        rest = before;
    }
    // A slash inside a macro is none of ours.
    let after = rest.rfind('}').map_or(0, |at| at + 1);
    if let Some(at) = rest[after..].rfind('/') {
        widths.v4 = prefix(&rest[after + at + 1..], 32)?;
        rest = &rest[..after + at];
    }
    match rest.strip_prefix(':') {
        Some(name) => Some((Some(domain_text(name)?), widths)),
        None if rest.is_empty() => Some((None, widths)),
        None => None,
    }
}

/// A text that is not empty and ends like a domain.
fn domain_text(text: &str) -> Option<Text> {
    let pieces = pieces(text)?;
    let ends_well = match pieces.last()? {
        Piece::Macro { .. } => true,
        Piece::Plain(plain) => {
            let label = plain.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            label.is_empty() || label.bytes().any(|b| !b.is_ascii_digit())
        }
    };
    ends_well.then_some(Text(pieces))
}

fn pieces(text: &str) -> Option<Vec<Piece>> {
    let mut found: Vec<Piece> = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c != '%' {
            if !c.is_ascii_graphic() {
                return None;
            }
            plain.push(c);
            rest = &rest[1..];
            continue;
        }
        match rest.as_bytes().get(1)? {
            b'%' => plain.push('%'),
            b'_' => plain.push(' '),
            b'-' => plain.push_str("%20"),
            b'{' => {
                let end = rest.find('}')?;
                if !plain.is_empty() {
                    found.push(Piece::Plain(std::mem::take(&mut plain)));
                }
                found.push(expansion(&rest[2..end])?);
                rest = &rest[end + 1..];
                continue;
            }
            _ => return None,
        }
        rest = &rest[2..];
    }
    if !plain.is_empty() {
        found.push(Piece::Plain(plain));
    }
    Some(found)
}

fn expansion(inner: &str) -> Option<Piece> {
    let written = inner.chars().next()?;
    let letter = written.to_ascii_lowercase();
    // c, r and t are for explanations alone.
    if !"slodipvh".contains(letter) {
        return None;
    }
    let rest = &inner[1..];
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let keep = match &rest[..digits] {
        "" => None,
        digits => Some(digits.parse().ok().filter(|keep| *keep > 0)?),
    };
    let rest = &rest[digits..];
    let reverse = rest.starts_with(['r', 'R']);
    let delimiters = if reverse { &rest[1..] } else { rest };
    let known = delimiters.chars().all(|c| ".-+,/_=".contains(c));
    let delimiters = if delimiters.is_empty() { "." } else { delimiters };
    known.then(|| Piece::Macro {
        letter,
        keep,
        reverse,
        escape: written.is_ascii_uppercase(),
        delimiters: delimiters.to_owned(),
    })
}

impl Text {
    /// Whether it is the same for every address and sender.
    pub fn is_fixed(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Plain(_) | Piece::Macro { letter: 'd', .. }))
    }

    /// The name it stands for, shortened from the left to what DNS takes.
    pub fn expand(&self, values: Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Macro { letter, keep, reverse, escape, delimiters } => {
                    let value = values.of(*letter);
                    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
                    if *reverse {
                        parts.reverse();
                    }
                    let from = keep.map_or(0, |keep| parts.len().saturating_sub(keep));
                    let joined = parts[from..].join(".");
                    if *escape { escaped(&joined, &mut out) } else { out.push_str(&joined) }
                }
            }
        }
        let mut name = out.trim_end_matches('.');
        while name.len() > 253 {
            let Some((_, shorter)) = name.split_once('.') else { break };
            name = shorter;
        }
        name.to_ascii_lowercase()
    }
}

fn escaped(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl Values<'_> {
    fn of(&self, letter: char) -> String {
        match letter {
            's' => format!("postmaster@{}", self.sender),
            'l' => "postmaster".to_owned(),
            'o' => self.sender.to_owned(),
            'd' => self.domain.to_owned(),
            'i' => match self.address {
                Some(IpAddr::V4(v4)) => v4.to_string(),
                Some(IpAddr::V6(v6)) => {
                    let nibbles = v6.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
                    nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
                }
                None => String::new(),
            },
            'v' if matches!(self.address, Some(IpAddr::V6(_))) => "ip6".to_owned(),
            'v' => "in-addr".to_owned(),
            'h' => self.helo.to_owned(),
            // `p` should not be used; who cannot validate a name writes this (RFC 7208 section 7.3).
            _ => "unknown".to_owned(),
        }
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Qualifier::Pass => "pass",
            Qualifier::Fail => "fail",
            Qualifier::SoftFail => "softfail",
            Qualifier::Neutral => "neutral",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(address: &str) -> Values<'static> {
        Values {
            address: Some(address.parse().unwrap()),
            sender: "email.example.com",
            domain: "email.example.com",
            helo: "gw.example.com",
        }
    }

    fn expanded(text: &str, address: &str) -> Option<String> {
        domain_text(text).map(|text| text.expand(values(address)))
    }

    /// The examples of RFC 7208 section 7.4, with the sender postmaster.
    #[test]
    fn macros_expand_as_the_standard_shows() {
        for (text, expected) in [
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}.x", "postmaster.x"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{S}.x", "postmaster%40email.example.com.x".to_ascii_lowercase().as_str()),
            ("%{h}", "gw.example.com"),
            ("%{p}.x", "unknown.x"),
        ] {
            assert_eq!(expanded(text, "192.0.2.3").as_deref(), Some(expected), "{text}");
        }
        let v6 = expanded("%{ir}.%{v}._spf.%{d2}", "2001:db8::cb01").unwrap();
        assert!(
            v6.starts_with("1.0.b.c.0.0.") && v6.ends_with(".8.b.d.0.1.0.0.2.ip6._spf.example.com"),
            "{v6}"
        );
        for bad in ["%{x}", "%{c}", "%{d", "%x", "%{d0}", "%{d!}", "a b"] {
            assert_eq!(expanded(bad, "192.0.2.3"), None, "{bad}");
        }
    }

    #[test]
    fn terms_are_read_or_refused_as_a_whole() {
        let record = read(
            "v=spf1 +a/24//64 mx:x.example/28 ip4:192.0.2.1 -ip6:2001:db8::/32 ?ptr exists:%{i}.x \
                           include:_spf.example.com redirect=other.example ~all x=%{d}",
        )
        .unwrap();
        assert_eq!(record.terms.len(), 8);
        assert_eq!(record.terms[0].mechanism, Mechanism::A(None, Widths { v4: 24, v6: 64 }));
        assert_eq!(record.terms[2].mechanism, Mechanism::Net("192.0.2.1/32".parse().unwrap()));
        assert!(record.redirect.is_some());
        for bad in [
            "v=spf1 ipv4:192.0.2.1",
            "v=spf1 ip4:192.0.2.0/33",
            "v=spf1 ip4:192.0.2.0/024",
            "v=spf1 include",
            "v=spf1 include:",
            "v=spf1 all:x",
            "v=spf1 redirect=a.b redirect=c.d",
            "v=spf1 ip6:192.0.2.1",
            "v=spf1 a:/24",
            "v=spf1 exists",
            "v=spf1 -",
            "v=spf1 include:1.2.3.4",
            "v=spf1 mx/",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for (text, expected) in
            [("v=spf1", true), ("V=SPF1 all", true), ("v=spf10 all", false), ("spf", false)]
        {
            assert_eq!(is_record(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "v=spf1 [ -~]{0,80}") {
            if let Ok(record) = read(&text) {
                for term in record.terms {
                    if let Mechanism::Include(text) | Mechanism::Exists(text) = term.mechanism {
                        let _ = text.expand(values("2001:db8::1"));
                    }
                }
            }
        }
    }
}
