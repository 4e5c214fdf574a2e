use proptest::prelude::*;

use super::*;
use crate::mail::envelope::{BodyType, Ret};

/// The reply to a line that is refused, `ok` for one that is not.
fn verdict(line: &str) -> String {
    match parse(line.as_bytes()) {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let reply = error.reply();
            assert_eq!(reply.enhanced.unwrap()[0], reply.code / 100, "{line:?}: classes differ");
            let [class, subject, detail] = reply.enhanced.unwrap();
            format!("{} {class}.{subject}.{detail}", reply.code)
        }
    }
}

#[test]
fn every_line_gets_its_own_answer() {
    for (line, expected) in [
        // Verbs
        ("NOOP", "ok"),
        ("noop what ever", "ok"),
        ("dAtA  \t", "ok"),
        ("QUIT", "ok"),
        ("HELP mail", "ok"),
        ("VRFY a@b.example", "ok"),
        ("StartTLS", "ok"),
        ("STARTTLS now", "501 5.5.4"),
        ("DATA now", "501 5.5.4"),
        ("RSET now", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("", "500 5.5.2"),
        (" NOOP", "500 5.5.2"),
        ("XYZZY", "500 5.5.2"),
        ("DATAX", "500 5.5.2"),
        ("STARTTLSS", "500 5.5.2"),
        ("AUTH PLAIN AGEAYg==", "ok"),
        ("auth login", "ok"),
        ("AUTH PLAIN =", "ok"),
        ("AUTH", "501 5.5.4"),
        ("AUTH PLAIN a b", "501 5.5.4"),
        ("BDAT 5 LAST", "ok"),
        ("bdat 0 last", "ok"),
        ("BDAT 99999999999999999999", "ok"),
        ("BDAT", "501 5.5.4"),
        ("BDAT x", "501 5.5.4"),
        ("BDAT -1", "501 5.5.4"),
        ("BDAT +5", "501 5.5.4"),
        ("BDAT 5 FIRST", "501 5.5.4"),
        ("BDAT 5 LAST 6", "501 5.5.4"),
        ("BDAT 5\0 LAST", "501 5.5.4"),
        ("BDATX 5", "501 5.5.4"),
        ("expn list", "502 5.5.1"),
        ("GET / HTTP/1.1", "554 5.5.1"),
        ("NOOP\r", "500 5.5.2"),
        ("NOOP\0", "500 5.5.2"),
        // Greetings
        ("EHLO c.example", "ok"),
        ("ehlo [192.0.2.1]", "ok"),
        ("EHLO [IPv6:2001:db8::1]", "ok"),
        ("HELO my_printer", "ok"),
        ("EHLO", "501 5.5.4"),
        ("HELO  ", "501 5.5.4"),
        ("EHLO a b", "501 5.5.4"),
        ("EHLO a(evil)", "501 5.5.4"),
        ("EHLO a;b", "501 5.5.4"),
        ("EHLO bücher.example", "501 5.5.4"),
        // Paths
        ("MAIL FROM:<a@b.example>", "ok"),
        ("mail from: <a@b.example> ", "ok"),
        ("MAIL FROM:<>", "ok"),
        ("MAIL FROM:<> AUTH=<>", "ok"),
        ("MAIL FROM:<> AUTH=e+3Dmc2@example.com", "ok"),
        ("MAIL FROM:<> AUTH=", "501 5.5.4"),
        ("MAIL FROM:<> AUTH=a=b", "501 5.5.4"),
        ("MAIL FROM:<> AUTH=<> AUTH=<>", "501 5.5.4"),
        ("MAIL FROM:<> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<\"a>b\"@c.example>", "ok"),
        ("MAIL FROM:<\"a\\\"> b\"@c.example>", "ok"),
        ("MAIL FROM:<@r1.example,@r2.example:a@b.example>", "ok"),
        ("MAIL FROM:<a@[IPv6:2001:db8::25]>", "ok"),
        ("MAIL FROM:<jürgen@b.example> SMTPUTF8", "ok"),
        ("MAIL", "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL TO:<a@b.example>", "501 5.5.4"),
        ("MAIL FROM:a@b.example", "501 5.5.4"),
        ("MAIL FROM:<a@b.example", "501 5.5.4"),
        ("MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example>>", "501 5.5.4"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<a b@c.example>", "501 5.1.7"),
        ("MAIL FROM:<a@b@c.example>", "501 5.1.7"),
        ("MAIL FROM:<postmaster>", "501 5.1.7"),
        ("MAIL FROM:<@r1:a@b.example,>", "501 5.1.7"),
        ("MAIL FROM:<@r1,r2:a@b.example>", "501 5.1.7"),
        ("MAIL FROM:<@:a@b.example>", "501 5.1.7"),
        ("MAIL FROM:<a\u{1}b@c.example>", "500 5.5.2"),
        ("MAIL FROM:<a\u{7f}b@c.example>", "500 5.5.2"),
        ("MAIL FROM:<a\0b@c.example>", "500 5.5.2"),
        ("MAIL FROM:<a\u{85}b@c.example>", "501 5.1.7"),
        ("RCPT TO:<a@b.example>", "ok"),
        ("RCPT TO:<Postmaster>", "ok"),
        ("RCPT TO:<@r1.example:a@b.example>", "ok"),
        ("RCPT TO:<u%other.example@d.example>", "ok"),
        ("RCPT TO:<other!u@d.example>", "ok"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<a>", "501 5.1.3"),
        ("RCPT TO:<a@>", "501 5.1.3"),
        ("RCPT TO:<a@b..example>", "501 5.1.3"),
        ("RCPT TO:<@r1.example>", "501 5.1.3"),
        ("RCPT TO:<a@[300.1.1.1]>", "501 5.1.3"),
        ("RCPT FROM:<a@b.example>", "501 5.5.4"),
        // Parameters
        ("MAIL FROM:<a@b.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159", "ok"),
        ("MAIL FROM:<a@b.example>  size=0   body=7bit  ret=full", "ok"),
        ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", "ok"),
        ("MAIL FROM:<a@b.example> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SMTPUTF8=yes", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> RET=SOME", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+2Bb", "ok"),
        ("MAIL FROM:<a@b.example> ENVID=a+2bb", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+0D+0Ab", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+7Fb", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a=b", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> REQUIRETLS=YES", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> REQUIRETLS requiretls", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> XREQUIRE", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> SUBMITTER=a@b.example", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<a@b.example> NOTIFY=NEVER", "ok"),
        ("RCPT TO:<a@b.example> notify=success,Failure,DELAY orcpt=rfc822;a+40b@c.example", "ok"),
        ("RCPT TO:<a@b.example> ORCPT=utf-8;jürgen@c.example", "ok"),
        ("RCPT TO:<a@b.example> ORCPT=rfc822;jürgen@c.example", "501 5.5.4"),
        ("RCPT TO:<a@b.example> NOTIFY=NEVER,FAILURE", "501 5.5.4"),
        ("RCPT TO:<a@b.example> NOTIFY=", "501 5.5.4"),
        ("RCPT TO:<a@b.example> ORCPT=a@c.example", "501 5.5.4"),
        ("RCPT TO:<a@b.example> ORCPT=rfc822;", "501 5.5.4"),
        ("RCPT TO:<a@b.example> SIZE=1", "555 5.5.4"),
    ] {
        assert_eq!(verdict(line), expected, "{line:?}");
    }
    assert_eq!(parse(b"NOOP \xff"), Err(CommandError::NotUtf8));
}

#[test]
fn addresses_and_parameters_keep_every_octet() {
    let line = "RCPT TO:<@r.example:MiXeD+b=c/d{e}!#$%&*?^_@Example.ORG> NOTIFY=FAILURE ORCPT=rfc822;A+2Bb@X";
    let Ok(Command::Rcpt { to: Forward::Mailbox(mailbox), notify, original }) = parse(line.as_bytes()) else {
        panic!("refused");
    };
    assert_eq!(mailbox.to_string(), "MiXeD+b=c/d{e}!#$%&*?^_@Example.ORG");
    assert_eq!(notify, Notify::On { success: false, failure: true, delay: false });
    assert_eq!(original.as_deref(), Some("rfc822;A+2Bb@X"));
}

#[test]
fn a_declared_size_beyond_counting_is_still_too_big() {
    let parsed = parse(b"MAIL FROM:<> SIZE=99999999999999999999").unwrap();
    assert_eq!(parsed, Command::Mail { sender: Sender::default(), size: Some(u64::MAX) });
}

/// The line that says a command.
fn write(command: &Command) -> String {
    match command {
        Command::Ehlo(name) => format!("EHLO {name}"),
        Command::Helo(name) => format!("HELO {name}"),
        Command::Mail { sender, size } => {
            let mailbox = sender.mailbox.as_ref().map(ToString::to_string).unwrap_or_default();
            let mut line = format!("MAIL FROM:<{mailbox}>");
            if let Some(size) = size {
                line += &format!(" SIZE={size}");
            }
            if sender.body == BodyType::EightBitMime {
                line += " BODY=8BITMIME";
            }
            if sender.smtputf8 {
                line += " SMTPUTF8";
            }
            line += match sender.ret {
                None => "",
                Some(Ret::Full) => " RET=FULL",
                Some(Ret::Headers) => " RET=HDRS",
            };
            if let Some(envid) = &sender.envid {
                line += &format!(" ENVID={envid}");
            }
            line
        }
        Command::Rcpt { to, notify, original } => {
            let to = match to {
                Forward::Mailbox(mailbox) => mailbox.to_string(),
                Forward::Postmaster(written) => written.clone(),
            };
            let mut line = format!("RCPT TO:<{to}>");
            match notify {
                Notify::Unset => {}
                Notify::Never => line += " NOTIFY=NEVER",
                Notify::On { success, failure, delay } => {
                    let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                    let words: Vec<_> = words.iter().filter(|(on, _)| **on).map(|(_, word)| *word).collect();
                    line += &format!(" NOTIFY={}", words.join(","));
                }
            }
            if let Some(original) = original {
                line += &format!(" ORCPT={original}");
            }
            line
        }
        Command::Data => "DATA".into(),
        Command::Bdat { size, last } => format!("BDAT {size}{}", if *last { " LAST" } else { "" }),
        Command::Auth { mechanism, initial } => match initial {
            Some(initial) => format!("AUTH {mechanism} {initial}"),
            None => format!("AUTH {mechanism}"),
        },
        Command::Rset => "RSET".into(),
        Command::Noop => "NOOP".into(),
        Command::Quit => "QUIT".into(),
        Command::Vrfy => "VRFY x".into(),
        Command::Help => "HELP".into(),
        Command::StartTls => "STARTTLS".into(),
    }
}

fn mailbox() -> impl Strategy<Value = Mailbox> {
    prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,12}@[a-z0-9]{1,8}\\.example",
        "[a-zä-ü]{1,8}@[a-z]{1,8}\\.example",
        "\"[a-z @<>.,;:]{1,8}\"@[a-z]{1,8}\\.example",
        "[a-z]{1,8}@\\[192\\.0\\.2\\.[1-9]\\]",
    ]
    .prop_map(|text| text.parse().unwrap())
}

fn any_command() -> impl Strategy<Value = Command> {
    let ret = prop::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]);
    let notify = prop_oneof![
        Just(Notify::Unset),
        Just(Notify::Never),
        (any::<bool>(), any::<bool>()).prop_map(|(success, delay)| Notify::On {
            success,
            failure: !success,
            delay
        }),
    ];
    let sender = (
        prop::option::of(mailbox()),
        any::<bool>(),
        any::<bool>(),
        ret,
        prop::option::of("[a-zA-Z0-9]{1,20}(\\+2B)?"),
    );
    prop_oneof![
        "[a-z.]{1,20}".prop_map(Command::Ehlo),
        "[a-z.]{1,20}".prop_map(Command::Helo),
        (sender, prop::option::of(any::<u64>())).prop_map(
            |((mailbox, eight, smtputf8, ret, envid), size)| {
                let body = if eight { BodyType::EightBitMime } else { BodyType::SevenBit };
                Command::Mail {
                    sender: Sender { mailbox, body, smtputf8, ret, envid, require_tls: false },
                    size,
                }
            }
        ),
        (mailbox(), notify, prop::option::of("rfc822;[a-z@.]{1,20}")).prop_map(
            |(mailbox, notify, original)| {
                Command::Rcpt { to: Forward::Mailbox(mailbox), notify, original }
            }
        ),
        (any::<u64>(), any::<bool>()).prop_map(|(size, last)| Command::Bdat { size, last }),
        ("[A-Z0-9-]{1,20}", prop::option::of("[A-Za-z0-9+/=]{1,40}"))
            .prop_map(|(mechanism, initial)| Command::Auth { mechanism, initial }),
        prop::sample::select(vec![
            Command::Data,
            Command::Rset,
            Command::Quit,
            Command::StartTls,
            Command::Vrfy
        ]),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(command in any_command(), blanks in "[ \t]{0,3}") {
        let line = write(&command) + &blanks;
        prop_assert_eq!(parse(line.as_bytes()), Ok(command));
    }

    #[test]
    fn no_line_makes_it_panic(octets in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse(&octets);
    }

    #[test]
    fn no_argument_makes_it_panic(verb in "MAIL FROM:|RCPT TO:|EHLO ", rest in "[<>@,:\"\\\\ =+;a.A\u{e4}\\[\\]\t]{0,30}") {
        let _ = parse((verb + &rest).as_bytes());
    }
}
