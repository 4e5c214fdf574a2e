use proptest::prelude::*;

use super::*;

/// Plays lines into a session whose handler agrees to everything.
struct Agreeable {
    session: Session,
    settings: Settings,
}

impl Agreeable {
    fn new(tls: TlsMode) -> Self {
        Self { session: Session::new(tls), settings: Settings::new("gw.example") }
    }

    /// The code of the reply to a line.
    fn say(&mut self, line: &str) -> u16 {
        match self.session.line(line.as_bytes(), &self.settings) {
            Action::Say(reply) | Action::NoData(reply) | Action::Close(reply) | Action::StartTls(reply) => {
                reply.code
            }
            Action::Mail { sender, .. } => self.session.began(sender.smtputf8).code,
            Action::Rcpt(_) => self.session.added().code,
            Action::Data => {
                self.session.ended(&ok());
                354
            }
        }
    }

    fn check(&mut self, lines: &[(&str, u16)]) {
        for (line, code) in lines {
            assert_eq!(self.say(line), *code, "{line}");
        }
    }
}

#[test]
fn commands_come_in_order_or_are_refused() {
    Agreeable::new(TlsMode::Optional).check(&[
        ("MAIL FROM:<a@b.example>", 503),
        ("DATA", 503),
        ("EHLO c", 250),
        ("RCPT TO:<b@b.example>", 503),
        ("MAIL FROM:<a@b.example>", 250),
        ("MAIL FROM:<a@b.example>", 503),
        ("DATA", 554),
        ("RCPT TO:<b@b.example>", 250),
        ("DATA", 354),
        ("DATA", 503),
        ("MAIL FROM:<a@b.example>", 250),
        ("RCPT TO:<b@b.example>", 250),
        ("EHLO again", 250),
        ("DATA", 503),
        ("MAIL FROM:<a@b.example>", 250),
        ("RSET", 250),
        ("RCPT TO:<b@b.example>", 503),
        ("QUIT", 221),
    ]);
}

#[test]
fn under_tls_nothing_said_before_counts_and_tls_is_not_offered_again() {
    let mut client = Agreeable::new(TlsMode::Required);
    client.check(&[
        ("EHLO c", 250),
        ("MAIL FROM:<a@b.example>", 530),
        ("RCPT TO:<a@b.example>", 530),
        ("VRFY a", 530),
        ("NOOP", 250),
        ("STARTTLS", 220),
    ]);
    client.session.secured();
    assert_eq!(client.session.hello(), None);
    client.check(&[
        ("MAIL FROM:<a@b.example>", 503),
        ("STARTTLS", 503),
        ("EHLO c", 250),
        ("MAIL FROM:<>", 250),
    ]);
    let Action::Say(ehlo) = client.session.line(b"EHLO c", &client.settings) else { panic!() };
    assert!(!ehlo.text.contains("STARTTLS"));
}

#[test]
fn limits_are_those_of_the_settings_given() {
    let mut client = Agreeable::new(TlsMode::Optional);
    client.settings.limits.recipients = 1;
    client.check(&[
        ("EHLO c", 250),
        ("MAIL FROM:<> SIZE=52428801", 552),
        ("MAIL FROM:<> SIZE=52428800", 250),
        ("RCPT TO:<a@b.example>", 250),
        ("RCPT TO:<b@b.example>", 452),
        ("DATA", 354),
    ]);
}

#[test]
fn refused_addresses_are_no_protocol_errors_but_nonsense_and_idle_talk_are() {
    let mut client = Agreeable::new(TlsMode::Optional);
    client.check(&[("EHLO c", 250), ("MAIL FROM:<>", 250)]);
    for _ in 0..1000 {
        client.check(&[("RCPT TO:<nonsense>", 501)]);
    }
    client.check(&[("RCPT TO:<a@b.example>", 250), ("DATA", 354)]);
    let chatter = client.settings.limits.chatter + client.settings.limits.errors;
    for _ in 0..chatter {
        client.check(&[("NOOP", 250)]);
    }
    client.check(&[("NOOP", 421)]);
}

proptest! {
    #[test]
    fn content_is_only_ever_asked_for_with_a_sender_and_a_recipient(
        lines in prop::collection::vec(prop::sample::select(vec![
            "EHLO c", "HELO c", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "DATA", "RSET", "NOOP", "X", "STARTTLS",
        ]), 0..30)
    ) {
        let mut client = Agreeable::new(TlsMode::Optional);
        let (mut sender, mut recipients, mut hello) = (false, 0, false);
        for line in lines {
            let code = client.say(line);
            match (line, code) {
                (_, 421) => break,
                ("EHLO c" | "HELO c", 250) => (hello, sender, recipients) = (true, false, 0),
                ("STARTTLS", 220) => {
                    client.session.secured();
                    (hello, sender, recipients) = (false, false, 0);
                }
                ("RSET", 250) => (sender, recipients) = (false, 0),
                ("MAIL FROM:<>", 250) => {
                    prop_assert!(hello && !sender);
                    sender = true;
                }
                ("RCPT TO:<a@b.example>", 250) => {
                    prop_assert!(sender);
                    recipients += 1;
                }
                ("DATA", 354) => {
                    prop_assert!(sender && recipients > 0);
                    (sender, recipients) = (false, 0);
                }
                _ => {}
            }
            prop_assert_eq!(client.session.in_transaction(), sender);
        }
    }
}
