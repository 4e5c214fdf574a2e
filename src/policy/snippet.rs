//! What a trace may show of the place where something matched: a few characters around it, digits masked.

/// Characters shown on each side of a find, and of the find itself.
const AROUND: usize = 16;
const FIND: usize = 48;

/// The stretch of `text` at `offset` with what stands around it, on one line. Digits are masked
/// everywhere; of a `secret` find nothing but its shape shows.
pub fn around(text: &str, offset: usize, length: usize, secret: bool) -> String {
    let start = floor(text, offset);
    let end = floor(text, offset.saturating_add(length)).max(start);
    let before: Vec<char> = text[..start].chars().rev().take(AROUND + 1).collect();
    let mut out = String::new();
    if before.len() > AROUND {
        out.push('…');
    }
    out.extend(before.iter().take(AROUND).rev().map(|&c| shown(c, false)));
    let mut find = text[start..end].chars();
    out.extend(find.by_ref().take(FIND).map(|c| shown(c, secret)));
    if find.next().is_some() {
        out.push('…');
    }
    let mut after = text[end..].chars();
    out.extend(after.by_ref().take(AROUND).map(|c| shown(c, false)));
    if after.next().is_some() {
        out.push('…');
    }
    out
}

fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn shown(c: char, secret: bool) -> char {
    if c.is_numeric() || (secret && c.is_alphanumeric()) {
        '•'
    } else if c.is_whitespace() || c.is_control() || super::text::is_invisible(c) {
        ' '
    } else {
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r063_a_snippet_shows_little_and_no_number() {
        let text = "Dear Ann, the card of Mr Smith is 4111 1111 1111 1111, valid thru 12/29\r\nand more";
        let at = text.find("4111").unwrap();
        assert_eq!(around(text, at, 19, true), "… of Mr Smith is •••• •••• •••• ••••, valid thru ••/…");
        let at = text.find("Smith").unwrap();
        assert_eq!(around(text, at, 5, false), "… the card of Mr Smith is •••• •••• ••…");
        assert_eq!(around("key AbC", 4, 3, true), "key •••");
        assert_eq!(around("機密", 0, 6, false), "機密");
        assert_eq!(around("ab", 7, 9, false), "ab");
        assert!(around(&"x".repeat(1000), 100, 500, false).chars().count() < 90);
    }
}
