//! Our own Received field (RFC 5321 section 4.4) and the loop check that reads it back (spec R38).

use jiff::Timestamp;

use crate::mail::envelope::Recipient;
use crate::smtp::Peer;

/// More Received fields than this is a loop (RFC 5321 section 6.3).
const MAX_HOPS: usize = 50;

/// What makes one gateway recognise itself, whatever its pods are called.
pub fn mark(gateway_uid: &str) -> String {
    format!("(Postern {gateway_uid})")
}

/// The field with its final CRLF. Names a recipient only when there is a single one, so that nobody
/// learns of others (RFC 5321 section 7.6).
pub fn field(
    peer: &Peer,
    hostname: &str,
    mark: &str,
    id: &str,
    recipients: &[Recipient],
    utf8: bool,
    now: Timestamp,
) -> String {
    // RFC 3848, RFC 6531 section 4.3. Who logs in has said EHLO, and under TLS.
    let protocol = match (utf8, peer.tls.is_some(), peer.esmtp, peer.login.is_some()) {
        (true, false, _, _) => "UTF8SMTP",
        (true, true, _, false) => "UTF8SMTPS",
        (true, true, _, true) => "UTF8SMTPSA",
        (false, true, _, false) => "ESMTPS",
        (false, true, _, true) => "ESMTPSA",
        (false, false, true, _) => "ESMTP",
        (false, false, false, _) => "SMTP",
    };
    let address = peer.address.ip().to_canonical();
    let tag = if address.is_ipv6() { "IPv6:" } else { "" };
    let helo: String = peer.helo.chars().filter(|c| !c.is_control() && *c != '(' && *c != ')').collect();
    let tls = peer.tls.as_deref().map(|facts| format!("\r\n\t(using {facts})")).unwrap_or_default();
    let for_whom = match recipients {
        [only] => format!("\r\n\tfor <{}>", only.mailbox),
        _ => String::new(),
    };
    let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000");
    format!(
        "Received: from {helo} ([{tag}{address}]){tls}\r\n\tby {hostname} {mark} with {protocol}\r\n\tid {id}{for_whom};\r\n\t{date}\r\n"
    )
}

/// Whether the header section shows that the message goes in circles.
pub fn is_loop(content: &[u8], mark: &str) -> bool {
    let mut hops = 0;
    let mut own = 0;
    let mut in_received = false;
    for line in head_lines(content) {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            in_received = line.len() >= 9 && line[..9].eq_ignore_ascii_case(b"received:");
            hops += usize::from(in_received);
        }
        if in_received && memmem(line, mark.as_bytes()) {
            own += 1;
        }
    }
    hops > MAX_HOPS || own >= 2
}

fn head_lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii_end())
        .take_while(|line| !line.is_empty())
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            address: "192.0.2.7:4711".parse().unwrap(),
            local: "192.0.2.1:25".parse().unwrap(),
            listener: "smtp".to_owned(),
            helo: "client.example".to_owned(),
            esmtp: true,
            tls: None,
            login: None,
            certificate: None,
        }
    }

    #[test]
    fn r036_a_login_shows_in_the_protocol_and_not_by_name() {
        let of = |utf8| {
            let peer = Peer { tls: Some("TLSv1.3".to_owned()), login: Some("app".into()), ..peer() };
            field(&peer, "gw.example", &mark("u1"), "Q1", &[], utf8, Timestamp::UNIX_EPOCH)
        };
        assert!(of(false).contains(" with ESMTPSA\r\n") && of(true).contains(" with UTF8SMTPSA\r\n"));
        assert!(!of(false).contains("app"));
    }

    #[test]
    fn the_field_names_a_single_recipient_and_no_several() {
        let to = |text: &str| Recipient::new(text.parse().unwrap());
        let one = [to("b@x.example")];
        let field_of = |to: &[Recipient]| {
            field(&peer(), "gw.example", &mark("u1"), "Q1", to, false, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(
            field_of(&one),
            "Received: from client.example ([192.0.2.7])\r\n\tby gw.example (Postern u1) with ESMTP\r\n\tid Q1\r\n\tfor <b@x.example>;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
        assert!(!field_of(&[to("b@x.example"), to("c@x.example")]).contains(" for "));
    }

    #[test]
    fn fifty_one_hops_or_the_own_mark_twice_is_a_loop() {
        let hops = |n: usize| "Received: from a by b\r\n".repeat(n) + "Subject: x\r\n\r\nReceived: body\r\n";
        assert!(!is_loop(hops(50).as_bytes(), "(Postern u1)"));
        assert!(is_loop(hops(51).as_bytes(), "(Postern u1)"));
        let own = "Received: from a\r\n\tby b (Postern u1)\r\n";
        let content = |n: usize| own.repeat(n) + "\r\nbody (Postern u1)\r\n";
        assert!(!is_loop(content(1).as_bytes(), "(Postern u1)"));
        assert!(is_loop(content(2).as_bytes(), "(Postern u1)"));
    }
}
