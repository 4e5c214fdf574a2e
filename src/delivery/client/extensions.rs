//! What a next hop offers (the EHLO response, RFC 5321 section 4.1.1.1).

use super::auth::Mechanisms;

/// The extensions that delivery makes use of. The default is a host without any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Whether there was an EHLO response at all (else the host knows HELO only).
    pub esmtp: bool,
    pub starttls: bool,
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// `Some(0)`: offered without a limit.
    pub size: Option<u64>,
    /// Ways to log in; `None`: no AUTH at all.
    pub auth: Option<Mechanisms>,
}

impl Extensions {
    /// Reads the text of a 250 reply to EHLO. The first line greets; each other one is a keyword.
    pub fn parse(text: &str) -> Self {
        let mut offered = Self { esmtp: true, ..Self::default() };
        for line in text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "STARTTLS" => offered.starttls = true,
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "REQUIRETLS" => offered.require_tls = true,
                "SIZE" => offered.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                // Old servers write AUTH=LOGIN too, for clients that are older still.
                auth if auth.split('=').next() == Some("AUTH") => {
                    let first = auth.split('=').skip(1);
                    let said = Mechanisms::parse(first.chain(words));
                    offered.auth = Some(offered.auth.unwrap_or_default().and(said));
                }
                _ => {}
            }
        }
        offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case_and_unknown_ones_are_nothing() {
        let text = "mx.example STARTTLS\npipelining\nSize 1000\n8BitMime\nX-ODD a b\n\nDSN";
        let expected = Extensions {
            esmtp: true,
            pipelining: true,
            eight_bit_mime: true,
            dsn: true,
            size: Some(1000),
            ..Extensions::default()
        };
        assert_eq!(Extensions::parse(text), expected);
        assert_eq!(Extensions::parse("x\nSIZE").size, Some(0));
        assert_eq!(Extensions::parse("x\nSIZE much").size, Some(0));
        let auth = |text: &str| Extensions::parse(text).auth.map(|offered| offered.to_string());
        assert_eq!(auth("x\nDSN"), None);
        assert_eq!(auth("x\nAUTH PLAIN\nAUTH=login cram-md5").as_deref(), Some("PLAIN, LOGIN, CRAM-MD5"));
        assert_eq!(auth("x\nAUTH").as_deref(), Some("none that is known here"));
    }
}
