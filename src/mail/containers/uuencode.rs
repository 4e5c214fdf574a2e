//! Files inside a text, as they were sent before MIME and still are: `begin 644 name`, lines of
//! characters, `end`.

pub struct Uuencoded {
    pub name: String,
    pub content: Vec<u8>,
}

/// The files of a text, in order. Costs one look for most texts.
pub fn files(text: &str) -> Vec<Uuencoded> {
    let mut found = Vec::new();
    if !text.contains("begin ") {
        return found;
    }
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = header(line) else { continue };
        let mut content = Vec::new();
        let mut any = false;
        for line in lines.by_ref() {
            if line.trim_end() == "end" || !decode(line, &mut content) {
                break;
            }
            any = true;
        }
        if any && !content.is_empty() {
            found.push(Uuencoded { name, content });
        }
    }
    found
}

fn header(line: &str) -> Option<String> {
    let rest = line.strip_prefix("begin ")?;
    let (mode, name) = rest.split_once(' ')?;
    let octal = matches!(mode.len(), 3 | 4) && mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
    (octal && !name.trim().is_empty()).then(|| name.trim().to_owned())
}

/// One line: its length in the first character, then groups of four. False if it is none.
fn decode(line: &str, out: &mut Vec<u8>) -> bool {
    let bytes = line.trim_end_matches(['\r', '\n']).as_bytes();
    let value = |byte: u8| byte.checked_sub(b' ').filter(|value| *value <= 64).map(|value| value & 0x3f);
    let Some((&first, groups)) = bytes.split_first() else { return false };
    let Some(length) = value(first).map(usize::from) else { return false };
    let start = out.len();
    for group in groups.chunks(4) {
        let mut bits = 0u32;
        for at in 0..4 {
            // Blanks at the end of a line get lost; they stand for zero.
            let Some(value) = value(group.get(at).copied().unwrap_or(b' ')) else { return false };
            bits = bits << 6 | u32::from(value);
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    let missing = (start + length).saturating_sub(out.len());
    if missing > 2 {
        out.truncate(start);
        return false;
    }
    out.truncate(start + length);
    true
}
