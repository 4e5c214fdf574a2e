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
        let action = self.session.line(line.as_bytes(), &self.settings);
        self.act(action)
    }

    fn act(&mut self, action: Action) -> u16 {
        match action {
            Action::Say(reply) | Action::NoData(reply) | Action::Close(reply) | Action::StartTls(reply) => {
                reply.code
            }
            Action::Mail { sender, .. } => self.session.began(sender.smtputf8).code,
            Action::Rcpt(_) => self.session.added().code,
            Action::Data => {
                self.session.ended(&ok());
                354
            }
            Action::Chunk { last, .. } => {
                if last {
                    self.session.ended(&ok());
                }
                250
            }
            Action::NoChunk { reply, .. } | Action::LoggedIn(reply) => reply.code,
            Action::LogIn { mechanism, initial } => {
                let action = self.session.log_in(Some((mechanism, initial.as_deref())), &self.settings);
                self.act(action)
            }
            Action::LoginFailed(action) => self.act(*action),
        }
    }

    fn check(&mut self, lines: &[(&str, u16)]) {
        for (line, code) in lines {
            assert_eq!(self.say(line), *code, "{line}");
        }
    }
}

#[test]
fn chunks_and_data_do_not_mix_and_recipients_come_before_content() {
    let start = [("EHLO c", 250), ("MAIL FROM:<a@b.example>", 250), ("RCPT TO:<b@b.example>", 250)];
    let check = |lines: &[(&str, u16)]| {
        Agreeable::new(TlsMode::Optional).check(&[&start[..], lines].concat());
    };
    check(&[("BDAT 3", 250), ("BDAT 0", 250), ("BDAT 3 LAST", 250), ("BDAT 3 LAST", 503)]);
    check(&[("BDAT 3", 250), ("RCPT TO:<c@b.example>", 503), ("BDAT 0 LAST", 250)]);
    check(&[("BDAT 3", 250), ("MAIL FROM:<a@b.example>", 503), ("BDAT 0 LAST", 250)]);
    // The state is void then, so no half message is ever completed.
    check(&[("BDAT 3", 250), ("DATA", 503), ("BDAT 3 LAST", 503), ("MAIL FROM:<a@b.example>", 250)]);
    check(&[("BDAT 3", 250), ("RSET", 250), ("BDAT 3 LAST", 503), ("MAIL FROM:<a@b.example>", 250)]);
    check(&[("BDAT 3", 250), ("EHLO c", 250), ("BDAT 3 LAST", 503)]);
    Agreeable::new(TlsMode::Optional).check(&[("BDAT 3 LAST", 503), ("EHLO c", 250), ("BDAT 3", 503)]);
    Agreeable::new(TlsMode::Required).check(&[("EHLO c", 250), ("BDAT 3 LAST", 530), ("AUTH PLAIN", 530)]);
}

#[test]
fn a_login_needs_tls_comes_once_and_ends_with_tls_alone() {
    let users =
        || std::sync::Arc::new(super::super::auth::Users::new([("app", Box::<[u8]>::from(&b"pencil"[..]))]));
    let mut clear = Agreeable::new(TlsMode::Optional);
    clear.check(&[("EHLO c", 250), ("AUTH PLAIN AGFwcABwZW5jaWw=", 502)]);
    clear.settings.users = users();
    clear.check(&[("AUTH PLAIN AGFwcABwZW5jaWw=", 538), ("AUTH PLAIN", 538), ("AGFwcABwZW5jaWw=", 500)]);
    assert_eq!(clear.session.login(), None);

    let mut secured = Agreeable::new(TlsMode::Implicit);
    secured.settings.users = users();
    secured.check(&[
        ("AUTH PLAIN", 503),
        ("HELO c", 250),
        ("AUTH PLAIN", 503),
        ("EHLO c", 250),
        ("AUTH GSSAPI", 504),
        ("AUTH PLAIN", 334),
        ("*", 501),
        ("AUTH PLAIN", 334),
        ("MAIL FROM:<a@b.example>", 501),
        ("MAIL FROM:<a@b.example>", 250),
        ("AUTH PLAIN", 503),
        ("RSET", 250),
        ("AUTH PLAIN AGFwcABwZW4=", 535),
        ("AUTH LOGIN", 334),
        ("YXBw", 334),
        ("cGVuY2ls", 235),
        ("AUTH PLAIN", 503),
        ("RSET", 250),
        ("EHLO again", 250),
        ("MAIL FROM:<a@b.example>", 250),
    ]);
    assert_eq!(secured.session.login().map(|name| &**name), Some("app"));
    secured.session.secured();
    assert_eq!(secured.session.login(), None);
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
