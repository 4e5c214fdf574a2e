//! Predefined detectors (spec R58): numbers and keys that should not leave unnoticed.
//!
//! A text is cut once into tokens of letters and digits; every numeric detector tries the runs of
//! tokens that could be its number (form), then checks digits and dates, then looks for a word beside it
//! that names the thing. What has a fixed mark (`@`, `-----BEGIN`, key prefixes) is searched for by that.

mod checks;
mod contacts;
mod ids;
mod money;
mod secrets;
mod tokens;
mod words;

use std::ops::Range;

use self::tokens::{Run, Tokens};
use crate::bundle::document::{Confidence, Detector};

/// Something found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    pub range: Range<usize>,
    pub confidence: Confidence,
    /// The same for every way of writing the same thing.
    pub key: String,
}

/// What a run of tokens is to a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It looks like it; its check digits are wrong, or there are none to tell.
    Looks,
    /// The check digits, or the strict rules of its kind, hold.
    Holds,
    /// Too common a form to count at all without a word beside it.
    NeedsWord,
}

/// A number made of letters and digits in groups.
struct Shape {
    /// Letters and digits, separators not counted.
    lengths: Range<usize>,
    /// Groups it may be written in.
    groups: usize,
    /// Whether parentheses may stand between groups, as in telephone numbers.
    parentheses: bool,
    check: fn(&Run<'_>) -> Option<Form>,
}

fn shape(detector: Detector) -> Option<Shape> {
    let shape = |lengths, groups, check| Some(Shape { lengths, groups, parentheses: false, check });
    match detector {
        Detector::PaymentCard => shape(12..20, 19, money::card),
        Detector::Iban => shape(15..34, 17, money::iban),
        Detector::UsSocialSecurityNumber => shape(9..10, 3, ids::us_social_security),
        Detector::UkNationalInsuranceNumber => shape(9..10, 5, ids::uk_national_insurance),
        Detector::GermanTaxId => shape(11..12, 4, ids::german_tax),
        Detector::FrenchSocialSecurityNumber => shape(15..16, 7, ids::french_social_security),
        Detector::SpanishDni => shape(9..10, 5, ids::spanish_dni),
        Detector::ItalianFiscalCode => shape(16..17, 5, ids::italian_fiscal_code),
        Detector::DutchBsn => shape(8..10, 3, ids::dutch_bsn),
        Detector::SwedishPersonalNumber => shape(10..13, 4, ids::swedish_personal),
        Detector::IndonesianNik => shape(16..17, 5, ids::indonesian_nik),
        Detector::JapaneseMyNumber => shape(12..13, 3, ids::japanese_my_number),
        Detector::ChineseResidentId => shape(18..19, 3, ids::chinese_resident),
        Detector::IndianAadhaar => shape(12..13, 3, ids::indian_aadhaar),
        Detector::BrazilianCpf => shape(11..12, 4, ids::brazilian_cpf),
        Detector::PhoneNumber => {
            Some(Shape { lengths: 7..16, groups: 7, parentheses: true, check: contacts::phone })
        }
        Detector::EmailAddress | Detector::PrivateKey | Detector::AccessKey => None,
    }
}

/// The name of a detector, as its author writes it.
pub const fn name(detector: Detector) -> &'static str {
    match detector {
        Detector::PaymentCard => "PaymentCard",
        Detector::Iban => "Iban",
        Detector::EmailAddress => "EmailAddress",
        Detector::PhoneNumber => "PhoneNumber",
        Detector::UsSocialSecurityNumber => "UsSocialSecurityNumber",
        Detector::UkNationalInsuranceNumber => "UkNationalInsuranceNumber",
        Detector::GermanTaxId => "GermanTaxId",
        Detector::FrenchSocialSecurityNumber => "FrenchSocialSecurityNumber",
        Detector::SpanishDni => "SpanishDni",
        Detector::ItalianFiscalCode => "ItalianFiscalCode",
        Detector::DutchBsn => "DutchBsn",
        Detector::SwedishPersonalNumber => "SwedishPersonalNumber",
        Detector::IndonesianNik => "IndonesianNik",
        Detector::JapaneseMyNumber => "JapaneseMyNumber",
        Detector::ChineseResidentId => "ChineseResidentId",
        Detector::IndianAadhaar => "IndianAadhaar",
        Detector::BrazilianCpf => "BrazilianCpf",
        Detector::PrivateKey => "PrivateKey",
        Detector::AccessKey => "AccessKey",
    }
}

/// Reports everything the wanted detectors find in a text. Linear in its length.
pub fn scan(wanted: &[Detector], text: &str, report: &mut dyn FnMut(Detector, Find)) {
    let shapes: Vec<(Detector, Shape)> = wanted.iter().filter_map(|&one| Some((one, shape(one)?))).collect();
    if !shapes.is_empty() {
        tokens::each_batch(text, &mut |tokens| {
            for (detector, shape) in &shapes {
                numbers(text, tokens, *detector, shape, report);
            }
        });
    }
    for &detector in wanted {
        let mut found = |find: Find| report(detector, find);
        match detector {
            Detector::EmailAddress => contacts::email(text, &mut found),
            Detector::PrivateKey => secrets::private_keys(text, &mut found),
            Detector::AccessKey => secrets::access_keys(text, &mut found),
            _ => {}
        }
    }
}

/// Tries every run of tokens that could be the number.
fn numbers(
    text: &str,
    tokens: &Tokens,
    detector: Detector,
    shape: &Shape,
    report: &mut dyn FnMut(Detector, Find),
) {
    let mut at = 0;
    while at < tokens.list.len() {
        let mut best: Option<(Form, Range<usize>, String, usize)> = None;
        tokens.runs(at, shape.groups, shape.lengths.end - 1, shape.parentheses, |run| {
            if run.text.len() < shape.lengths.start {
                return;
            }
            if let Some(form) = (shape.check)(run) {
                // The surest reading, of those the longest.
                if best.as_ref().is_none_or(|(known, ..)| form == Form::Holds || *known != Form::Holds) {
                    best = Some((form, run.range(), run.text.to_owned(), run.last));
                }
            }
        });
        let Some((form, range, key, last)) = best else {
            at += 1;
            continue;
        };
        let named = words::beside(detector, text, &range);
        let confidence = match (form, named) {
            (Form::Holds, true) => Some(Confidence::High),
            (Form::Holds, false) => Some(Confidence::Medium),
            (Form::NeedsWord, true) => Some(Confidence::High),
            (Form::NeedsWord, false) => None,
            (Form::Looks, _) => Some(Confidence::Low),
        };
        // After a sure find its last token cannot start another one.
        at = if form == Form::Holds { last + 1 } else { at + 1 };
        if let Some(confidence) = confidence {
            report(detector, Find { range, confidence, key });
        }
    }
}

#[cfg(test)]
mod tests;
