//! Every reply our server gives by itself, in one place. Codes follow RFC 5321 and 3463 and the table
//! in the spec (R170).

use crate::smtp::line::Fault;
use crate::smtp::reply::Reply;

pub fn greeting(hostname: &str) -> Reply {
    Reply::plain(220, format!("{hostname} ESMTP Postern"))
}

pub fn ok() -> Reply {
    Reply::new(250, [2, 0, 0], "OK")
}

pub fn sender_ok() -> Reply {
    Reply::new(250, [2, 1, 0], "Sender OK")
}

pub fn recipient_ok() -> Reply {
    Reply::new(250, [2, 1, 5], "Recipient OK")
}

pub fn send_content() -> Reply {
    Reply::plain(354, "End data with <CR><LF>.<CR><LF>")
}

pub fn goodbye() -> Reply {
    Reply::new(221, [2, 0, 0], "Bye")
}

pub fn help() -> Reply {
    Reply::new(214, [2, 0, 0], "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH")
}

pub fn cannot_verify() -> Reply {
    Reply::new(252, [2, 5, 2], "Send mail and see")
}

pub fn ready_for_tls() -> Reply {
    Reply::new(220, [2, 0, 0], "Ready to start TLS")
}

pub fn chunk_ok(size: u64) -> Reply {
    Reply::new(250, [2, 0, 0], format!("{size} octets received"))
}

pub fn auth_challenge(base64: String) -> Reply {
    Reply::plain(334, base64)
}

pub fn logged_in() -> Reply {
    Reply::new(235, [2, 7, 0], "Authentication successful")
}

pub fn login_failed() -> Reply {
    Reply::new(535, [5, 7, 8], "Authentication credentials invalid")
}

pub fn login_cancelled() -> Reply {
    Reply::new(501, [5, 7, 0], "Authentication cancelled")
}

pub fn login_malformed() -> Reply {
    Reply::new(501, [5, 5, 2], "Cannot decode the response")
}

pub fn login_line_too_long() -> Reply {
    Reply::new(500, [5, 5, 6], "Authentication exchange line is too long")
}

pub fn mechanism_unknown() -> Reply {
    Reply::new(504, [5, 5, 4], "Authentication mechanism not supported")
}

/// RFC 4954 section 6.
pub fn encryption_required() -> Reply {
    Reply::new(538, [5, 7, 11], "Encryption required for authentication: STARTTLS first")
}

pub fn too_many_failed_logins() -> Reply {
    Reply::new(454, [4, 7, 0], "Too many failed logins from your address, try again later")
}

pub fn already_secured() -> Reply {
    Reply::new(503, [5, 5, 1], "TLS is already active")
}

pub fn starttls_first() -> Reply {
    Reply::new(530, [5, 7, 0], "Must issue a STARTTLS command first")
}

pub fn bad_sequence(what: &str) -> Reply {
    Reply::new(503, [5, 5, 1], what)
}

pub fn no_recipients() -> Reply {
    Reply::new(554, [5, 5, 1], "No valid recipients")
}

pub fn line_too_long() -> Reply {
    Reply::new(500, [5, 5, 2], "Line too long")
}

pub fn bare_lf() -> Reply {
    Reply::new(554, [5, 5, 2], "A line must end in CRLF, not in LF alone; closing")
}

pub fn tls_on_plain_port() -> Reply {
    Reply::new(554, [5, 5, 2], "TLS begins with STARTTLS on this port; closing")
}

pub fn content_unasked() -> Reply {
    Reply::new(554, [5, 5, 1], "Content was sent though DATA was refused; closing")
}

pub fn utf8_not_announced() -> Reply {
    Reply::new(553, [5, 6, 7], "An address with non-ASCII characters needs the SMTPUTF8 parameter of MAIL")
}

pub fn too_big(limit: u64) -> Reply {
    Reply::new(552, [5, 3, 4], format!("Message exceeds the limit of {limit} octets"))
}

pub fn too_many_recipients(limit: usize) -> Reply {
    Reply::new(452, [4, 5, 3], format!("Too many recipients, the limit is {limit}"))
}

pub fn too_many_errors() -> Reply {
    Reply::new(421, [4, 7, 0], "Too many errors")
}

pub fn too_many_connections() -> Reply {
    Reply::new(421, [4, 7, 0], "Too many connections, try again later")
}

pub fn broken_content(fault: Fault) -> Reply {
    Reply::new(554, [5, 6, 0], format!("Message refused: {fault}"))
}

pub fn timed_out() -> Reply {
    Reply::new(421, [4, 4, 2], "Timed out waiting for input")
}

pub fn too_slow() -> Reply {
    Reply::new(421, [4, 4, 2], "Content comes too slowly")
}

pub fn shutting_down() -> Reply {
    Reply::new(421, [4, 3, 2], "Shutting down, try again")
}
