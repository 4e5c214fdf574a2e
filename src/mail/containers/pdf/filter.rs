//! Filters of PDF streams (ISO 32000-1 section 7.4), those that text comes through.

use super::object::{Dict, Object};
use crate::mail::containers::Budget;
use crate::mail::containers::budget::{Packing, unpack};

/// Filters one behind the other; more of them serve nobody.
const MOST: usize = 8;

/// Undoes the filters of a stream as far as it is not a picture. Damage ends a stream early.
pub fn decode<'o>(
    raw: &[u8],
    dict: &'o Dict,
    resolve: impl Fn(Option<&'o Object>) -> Option<&'o Object>,
    budget: &Budget,
) -> Vec<u8> {
    let list = |object: Option<&'o Object>| -> Vec<&'o Object> {
        match resolve(object) {
            Some(Object::Array(items)) => items.iter().filter_map(|item| resolve(Some(item))).collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        }
    };
    let filters = list(dict.either("Filter", "F"));
    let parameters = list(dict.either("DecodeParms", "DP"));
    if filters.len() > MOST {
        return Vec::new();
    }
    if filters.is_empty() {
        return if budget.unpacked(raw.len()) { raw.to_vec() } else { Vec::new() };
    }
    let mut bytes = std::borrow::Cow::Borrowed(raw);
    for (at, filter) in filters.iter().enumerate() {
        let parameters = parameters.get(at).and_then(|object| object.dict());
        let next = match filter.name() {
            Some(b"FlateDecode" | b"Fl") => predicted(inflate(&bytes, budget), parameters),
            Some(b"LZWDecode" | b"LZW") => {
                let early =
                    parameters.and_then(|p| p.get("EarlyChange")).and_then(Object::integer) != Some(0);
                predicted(lzw(&bytes, early, budget), parameters)
            }
            Some(b"ASCIIHexDecode" | b"AHx") => hexadecimal(&bytes, budget),
            Some(b"ASCII85Decode" | b"A85") => ascii85(&bytes, budget),
            Some(b"RunLengthDecode" | b"RL") => run_length(&bytes, budget),
            _ => return Vec::new(),
        };
        bytes = next.into();
    }
    bytes.into_owned()
}

fn inflate(packed: &[u8], budget: &Budget) -> Vec<u8> {
    let (bytes, _) = unpack(packed, Packing::Zlib, budget);
    if bytes.is_empty() && packed.len() > 2 {
        // A broken header before a sound stream.
        return unpack(&packed[2..], Packing::Deflate, budget).0;
    }
    bytes
}

/// Undoes a predictor (section 7.4.4.4); object streams made by some writers have one.
fn predicted(bytes: Vec<u8>, parameters: Option<&Dict>) -> Vec<u8> {
    let number =
        |key, default| parameters.and_then(|p| p.get(key)).and_then(Object::integer).unwrap_or(default);
    if number("Predictor", 1) < 10 {
        return bytes;
    }
    let bits = number("Colors", 1).clamp(1, 32) * number("BitsPerComponent", 8).clamp(1, 16);
    let step = bits.div_ceil(8);
    let width = (bits * number("Columns", 1).clamp(1, 1 << 20)).div_ceil(8);
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    for row in bytes.chunks(width + 1) {
        let (kind, row) = (row[0], &row[1..]);
        let start = out.len();
        for (at, &byte) in row.iter().enumerate() {
            let left = if at >= step { out[start + at - step] } else { 0 };
            let up = start.checked_sub(width).map_or(0, |above| out[above + at]);
            let corner = match start.checked_sub(width) {
                Some(above) if at >= step => out[above + at - step],
                _ => 0,
            };
            let guess = match kind {
                1 => left,
                2 => up,
                3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                4 => paeth(left, up, corner),
                _ => 0,
            };
            out.push(byte.wrapping_add(guess));
        }
    }
    out
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(up), i16::from(corner));
    let guess = a + b - c;
    let (da, db, dc) = ((guess - a).abs(), (guess - b).abs(), (guess - c).abs());
    if da <= db && da <= dc {
        left
    } else if db <= dc {
        up
    } else {
        corner
    }
}

fn lzw(packed: &[u8], early: bool, budget: &Budget) -> Vec<u8> {
    const CLEAR: usize = 256;
    const END: usize = 257;
    // Each entry: where in `out` it was first written, and its length.
    let mut table: Vec<(usize, usize)> = Vec::new();
    let mut out = Vec::new();
    let (mut bits, mut count, mut width) = (0u32, 0u32, 9u32);
    let mut previous: Option<(usize, usize)> = None;
    for &byte in packed {
        bits = bits << 8 | u32::from(byte);
        count += 8;
        if count < width {
            continue;
        }
        count -= width;
        let code = (bits >> count & ((1 << width) - 1)) as usize;
        bits &= (1 << count) - 1;
        if code == CLEAR {
            table.clear();
            (width, previous) = (9, None);
            continue;
        }
        if code == END {
            break;
        }
        let start = out.len();
        let length = if code < CLEAR {
            1
        } else if let Some(&(_, length)) = table.get(code - 258) {
            length
        } else {
            match previous {
                Some((_, length)) if code - 258 == table.len() => length + 1,
                _ => break,
            }
        };
        if !budget.unpacked(length) {
            break;
        }
        if code < CLEAR {
            out.push(code as u8);
        } else {
            let from = table.get(code - 258).map_or(previous.map_or(0, |(from, _)| from), |entry| entry.0);
            for at in from..from + length {
                out.push(out[at]);
            }
        }
        if let Some((from, before)) = previous
            && table.len() < 4096 - 258
        {
            table.push((from, before + 1));
        }
        previous = Some((start, length));
        width = match table.len() + 258 + usize::from(early) {
            0..512 => 9,
            512..1024 => 10,
            1024..2048 => 11,
            _ => 12,
        };
    }
    out
}

fn hexadecimal(text: &[u8], budget: &Budget) -> Vec<u8> {
    let digits = text.iter().take_while(|b| **b != b'>').filter_map(|&b| char::from(b).to_digit(16));
    let digits: Vec<u8> = digits.map(|d| d as u8).collect();
    if !budget.unpacked(digits.len()) {
        return Vec::new();
    }
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}

fn ascii85(text: &[u8], budget: &Budget) -> Vec<u8> {
    let mut out = Vec::new();
    if !budget.unpacked(text.len()) {
        return out;
    }
    let (mut group, mut count) = (0u32, 0);
    for &byte in text {
        match byte {
            b'~' => break,
            b'z' if count == 0 => out.extend([0; 4]),
            b'!'..=b'u' => {
                group = group.wrapping_mul(85).wrapping_add(u32::from(byte - b'!'));
                count += 1;
                if count == 5 {
                    out.extend(group.to_be_bytes());
                    (group, count) = (0, 0);
                }
            }
            _ => {}
        }
    }
    if count > 1 {
        for _ in count..5 {
            group = group.wrapping_mul(85).wrapping_add(84);
        }
        out.extend(&group.to_be_bytes()[..count - 1]);
    }
    out
}

fn run_length(packed: &[u8], budget: &Budget) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = packed;
    while let Some((&length, tail)) = rest.split_first() {
        let count = match length {
            128 => break,
            0..128 => usize::from(length) + 1,
            _ => 257 - usize::from(length),
        };
        if !budget.unpacked(count) {
            break;
        }
        if length < 128 {
            let count = count.min(tail.len());
            out.extend_from_slice(&tail[..count]);
            rest = &tail[count..];
        } else {
            let Some((&byte, tail)) = tail.split_first() else { break };
            out.resize(out.len() + count, byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_what_their_standards_show() {
        let budget = Budget::new(1 << 20, 10, 5);
        assert_eq!(hexadecimal(b"66 6f 72>zz", &budget), b"for");
        assert_eq!(ascii85(b"87cURD]j7BEbo80~>", &budget), b"Hello world!");
        assert_eq!(run_length(&[2, b'f', b'o', b'r', 254, b'x', 128, 9], &budget), b"forxxx");
        // The example of ISO 32000-1 section 7.4.4.2.
        let packed = [0x80, 0x0b, 0x60, 0x50, 0x22, 0x0c, 0x0c, 0x85, 0x01];
        assert_eq!(lzw(&packed, true, &budget), [45, 45, 45, 45, 45, 65, 45, 45, 45, 66]);
    }
}
