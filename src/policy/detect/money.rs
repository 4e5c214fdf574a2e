//! Card numbers and bank accounts.

use super::Form;
use super::checks::{all_alike, luhn, mod_97, number};
use super::tokens::{Gap, Run};

/// A card number: a known network, the length it issues, groups as cards show them, Luhn.
pub(super) fn card(run: &Run<'_>) -> Option<Form> {
    if !run.is_digits() || !issued(run.text) || !is_card_grouping(run) || all_alike(run.text) {
        return None;
    }
    Some(if luhn(run.text) { Form::Holds } else { Form::Looks })
}

/// Whether a network issues numbers of this beginning and length.
fn issued(text: &str) -> bool {
    let head = |digits: usize| text.get(..digits).and_then(number).unwrap_or(0);
    let length = text.len();
    let (two, three, four, six) = (head(2), head(3), head(4), head(6));
    // Visa
    (two / 10 == 4 && matches!(length, 13 | 16 | 19))
        // Mastercard
        || (length == 16 && (matches!(two, 51..=55) || matches!(four, 2221..=2720)))
        // American Express
        || (length == 15 && matches!(two, 34 | 37))
        // Diners Club
        || (matches!(length, 14 | 16..=19) && (matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39)))
        // Discover
        || (matches!(length, 16..=19) && (four == 6011 || matches!(three, 644..=649) || two == 65))
        // UnionPay
        || (matches!(length, 16..=19) && (two == 62 || two == 81))
        // JCB
        || (matches!(length, 16..=19) && matches!(four, 3528..=3589))
        // Mir
        || (matches!(length, 16..=19) && matches!(four, 2200..=2204))
        // RuPay, Dankort, Troy, Elo, Hipercard, Verve
        || (length == 16
            && (matches!(two, 60 | 82) || matches!(four, 5019 | 5041 | 5066 | 5067 | 6362 | 6363 | 9792)
                || matches!(three, 508 | 509)
                || six == 606_282))
        || (matches!(length, 16 | 18 | 19) && matches!(six, 506_099..=506_198 | 650_002..=650_027))
        // Maestro
        || (matches!(length, 12..=19)
            && matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761 | 6762 | 6763))
}

/// Written in one piece, in groups of the same size (the last may be shorter), or as Amex and Diners do.
fn is_card_grouping(run: &Run<'_>) -> bool {
    let groups: Vec<usize> = run.groups().collect();
    let Some((last, others)) = groups.split_last() else { return false };
    if others.is_empty() || matches!(groups[..], [4, 6, 4 | 5]) {
        return true;
    }
    let size = others[0];
    if others.iter().any(|one| *one != size) || *last > size {
        return size == 6 && groups.len() == 2;
    }
    if size >= 4 {
        return true;
    }
    // Small groups are a table of numbers unless the same thing is between them and none follows.
    let same = run.tokens[1..].iter().all(|token| token.gap == run.tokens[1].gap);
    let ends = run.next.is_none_or(|next| next.gap != run.tokens[1].gap || !next.digits);
    same && ends && matches!(run.tokens[1].gap, Gap::Blank | Gap::Tight(_))
}

/// Lengths of IBANs by country (SWIFT registry, and the countries that use the form without entry).
const IBAN: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AO", 25),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BF", 28),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BJ", 28),
    ("BR", 29),
    ("BY", 28),
    ("CF", 27),
    ("CG", 27),
    ("CH", 21),
    ("CI", 28),
    ("CM", 27),
    ("CR", 22),
    ("CV", 25),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("DZ", 26),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GA", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GQ", 27),
    ("GR", 27),
    ("GT", 28),
    ("GW", 25),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IR", 26),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KM", 27),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MA", 28),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MG", 27),
    ("MK", 19),
    ("ML", 28),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("MZ", 25),
    ("NE", 28),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SN", 28),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TD", 27),
    ("TG", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

pub(super) fn iban(run: &Run<'_>) -> Option<Form> {
    let country = run.text.get(..2)?;
    let (_, length) = IBAN[IBAN.binary_search_by_key(&country, |(country, _)| country).ok()?];
    let check = run.text.get(2..4)?;
    if run.text.len() != length || number(check).is_none() || !check.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Words of prose that happen to add up to the length are not written in fours.
    let regular =
        run.groups().all(|group| group <= 4) || run.tokens.len() <= 2 || run.tokens[0].flat.len() == 4;
    let rest = run.text.bytes().skip(4).chain(run.text.bytes().take(4));
    match mod_97(rest) {
        Some(1) => Some(Form::Holds),
        _ if regular && run.text[4..].bytes().filter(u8::is_ascii_digit).count() > 5 => Some(Form::Looks),
        _ => None,
    }
}
