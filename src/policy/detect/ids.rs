//! National numbers of people, each with the rules its state publishes.

use super::Form;
use super::checks::{all_alike, digits, is_day, luhn, mod_11_10, mod_97, number, verhoeff};
use super::tokens::{Gap, Run};

fn form(holds: bool) -> Option<Form> {
    Some(if holds { Form::Holds } else { Form::Looks })
}

fn plain(run: &Run<'_>, groups: &[&[usize]]) -> bool {
    run.is_digits() && (run.tokens.len() == 1 || groups.iter().any(|groups| run.is_grouped(groups)))
}

fn part(text: &str, range: std::ops::Range<usize>) -> Option<u32> {
    text.get(range).and_then(number)
}

/// Area, group and serial never zero; areas 666 and 900-999 are not given out. Nine digits in one piece
/// are too common to count without a word beside them.
pub(super) fn us_social_security(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[3, 2, 4]]) {
        return None;
    }
    let (area, group, serial) = (part(run.text, 0..3)?, part(run.text, 3..5)?, part(run.text, 5..9)?);
    let given = area != 0 && area != 666 && area < 900 && group != 0 && serial != 0;
    // Printed in advertisements, and so never given out.
    let printed = matches!(run.text, "078051120" | "219099999") || all_alike(run.text);
    match (given && !printed, run.tokens.len() > 1) {
        (true, true) => Some(Form::Holds),
        (true, false) => Some(Form::NeedsWord),
        (false, grouped) => grouped.then_some(Form::Looks),
    }
}

/// Two letters (not all pairs), six digits, A to D.
pub(super) fn uk_national_insurance(run: &Run<'_>) -> Option<Form> {
    let bytes = run.text.as_bytes();
    let shaped = bytes[..2].iter().all(u8::is_ascii_uppercase)
        && bytes[2..8].iter().all(u8::is_ascii_digit)
        && bytes[8].is_ascii_uppercase();
    if !shaped {
        return None;
    }
    let holds = !b"DFIQUV".contains(&bytes[0])
        && !b"DFIOQUV".contains(&bytes[1])
        && !["BG", "GB", "KN", "NK", "NT", "TN", "ZZ"].contains(&&run.text[..2])
        && (b'A'..=b'D').contains(&bytes[8]);
    form(holds)
}

/// Steuer-ID: mod 11,10, and among the first ten digits one comes two or three times, no other twice.
pub(super) fn german_tax(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[2, 3, 3, 3]]) || run.text.starts_with('0') {
        return None;
    }
    let mut counts = [0; 10];
    digits(&run.text[..10]).for_each(|digit| counts[digit as usize] += 1);
    let repeated: Vec<i32> = counts.into_iter().filter(|count| *count > 1).collect();
    form(matches!(repeated[..], [2 | 3]) && mod_11_10(run.text))
}

/// NIR: sex, year, month, place (Corsica with a letter), serial, key.
pub(super) fn french_social_security(run: &Run<'_>) -> Option<Form> {
    let text = run.text;
    let corsica = matches!(text.get(5..7), Some("2A" | "2B"));
    let shaped = text.bytes().enumerate().all(|(at, b)| b.is_ascii_digit() || (corsica && at == 6));
    let month = part(text, 3..5)?;
    let plausible = matches!(text.as_bytes()[0], b'1' | b'2' | b'3' | b'4' | b'7' | b'8')
        && matches!(month, 1..=12 | 20 | 30..=42 | 50..=99);
    if !shaped || !plausible {
        return None;
    }
    let body = match &text[5..7] {
        "2A" => format!("{}19{}", &text[..5], &text[7..13]),
        "2B" => format!("{}18{}", &text[..5], &text[7..13]),
        _ => text[..13].to_owned(),
    };
    form(mod_97(body.bytes()).is_some_and(|rest| part(text, 13..15) == Some(97 - rest)))
}

/// DNI (eight digits and a letter) and NIE (X, Y or Z before seven).
pub(super) fn spanish_dni(run: &Run<'_>) -> Option<Form> {
    let (body, last) = run.text.split_at(8);
    let body = match body.as_bytes()[0] {
        b'X' => format!("0{}", &body[1..]),
        b'Y' => format!("1{}", &body[1..]),
        b'Z' => format!("2{}", &body[1..]),
        _ => body.to_owned(),
    };
    let last = last.bytes().next().filter(u8::is_ascii_uppercase)?;
    if !body.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    form(b"TRWAGMYFPDXBNJZSQVHLCKE"[number(&body)? as usize % 23] == last)
}

/// Codice fiscale, with the letters that stand for digits where two people would have the same one.
pub(super) fn italian_fiscal_code(run: &Run<'_>) -> Option<Form> {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let bytes = run.text.as_bytes();
    let is_digit = |b: u8| b.is_ascii_digit() || b"LMNPQRSTUV".contains(&b);
    let shaped = bytes.iter().enumerate().all(|(at, &b)| match at {
        6 | 7 | 9 | 10 | 12..=14 => is_digit(b),
        8 => b"ABCDEHLMPRST".contains(&b),
        _ => b.is_ascii_uppercase(),
    });
    if !shaped || !bytes.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let sum: u32 = bytes[..15]
        .iter()
        .enumerate()
        .map(|(at, &b)| {
            let value = u32::from(if b.is_ascii_digit() { b - b'0' } else { b - b'A' });
            if at % 2 == 0 { ODD[value as usize] } else { value }
        })
        .sum();
    form(sum % 26 == u32::from(bytes[15] - b'A'))
}

/// Elfproef: the weighted sum is divisible by eleven. Old numbers have eight digits.
pub(super) fn dutch_bsn(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[4, 2, 3], &[3, 3, 3], &[4, 2, 2]]) || all_alike(run.text) {
        return None;
    }
    let padded = format!("{:0>9}", run.text);
    let weighted =
        digits(&padded).zip([9, 8, 7, 6, 5, 4, 3, 2]).map(|(digit, weight)| digit * weight).sum::<u32>();
    let last = digits(&padded).next_back()?;
    let holds = weighted % 11 == last;
    // Eight digits are dates more often than numbers of people.
    match (run.text.len(), holds) {
        (8, true) => Some(Form::NeedsWord),
        (8, false) => None,
        (_, holds) => form(holds),
    }
}

/// Birth date (of coordination numbers with 60 added to the day), serial, Luhn.
pub(super) fn swedish_personal(run: &Run<'_>) -> Option<Form> {
    if !matches!(run.text.len(), 10 | 12) || !plain(run, &[&[6, 4], &[8, 4]]) {
        return None;
    }
    let short = match run.text.len() {
        12 if !matches!(part(run.text, 0..2), Some(18..=20)) => return None,
        12 => &run.text[2..],
        _ => run.text,
    };
    let (month, day) = (part(short, 2..4)?, part(short, 4..6)?);
    if !is_day(month, day) && !is_day(month, day.checked_sub(60)?) {
        return None;
    }
    form(luhn(short))
}

/// Province, regency, district, birth date (of women with 40 added to the day), serial. No check digit:
/// what is known of its parts must hold.
pub(super) fn indonesian_nik(run: &Run<'_>) -> Option<Form> {
    let grouped: &[&[usize]] = &[&[6, 6, 4], &[4, 4, 4, 4], &[2, 2, 2, 6, 4]];
    if !plain(run, grouped) {
        return None;
    }
    let province = part(run.text, 0..2)?;
    let (regency, district) = (part(run.text, 2..4)?, part(run.text, 4..6)?);
    let (day, month, serial) = (part(run.text, 6..8)?, part(run.text, 8..10)?, part(run.text, 12..16)?);
    if !(11..=97).contains(&province) {
        return None;
    }
    let known = matches!(province, 11..=21 | 31..=36 | 51..=53 | 61..=65 | 71..=76 | 81..=82 | 91..=97);
    let born = is_day(month, day) || (day > 40 && is_day(month, day - 40));
    form(known && regency > 0 && district > 0 && born && serial > 0)
}

/// The individual number: twelve digits, weighted mod 11.
pub(super) fn japanese_my_number(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[4, 4, 4]]) || all_alike(run.text) {
        return None;
    }
    let (body, last) = run.text.split_at(11);
    let weight = |n: usize| if n <= 6 { n + 1 } else { n - 5 } as u32;
    let sum: u32 = digits(body).rev().enumerate().map(|(at, digit)| digit * weight(at + 1)).sum();
    let check = match sum % 11 {
        0 | 1 => 0,
        rest => 11 - rest,
    };
    form(number(last) == Some(check))
}

/// Region, birth date, serial, ISO 7064 mod 11-2.
pub(super) fn chinese_resident(run: &Run<'_>) -> Option<Form> {
    let (body, last) = run.text.split_at(17);
    if !body.bytes().all(|b| b.is_ascii_digit()) || !(last == "X" || last.as_bytes()[0].is_ascii_digit()) {
        return None;
    }
    let region =
        matches!(part(body, 0..2)?, 11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83);
    let year = part(body, 6..10)?;
    if !region || !(1880..=2100).contains(&year) || !is_day(part(body, 10..12)?, part(body, 12..14)?) {
        return None;
    }
    let rest = digits(body).fold(0, |rest, digit| (rest + digit) * 2 % 11);
    let check = (12 - rest) % 11;
    form(if check == 10 { last == "X" } else { number(last) == Some(check) })
}

/// Twelve digits, the first neither 0 nor 1, Verhoeff; no palindromes.
pub(super) fn indian_aadhaar(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[4, 4, 4]]) || matches!(run.text.as_bytes()[0], b'0' | b'1') {
        return None;
    }
    let palindrome = run.text.bytes().eq(run.text.bytes().rev());
    form(!palindrome && verhoeff(run.text))
}

/// Eleven digits, two of them checks.
pub(super) fn brazilian_cpf(run: &Run<'_>) -> Option<Form> {
    if !plain(run, &[&[3, 3, 3, 2], &[9, 2]]) || all_alike(run.text) {
        return None;
    }
    // A telephone number of São Paulo has eleven digits and groups too, but not these.
    if run.tokens.len() == 4 && !matches!(run.tokens[1].gap, Gap::Tight('.' | '-') | Gap::Blank) {
        return None;
    }
    let check = |length: usize| {
        let weights = (2..=length as u32 + 1).rev();
        let sum: u32 = digits(&run.text[..length]).zip(weights).map(|(digit, weight)| digit * weight).sum();
        sum * 10 % 11 % 10
    };
    form(part(run.text, 9..10) == Some(check(9)) && part(run.text, 10..11) == Some(check(10)))
}
