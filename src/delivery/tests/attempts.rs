//! One attempt at a time.

use super::*;
use crate::bundle::document::OnTlsFailure;
use crate::delivery::attempt::{Outside, attempt};
use crate::delivery::client::transaction::Letter;
use crate::delivery::outcome::{Outcome, Stage, Trouble};
use crate::delivery::plan::{self, MX_PORT};
use crate::delivery::sink::{Action, Authority, Behaviour, Sink, nobody, say};
use crate::mail::edit;
use crate::mail::envelope::{BodyType, Notify, Ret, Sender};

const MESSAGE: &[u8] = b"Received: x\r\nSubject: s\r\n\r\n.dot\r\n..two\r\nbody\r\n";

#[derive(Debug)]
pub struct Tried {
    pub outcomes: Vec<Outcome>,
}

impl Tried {
    /// `delivered`, `later`, or the status: one word per recipient.
    pub fn words(&self) -> Vec<String> {
        let word = |outcome: &Outcome| match outcome {
            Outcome::Delivered(_) => "delivered".to_owned(),
            Outcome::Later(_) => "later".to_owned(),
            Outcome::Failed { status: [a, b, c], .. } => format!("{a}.{b}.{c}"),
        };
        self.outcomes.iter().map(word).collect()
    }

    pub fn trouble(&self) -> &Trouble {
        match &self.outcomes[0] {
            Outcome::Later(problem) | Outcome::Failed { problem, .. } => &problem.trouble,
            Outcome::Delivered(receipt) => panic!("delivered: {receipt:?}"),
        }
    }
}

pub struct Attempt {
    pub route: Route,
    pub ca: Option<String>,
    /// Secrets.
    pub materials: Materials,
    pub sender: Sender,
    pub content: Vec<u8>,
    pub require_tls: bool,
    pub outside: Outside,
}

impl Attempt {
    pub fn over(route: Route) -> Self {
        let sender = Sender { mailbox: Some("app@solarmora.com".parse().unwrap()), ..Sender::default() };
        let outside = Outside { timeouts: impatient(), ..Outside::default() };
        Self {
            route,
            ca: None,
            materials: Materials::default(),
            sender,
            content: MESSAGE.to_vec(),
            require_tls: false,
            outside,
        }
    }

    pub fn to_hosts(at: &[std::net::SocketAddr]) -> Self {
        Self::over(route(hosts(at)))
    }

    pub async fn send(&self, recipients: &[Recipient]) -> Tried {
        let routes = vec![self.route.clone()];
        let table = table_with(gateway(), routes, self.ca.as_deref(), &self.materials);
        let route = table.resolve(&via()).expect("the route is usable");
        let host = recipients[0].mailbox.host();
        let plan =
            plan::plan(&table, &self.outside.dns, route, host, self.require_tls, MX_PORT).await.unwrap();
        let (head, rest) = edit::split(&self.content);
        let letter = Letter::new(&self.sender, head, rest);
        let recipients: Vec<&Recipient> = recipients.iter().collect();
        Tried { outcomes: attempt(&self.outside, &table, &plan, &pass(&plan), &letter, &recipients).await }
    }
}

async fn one(behaviour: Behaviour) -> (Sink, Attempt) {
    let sink = Sink::start(behaviour).await;
    let attempt = Attempt::to_hosts(&[sink.address]);
    (sink, attempt)
}

#[tokio::test]
async fn content_arrives_byte_for_byte_with_and_without_pipelining_and_ehlo() {
    let ways = [
        Behaviour::default(),
        Behaviour::bare(),
        Behaviour::bare().on("EHLO", say("502 5.5.1 no")),
        Behaviour::default().on_times("CONNECT", 1, say("220-two\r\n220 lines")),
    ];
    for behaviour in ways {
        let (sink, attempt) = one(behaviour).await;
        let tried = attempt.send(&[to("a@x.example"), to("b@x.example")]).await;
        assert_eq!(tried.words(), ["delivered", "delivered"]);
        let mails = sink.accepted();
        assert_eq!((mails.len(), mails[0].rcpts.len()), (1, 2));
        assert_eq!(mails[0].content, MESSAGE);
    }
}

#[tokio::test]
async fn recipients_in_one_transaction_have_fates_of_their_own() {
    for behaviour in [Behaviour::default(), Behaviour::bare()] {
        let behaviour = behaviour
            .on("RCPT TO:<no@", say("550-5.1.1 no such\r\n550 5.1.1 user"))
            .on("RCPT TO:<later@", say("450 4.2.0 greylisted"));
        let (sink, attempt) = one(behaviour).await;
        let tried = attempt.send(&[to("no@x.example"), to("yes@x.example"), to("later@x.example")]).await;
        assert_eq!(tried.words(), ["5.1.1", "delivered", "later"]);
        assert_eq!(sink.accepted()[0].rcpts, ["RCPT TO:<yes@x.example>"]);
        let Trouble::Refused(Stage::Rcpt, reply) = tried.trouble() else { panic!() };
        assert_eq!(reply.to_string(), "550 5.1.1 no such user");
    }
}

#[tokio::test]
async fn refusals_and_faults_at_every_stage_mean_what_they_mean() {
    let close = || Action::Close;
    for (moment, action, expected) in [
        ("CONNECT", say("554 no"), "later"),
        ("CONNECT", say("521 never"), "5.0.0"),
        ("CONNECT", close(), "later"),
        ("CONNECT", Action::Hang, "later"),
        ("CONNECT", say("garbage"), "later"),
        ("EHLO", Action::SayAndClose("421 4.3.2 busy".into()), "later"),
        ("MAIL", say("550 5.7.1 not you"), "5.7.1"),
        ("MAIL", say("451 4.3.0 hm"), "later"),
        ("MAIL", say("552 5.3.4 too big"), "5.3.4"),
        ("RCPT", say("550 no enhanced code"), "5.0.0"),
        ("RCPT", Action::SayAndClose("421 4.3.2 bye".into()), "later"),
        ("RCPT", say("452 4.5.3 too many"), "later"),
        ("DATA", say("554 5.5.1 no"), "5.5.1"),
        ("DATA", Action::SayAndClose("421 4.3.2 bye".into()), "later"),
        ("DATA", close(), "later"),
        ("CONTENT", close(), "later"),
        ("END", say("554 5.6.0 bad content"), "5.6.0"),
        ("END", say("451 4.3.0 disk"), "later"),
        ("END", close(), "later"),
        ("END", Action::Hang, "later"),
    ] {
        for behaviour in [Behaviour::default(), Behaviour::bare()] {
            let (sink, attempt) = one(behaviour.on(moment, action.clone())).await;
            let tried = attempt.send(&[to("a@x.example")]).await;
            assert_eq!(tried.words(), [expected], "{moment}: {:?}, {:?}", tried.outcomes, sink.commands());
            assert!(sink.accepted().is_empty());
        }
    }
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_is_dead_or_moody_and_not_when_it_spoke_of_the_message() {
    let good = Sink::start(Behaviour::default()).await;
    let secondary = |first: std::net::SocketAddr| {
        let primary = vec![host(first)];
        Attempt::over(route(RouteTarget::Hosts { primary, secondary: vec![host(good.address)] }))
    };
    let moody = Sink::start(Behaviour::default().on("CONNECT", say("421 4.3.2 busy"))).await;
    for dead in [nobody().await, moody.address] {
        let tried = secondary(dead).send(&[to("a@x.example")]).await;
        assert_eq!(tried.words(), ["delivered"]);
    }
    let firm = Sink::start(Behaviour::default().on("RCPT", say("550 5.1.1 no"))).await;
    assert_eq!(secondary(firm.address).send(&[to("a@x.example")]).await.words(), ["5.1.1"]);
    assert_eq!(good.accepted().len(), 2);
}

#[tokio::test]
async fn more_recipients_than_one_transaction_takes_are_split() {
    let behaviour = Behaviour::default().on_times("RCPT TO:<r7@", 1, say("452 4.5.3 enough"));
    let (sink, attempt) = one(behaviour).await;
    let recipients: Vec<_> = (0..250).map(|n| to(&format!("r{n}@x.example"))).collect();
    let tried = attempt.send(&recipients).await;
    assert!(tried.words().iter().all(|word| word == "delivered"));
    let mails = sink.accepted();
    assert!(mails.iter().all(|mail| mail.rcpts.len() <= 100));
    let mut rcpts: Vec<String> = mails.into_iter().flat_map(|mail| mail.rcpts).collect();
    rcpts.sort();
    rcpts.dedup();
    assert_eq!(rcpts.len(), 250);
    assert_eq!(sink.connections(), 1, "one session serves all");
}

#[tokio::test]
async fn a_session_is_used_again_and_replaced_when_the_host_closed_it() {
    let (sink, attempt) = one(Behaviour::default()).await;
    for _ in 0..3 {
        assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    }
    assert_eq!(sink.connections(), 1);
    // Closed exactly when the next message begins.
    sink.behave(Behaviour::default().on_times("MAIL", 1, Action::Close));
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    sink.behave(Behaviour::default().on_times("MAIL", 1, Action::SayAndClose("421 4.4.2 idle".into())));
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    assert_eq!((sink.connections(), sink.accepted().len()), (3, 5));
}

#[tokio::test]
async fn extensions_are_used_when_offered_and_repeated_parameters_are_what_came() {
    let (sink, mut attempt) = one(Behaviour::default()).await;
    attempt.sender = Sender {
        mailbox: Some("MiXeD+tag@Solarmora.COM".parse().unwrap()),
        body: BodyType::EightBitMime,
        smtputf8: false,
        ret: Some(Ret::Headers),
        envid: Some("QQ+2B1".into()),
        require_tls: false,
    };
    attempt.content = b"Received: x\r\nSubject: s\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n".to_vec();
    let recipient = Recipient {
        notify: Notify::On { success: true, failure: true, delay: false },
        original: Some("rfc822;a+2Bb@X.example".into()),
        ..to("a+b@X.example")
    };
    let tried = attempt.send(&[recipient, Recipient { notify: Notify::Never, ..to("c@x.example") }]).await;
    let Outcome::Delivered(receipt) = &tried.outcomes[0] else { panic!("{:?}", tried.outcomes) };
    assert!(receipt.dsn && receipt.tls.is_none());
    let size = attempt.content.len();
    let mails = sink.accepted();
    assert_eq!(
        mails[0].mail,
        format!("MAIL FROM:<MiXeD+tag@Solarmora.COM> SIZE={size} BODY=8BITMIME RET=HDRS ENVID=QQ+2B1")
    );
    assert_eq!(
        mails[0].rcpts,
        [
            "RCPT TO:<a+b@X.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@X.example",
            "RCPT TO:<c@x.example> NOTIFY=NEVER"
        ]
    );
    assert_eq!(mails[0].content, attempt.content);
}

#[tokio::test]
async fn what_a_host_cannot_take_is_returned_and_never_converted() {
    let (sink, mut attempt) = one(Behaviour::bare()).await;
    attempt.content = b"Subject: s\r\n\r\n\xff\r\n".to_vec();
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["5.6.3"]);
    attempt.content = MESSAGE.to_vec();
    attempt.sender.smtputf8 = true;
    assert_eq!(attempt.send(&[to("jürgen@x.example")]).await.words(), ["5.6.7"]);
    // A domain alone can be written in ASCII.
    assert_eq!(attempt.send(&[to("a@bücher.example")]).await.words(), ["delivered"]);
    assert_eq!(sink.accepted()[0].rcpts, ["RCPT TO:<a@xn--bcher-kva.example>"]);

    let (small, attempt) =
        one(Behaviour { extensions: vec!["SIZE 10".into()], ..Behaviour::default() }).await;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["5.3.4"]);
    assert!(small.mails().is_empty());
}

#[tokio::test]
async fn smtputf8_is_demanded_only_where_it_is_needed() {
    let (sink, mut attempt) = one(Behaviour::default()).await;
    attempt.sender.smtputf8 = true;
    for (recipient, content, needed) in [
        ("a@x.example", MESSAGE, false),
        ("jürgen@x.example", MESSAGE, true),
        ("a@x.example", "Subject: Grüße\r\n\r\nx\r\n".as_bytes(), true),
        ("a@x.example", "Subject: s\r\n\r\nGrüße\r\n".as_bytes(), false),
    ] {
        attempt.content = content.to_vec();
        assert_eq!(attempt.send(&[to(recipient)]).await.words(), ["delivered"]);
        let mail = sink.accepted().pop().unwrap();
        assert_eq!(mail.mail.contains("SMTPUTF8"), needed, "{mail:?}");
        assert!(mail.rcpts[0].contains(recipient));
        assert_eq!(mail.content, content);
    }
}

#[tokio::test]
async fn long_lines_and_large_messages_arrive_whole() {
    let (sink, mut attempt) = one(Behaviour::default()).await;
    for length in [998, 1200, 70_000, 2 << 20] {
        let mut content = b"Subject: s\r\n\r\n".to_vec();
        content.extend(std::iter::repeat_n(b'.', length));
        content.extend_from_slice(b"\r\n.\r\n");
        attempt.content = content;
        assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
        assert!(sink.accepted().pop().unwrap().content == attempt.content, "{length} octets");
    }
}

#[tokio::test]
async fn tls_is_used_when_offered_and_clear_text_only_when_nothing_demands_tls() {
    let authority = Authority::new();
    let (sink, attempt) = one(Behaviour::with_tls(authority.server(&["other.example"]))).await;
    let tried = attempt.send(&[to("a@x.example")]).await;
    let Outcome::Delivered(receipt) = &tried.outcomes[0] else { panic!("{:?}", tried.outcomes) };
    assert!(receipt.tls.as_deref().unwrap().starts_with("TLSv1.3 with cipher TLS13_"), "{receipt:?}");
    assert!(sink.accepted()[0].tls);
    let commands = sink.commands();
    assert_eq!(commands[..3], ["EHLO gw.solarmora.com", "STARTTLS", "EHLO gw.solarmora.com"]);
}

#[tokio::test]
async fn broken_tls_falls_back_to_clear_text_unless_demanded() {
    let authority = Authority::new();
    let tls = || Behaviour::with_tls(authority.server(&["127.0.0.1"]));
    for action in [
        say("220 go\r\nthis is not TLS"),
        Action::SayAndClose("220 go".into()),
        say("454 4.7.0 not now"),
        Action::Close,
    ] {
        let (sink, mut attempt) = one(tls().on("STARTTLS", action)).await;
        let tried = attempt.send(&[to("a@x.example")]).await;
        let Outcome::Delivered(receipt) = &tried.outcomes[0] else { panic!("{:?}", tried.outcomes) };
        assert!(receipt.tls.is_none() && !sink.accepted()[0].tls);

        attempt.require_tls = true;
        assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
        assert_eq!(sink.accepted().len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_sent_in_clear_text_where_tls_is_required() {
    let (sink, mut attempt) = one(Behaviour::default()).await;
    attempt.require_tls = true;
    let tried = attempt.send(&[to("a@x.example")]).await;
    assert_eq!(tried.words(), ["5.7.4"]);
    assert_eq!(sink.commands(), ["EHLO gw.solarmora.com", "QUIT"]);
    // The same over the route's own switch; deferred where the route says so.
    attempt.require_tls = false;
    attempt.route.tls.require = true;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["5.7.4"]);
    attempt.route.on_tls_failure = OnTlsFailure::Defer;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    // A host that was not reached might have had TLS: then nothing is established.
    attempt.route.on_tls_failure = OnTlsFailure::Bounce;
    attempt.route.target = hosts(&[sink.address, nobody().await]);
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    // HELO is not a complete EHLO response.
    let (_sink, mut attempt) = one(Behaviour::bare().on("EHLO", say("502 no"))).await;
    attempt.require_tls = true;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    assert!(sink.mails().is_empty());
}

#[tokio::test]
async fn clear_text_that_was_injected_behind_starttls_is_never_read_as_a_reply() {
    let authority = Authority::new();
    let behaviour = Behaviour::with_tls(authority.server(&["127.0.0.1"])).on_times(
        "STARTTLS",
        1,
        say("220 go\r\n250-evil.example\r\n250 SIZE 1"),
    );
    let (sink, mut attempt) = one(behaviour).await;
    attempt.require_tls = true;
    // The sink never starts TLS here; what matters is that its words were not taken for EHLO's.
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    assert!(sink.mails().is_empty());
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
}

#[tokio::test]
async fn implicit_tls_never_falls_back() {
    let authority = Authority::new();
    let behaviour = Behaviour { implicit: true, ..Behaviour::with_tls(authority.server(&["127.0.0.1"])) };
    let (sink, mut attempt) = one(behaviour).await;
    attempt.route.tls.mode = TlsMode::Implicit;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    assert!(sink.accepted()[0].tls);
    let (plain, mut attempt) = one(Behaviour::default()).await;
    attempt.route.tls.mode = TlsMode::Implicit;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    assert!(plain.mails().is_empty());
}
