//! Compound files (MS-CFB): Office before 2007, Outlook messages, and the wrapper around encrypted
//! office files of today. There is no reader for them, so they are unreadable by name; but Word and
//! Outlook keep long stretches of text as they are, and those are searched all the same.

use super::{BOUNDARY, Budget, ENCRYPTED, Extract, UNKNOWN, Why};

pub struct Read {
    pub text: Option<Extract>,
    pub why: Why,
}

/// Shorter runs are chance.
const SHORTEST: usize = 6;

pub fn read(content: &[u8], budget: &Budget) -> Read {
    let package: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
    if memchr::memmem::find(content, &package).is_some() {
        return Read { text: None, why: ENCRYPTED };
    }
    let mut text = String::new();
    single(content, &mut text);
    for start in [0, 1] {
        double(&content[start.min(content.len())..], &mut text);
    }
    let fits = budget.text(text.len());
    let text = (fits && !text.is_empty()).then(|| Extract { text, hidden: Vec::new() });
    Read { text, why: UNKNOWN }
}

fn keep(run: &mut String, count: &mut usize, out: &mut String) {
    if *count >= SHORTEST {
        out.push_str(run);
        out.push(BOUNDARY);
    }
    run.clear();
    *count = 0;
}

/// Runs of windows-1252; a paragraph of Word ends with CR, a cell with BEL.
fn single(content: &[u8], out: &mut String) {
    let (mut run, mut count) = (String::new(), 0);
    for &byte in content {
        match byte {
            b' '..=b'~' | 0xa0..=0xff => {
                run.push(char::from(byte));
                count += 1;
            }
            b'\t' => run.push(' '),
            0x0b => run.push('\n'),
            _ => keep(&mut run, &mut count, out),
        }
    }
    keep(&mut run, &mut count, out);
}

/// Runs of UTF-16.
fn double(content: &[u8], out: &mut String) {
    let (mut run, mut count) = (String::new(), 0);
    let mut ascii = 0;
    for pair in content.chunks_exact(2) {
        let unit = u16::from_le_bytes([pair[0], pair[1]]);
        match char::from_u32(u32::from(unit)) {
            Some(c) if c.is_alphanumeric() || matches!(c, ' '..='~') => {
                run.push(c);
                count += 1;
                ascii += usize::from(unit < 0x250);
            }
            Some('\t') => run.push(' '),
            Some('\u{b}') => run.push('\n'),
            _ => {
                // Octets of anything read as ideographs; a text of them holds more than one kind of block.
                let plausible = ascii * 2 >= count || same_blocks(&run);
                if !plausible {
                    count = 0;
                }
                keep(&mut run, &mut count, out);
                ascii = 0;
            }
        }
    }
    keep(&mut run, &mut count, out);
}

/// Whether neighbours are mostly of one script, as in a text and not in chance.
fn same_blocks(run: &str) -> bool {
    let codes: Vec<u32> = run.chars().map(u32::from).collect();
    let near = codes.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 0x200 || pair[1] < 0x80).count();
    near * 2 >= codes.len().max(2) - 1
}
