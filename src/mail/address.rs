//! Addresses as SMTP writes them (RFC 5321 section 4.1.2, RFC 6531), parsed once at the edge.
//!
//! A [`Mailbox`] keeps every octet its author wrote, since the local part is nobody's business but
//! the final host's. Domains compare in ASCII form, so `bücher.example` equals
//! `xn--bcher-kva.example`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Octets of a local part (RFC 5321 section 4.5.3.1.1).
const MAX_LOCAL: usize = 64;
/// Octets of a domain (RFC 5321 section 4.5.3.1.2).
const MAX_DOMAIN: usize = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("there is no @ between a local part and a domain")]
    NoAt,
    #[error("the local part is empty, too long (64 octets) or has a character that needs quotes")]
    BadLocalPart,
    #[error("the domain is not a host name")]
    BadDomain,
    #[error("the address literal is not an IP address")]
    BadLiteral,
}

/// A domain name. Compares, orders and hashes by its lower-case ASCII (punycode) form.
#[derive(Clone)]
pub struct Domain {
    written: Box<str>,
    ascii: Box<str>,
}

impl Domain {
    /// Parses a host name, ASCII or internationalised; a trailing dot is not allowed.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() || text.len() > MAX_DOMAIN || text.ends_with('.') {
            return Err(AddressError::BadDomain);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(text).map_err(|_| AddressError::BadDomain)?
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if ascii.len() > MAX_DOMAIN || !ascii.split('.').all(label) {
            return Err(AddressError::BadDomain);
        }
        Ok(Self { written: text.into(), ascii: ascii.into() })
    }

    /// The form that compares and that DNS knows: lower case, punycode.
    pub fn ascii(&self) -> &str {
        &self.ascii
    }

    /// The form its author wrote.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether this is `parent` or one of its subdomains.
    pub fn is_within(&self, parent: &Domain) -> bool {
        self.ascii.strip_suffix(parent.ascii()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.ascii == other.ascii
    }
}
impl Eq for Domain {}
impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ascii.hash(state);
    }
}
impl PartialOrd for Domain {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Domain {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ascii.cmp(&other.ascii)
    }
}

/// Where a mailbox lives: a domain, or an address literal such as `[192.0.2.25]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Domain(Domain),
    Literal(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Result<Self, AddressError> {
        let Some(inner) = text.strip_prefix('[') else {
            return Domain::parse(text).map(Host::Domain);
        };
        let inner = inner.strip_suffix(']').ok_or(AddressError::BadLiteral)?;
        let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        match v6 {
            Some(_) => inner[5..].parse::<Ipv6Addr>().map(IpAddr::from),
            None => inner.parse::<Ipv4Addr>().map(IpAddr::from),
        }
        .map(Host::Literal)
        .map_err(|_| AddressError::BadLiteral)
    }

    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        }
    }
}

/// `local@host`, every octet as it was written (quotes of a quoted local part included).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    local: Box<str>,
    host: Host,
}

impl Mailbox {
    /// The local part as written; case matters to its host alone.
    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain, unless the host is an address literal.
    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Whether this address needs SMTPUTF8 on the wire (RFC 6531 section 3.3).
    pub fn needs_utf8(&self) -> bool {
        !self.local.is_ascii() || matches!(&self.host, Host::Domain(d) if !d.as_str().is_ascii())
    }

    /// The form in which addresses of users and rules compare: local part case-folded, domain ASCII.
    pub fn folded(&self) -> String {
        let local = self.local.to_lowercase();
        match &self.host {
            Host::Domain(domain) => format!("{local}@{}", domain.ascii()),
            Host::Literal(_) => format!("{local}@{}", self.host),
        }
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let at = split_at_sign(text).ok_or(AddressError::NoAt)?;
        let (local, host) = (&text[..at], &text[at + 1..]);
        let valid = if local.starts_with('"') { is_quoted(local) } else { is_dot_string(local) };
        if local.len() > MAX_LOCAL || !valid {
            return Err(AddressError::BadLocalPart);
        }
        Ok(Self { local: local.into(), host: Host::parse(host)? })
    }
}

/// The @ that ends the local part: the first outside quotes.
fn split_at_sign(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        return text.find('@');
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (text.as_bytes().get(at + 1) == Some(&b'@')).then_some(at + 1),
            _ => {}
        }
    }
    None
}

fn is_dot_string(local: &str) -> bool {
    let atext = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    local.split('.').all(|atom| {
        !atom.is_empty() && atom.chars().all(|c| atext(c) && !c.is_control() && !c.is_whitespace())
    })
}

fn is_quoted(local: &str) -> bool {
    // Its end was found by `split_at_sign`; what is between the quotes is printable ASCII or UTF-8.
    local.len() >= 2 && local.ends_with('"') && !local.chars().any(char::is_control)
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Domain);
as_text!(Mailbox);

impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Domain::parse(text)
    }
}
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}
impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Domain(domain) => f.write_str(domain.as_str()),
            Host::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Host::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_every_octet_and_domains_compare_in_ascii() {
        for text in [
            "MiXeD@Example.ORG",
            "a+b=c/d{e}!#$%&*?^_@x.example",
            "\"a@b\"@d.example",
            "\"q\\\"uote\"@d.example",
            "u@[192.0.2.25]",
            "u@[IPv6:2001:db8::25]",
            "jürgen@bücher.example",
        ] {
            assert_eq!(text.parse::<Mailbox>().unwrap().to_string(), text);
        }
        let written: Mailbox = "a@bücher.example".parse().unwrap();
        let ascii: Mailbox = "a@xn--bcher-kva.example".parse().unwrap();
        assert_eq!(written, ascii);
        assert!(written.needs_utf8() && !ascii.needs_utf8());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            ".a@b",
            "a..b@c",
            "a@-b",
            "a@b.",
            "a@[1.2.3]",
            "a@[IPv6:zz]",
            "a\u{1}@b",
            "\"a@b",
            "\"a\"x@b",
            "a@b c",
            "a\0@b",
            "a\u{7f}@b.example",
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn subdomains_belong_to_their_parent_and_lookalikes_do_not() {
        let parent = Domain::parse("solarmora.com").unwrap();
        assert!(Domain::parse("mail.Solarmora.com").unwrap().is_within(&parent));
        assert!(parent.is_within(&parent));
        assert!(!Domain::parse("notsolarmora.com").unwrap().is_within(&parent));
    }
}
