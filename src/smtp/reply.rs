//! Replies of SMTP (RFC 5321 section 4.2) with enhanced codes (RFC 2034), for both sides: what our
//! server says and what a next hop said.

use std::fmt;

/// A reply: code, enhanced code, text of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// `x.y.z`; its class is the first digit of `code`.
    pub enhanced: Option<[u16; 3]>,
    /// Lines separated by `\n`, each without its code.
    pub text: String,
}

impl Reply {
    pub fn new(code: u16, enhanced: [u16; 3], text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), text: text.into() }
    }

    /// A reply that has no enhanced code: greeting, 354, the EHLO response.
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, text: text.into() }
    }

    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// Appends the wire form, every line ended by CRLF. Controls in the text become blanks, so no text
    /// can end a line early.
    pub fn write_to(&self, wire: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let sep = if lines.peek().is_some() { '-' } else { ' ' };
            wire.extend(format!("{:03}{sep}", self.code).bytes());
            if let Some([class, subject, detail]) = self.enhanced {
                wire.extend(format!("{class}.{subject}.{detail} ").bytes());
            }
            let clean = |c: char| if c.is_control() { ' ' } else { c };
            wire.extend(line.chars().map(clean).collect::<String>().bytes());
            wire.extend(b"\r\n");
        }
    }
}

/// One line for people and reports: `550 5.7.1 text`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some([class, subject, detail]) = self.enhanced {
            write!(f, " {class}.{subject}.{detail}")?;
        }
        write!(f, " {}", self.text.replace('\n', " "))
    }
}
