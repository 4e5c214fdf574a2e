//! Check digits and dates. All take ASCII digits.

pub(super) fn digits(text: &str) -> impl DoubleEndedIterator<Item = u32> + '_ {
    text.bytes().map(|digit| u32::from(digit.wrapping_sub(b'0')))
}

pub(super) fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

pub(super) fn all_alike(text: &str) -> bool {
    text.bytes().all(|byte| Some(byte) == text.bytes().next())
}

/// ISO/IEC 7812: cards, Swedish numbers.
pub(super) fn luhn(text: &str) -> bool {
    let sum: u32 = digits(text)
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The remainder by 97 with letters as 10 to 35 (ISO 7064 mod 97-10).
pub(super) fn mod_97(text: impl Iterator<Item = u8>) -> Option<u32> {
    let mut rest = 0;
    for byte in text {
        let value = char::from(byte).to_digit(36)?;
        rest = (if value > 9 { rest * 100 } else { rest * 10 } + value) % 97;
    }
    Some(rest)
}

/// ISO 7064 mod 11,10: the last digit checks the others.
pub(super) fn mod_11_10(text: &str) -> bool {
    let Some((others, last)) = text.split_at_checked(text.len() - 1) else { return false };
    let product = digits(others).fold(10, |product, digit| {
        let sum = (digit + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    number(last) == Some((11 - product) % 10)
}

/// Dihedral group of the pentagon: Aadhaar.
pub(super) fn verhoeff(text: &str) -> bool {
    const PERMUTED: [[usize; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let product = |a: usize, b: usize| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b - 5) % 5 + 5,
        (false, true) => (a - 5 + 5 - b) % 5 + 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let folded = digits(text).rev().enumerate();
    folded.fold(0, |sum, (at, digit)| product(sum, PERMUTED[at % 8][digit as usize])) == 0
}

/// Whether a day can be in a month, leap years unknown.
pub(super) fn is_day(month: u32, day: u32) -> bool {
    let last = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=last).contains(&day)
}
