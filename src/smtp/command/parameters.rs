//! The parameters of MAIL and RCPT, each checked by its own RFC, each at most once.

use crate::mail::envelope::{BodyType, Notify, Ret, Sender};

use super::{BLANK, CommandError};

/// Octets of ENVID (RFC 3461 section 4.4) and ORCPT (section 4.2).
const MAX_ENVID: usize = 100;
const MAX_ORCPT: usize = 500;

/// Reads what follows the path of MAIL into `sender`; the answer is SIZE.
pub(super) fn of_mail(text: &str, sender: &mut Sender) -> Result<Option<u64>, CommandError> {
    let mut size = None;
    let mut body = None;
    let mut submitter = None;
    for (key, value) in pairs(text) {
        if key.eq_ignore_ascii_case("SIZE") {
            once("SIZE", &mut size, value.and_then(octets))?;
        } else if key.eq_ignore_ascii_case("BODY") {
            once("BODY", &mut body, value.and_then(body_type))?;
        } else if key.eq_ignore_ascii_case("SMTPUTF8") {
            let mut given = sender.smtputf8.then_some(());
            once("SMTPUTF8", &mut given, value.is_none().then_some(()))?;
            sender.smtputf8 = true;
        } else if key.eq_ignore_ascii_case("REQUIRETLS") {
            let mut given = sender.require_tls.then_some(());
            once("REQUIRETLS", &mut given, value.is_none().then_some(()))?;
            sender.require_tls = true;
        } else if key.eq_ignore_ascii_case("RET") {
            once("RET", &mut sender.ret, value.and_then(ret))?;
        } else if key.eq_ignore_ascii_case("ENVID") {
            let envid = value.filter(|text| text.len() <= MAX_ENVID && is_xtext(text));
            once("ENVID", &mut sender.envid, envid.map(str::to_owned))?;
        } else if key.eq_ignore_ascii_case("AUTH") {
            // Who first submitted the message (RFC 4954 section 5). Nobody here trusts a client to say that, so
            // it counts as `<>`, which is what the RFC asks for then.
            let fine = value.filter(|text| {
                text.len() <= MAX_ORCPT && (*text == "<>" || (!text.is_empty() && is_xtext(text)))
            });
            once("AUTH", &mut submitter, fine.map(|_| ()))?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    sender.body = body.unwrap_or_default();
    Ok(size)
}

/// Reads what follows the path of RCPT: NOTIFY and ORCPT.
pub(super) fn of_rcpt(text: &str) -> Result<(Notify, Option<String>), CommandError> {
    let mut notify = None;
    let mut original = None;
    for (key, value) in pairs(text) {
        if key.eq_ignore_ascii_case("NOTIFY") {
            once("NOTIFY", &mut notify, value.and_then(notifications))?;
        } else if key.eq_ignore_ascii_case("ORCPT") {
            once("ORCPT", &mut original, value.filter(|text| is_orcpt(text)).map(str::to_owned))?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok((notify.unwrap_or_default(), original))
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(BLANK).filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    })
}

/// Fills an empty `slot` with a valid `value`.
fn once<T>(name: &'static str, slot: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    if slot.is_some() || value.is_none() {
        return Err(CommandError::Parameter(name));
    }
    *slot = value;
    Ok(())
}

/// Up to 20 digits (RFC 1870 section 4); more than fits is more than any limit.
pub(super) fn octets(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn body_type(text: &str) -> Option<BodyType> {
    if text.eq_ignore_ascii_case("7BIT") {
        Some(BodyType::SevenBit)
    } else if text.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyType::EightBitMime)
    } else {
        None
    }
}

fn ret(text: &str) -> Option<Ret> {
    if text.eq_ignore_ascii_case("FULL") {
        Some(Ret::Full)
    } else if text.eq_ignore_ascii_case("HDRS") {
        Some(Ret::Headers)
    } else {
        None
    }
}

fn notifications(text: &str) -> Option<Notify> {
    if text.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in text.split(',') {
        let which = match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => &mut success,
            _ if word.eq_ignore_ascii_case("FAILURE") => &mut failure,
            _ if word.eq_ignore_ascii_case("DELAY") => &mut delay,
            _ => return None,
        };
        *which = true;
    }
    Some(Notify::On { success, failure, delay })
}

/// `addr-type;address` (RFC 3461 section 4.2). The type `utf-8` also takes UTF-8 (RFC 6533 section 3).
fn is_orcpt(text: &str) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let atom = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    let address_is_fine = if kind.eq_ignore_ascii_case("utf-8") {
        address.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '=')
    } else {
        is_xtext(address)
    };
    text.len() <= MAX_ORCPT
        && !kind.is_empty()
        && kind.bytes().all(atom)
        && !address.is_empty()
        && address_is_fine
}

/// RFC 3461 section 4: printable ASCII but `+` and `=`, and `+` with two upper-case hex digits. It is
/// decoded into the fields of reports, so it must not stand for a control character either.
fn is_xtext(text: &str) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let fine = match octet {
            b'+' => {
                let mut digit =
                    || octets.next().filter(|d| !d.is_ascii_lowercase()).map(char::from)?.to_digit(16);
                matches!((digit(), digit()), (Some(high), Some(low)) if high * 16 + low >= 32 && high * 16 + low != 127)
            }
            b'=' => false,
            _ => octet.is_ascii_graphic(),
        };
        if !fine {
            return false;
        }
    }
    true
}
