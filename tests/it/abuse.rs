//! Clients that mean harm or do harm: smuggling, relaying, slowness, floods (family C).

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, send};
use crate::support::gateway::Standalone;
use crate::support::sink::Sink;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait;

struct Setup {
    sink: Sink,
    gateway: Standalone,
    _site: Site,
}

fn setup(name: &str, more: &str) -> Setup {
    let sink = wait(Sink::start(Default::default()));
    let site = Site::new(name, sink.address);
    site.gateway(more);
    let gateway = site.start();
    Setup { sink, gateway, _site: site }
}

/// Everything that left, octet for octet, has CRLF for a line end and nothing else that looks like one.
fn assert_clean(content: &[u8]) {
    let bare_lf = |at: usize| content[at] == b'\n' && (at == 0 || content[at - 1] != b'\r');
    let bare_cr = |at: usize| content[at] == b'\r' && content.get(at + 1) != Some(&b'\n');
    let dirty = (0..content.len()).find(|&at| bare_lf(at) || bare_cr(at) || content[at] == 0);
    assert_eq!(dirty, None, "{:?}", String::from_utf8_lossy(content));
}

/// C1: what some reader takes for the end of data, with a second message behind it.
#[test]
fn c1_no_false_end_of_data_smuggles_a_second_message() {
    let setup = setup("smuggling", "");
    let ends: [&[u8]; 9] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\n\n.\r\r\n",
    ];
    let mut sent = 0;
    for end in ends {
        let mut client = Client::hello(setup.gateway.smtp);
        for line in [format!("MAIL FROM:<{OWN}>"), format!("RCPT TO:<{PARTNER}>"), "DATA".to_owned()] {
            client.say(&line).unwrap();
        }
        let smuggled = [
            format!("MAIL FROM:<{OWN}>\r\nRCPT TO:<smuggled@partner.example>\r\nDATA\r\n").as_bytes(),
            b"Subject: smuggled\r\n\r\nhello\r\n.\r\n",
        ]
        .concat();
        client.raw(&[message("outer").trim_end().as_bytes(), end, &smuggled].concat()).unwrap();
        let first = client.reply().unwrap();
        assert!(first.starts_with("250") || first.starts_with('5'), "{end:?}: {first}");
        sent += usize::from(first.starts_with("250"));
        let rest = client.rest();
        assert!(rest.is_empty(), "one message, one reply; after {end:?} there came {rest:?}");
    }
    assert!(send(setup.gateway.smtp, OWN, &[PARTNER], &message("alive")).starts_with("250"));
    let got = wait(setup.sink.wait_for(sent + 1));
    setup.gateway.wait_empty();
    assert_eq!(got.len(), sent + 1);
    got.iter().for_each(|mail| assert_clean(&mail.content));
    let seen = setup.sink.commands();
    assert!(!seen.iter().any(|line| line.contains("smuggled")), "{seen:?}");
}

/// C3.
#[test]
fn c3_a_bare_line_end_or_nul_is_refused_or_leaves_as_a_clean_line_end() {
    let setup = setup("bare", "");
    let mut client = Client::hello(setup.gateway.smtp);
    let mut taken = 0;
    for body in
        ["one\ntwo\r\n", "one\rtwo\r\n", "one\r\r\ntwo\r\n", "nul \0 here\r\n", "\n", "\r\n\n.\r\nx\r\n"]
    {
        let content = format!("{}{body}", message("bare"));
        let reply = client.send(OWN, &[PARTNER], &content).unwrap();
        assert!(reply.starts_with("250") || reply.starts_with('5'), "{body:?}: {reply}");
        taken += usize::from(reply.starts_with("250"));
        // The last body ends early for a strict reader; the rest of it is commands that do not exist.
        if body.contains("\r\n\n.\r\n") {
            break;
        }
    }
    assert!(send(setup.gateway.smtp, OWN, &[PARTNER], &message("after")).starts_with("250"));
    for mail in wait(setup.sink.wait_for(taken + 1)) {
        assert_clean(&mail.content);
    }
}

/// C5, A16: content that came before 354 is never taken for commands.
/// No mail was begun at the next hop; a test of the route connects and says nothing of the kind.
fn assert_no_mail(sink: &Sink) {
    let commands = sink.commands();
    assert!(!commands.iter().any(|line| line.to_ascii_uppercase().starts_with("MAIL")), "{commands:?}");
}

#[test]
fn c5_content_sent_before_it_was_asked_for_is_content_or_refused() {
    let setup = setup("early", "");
    let mut client = Client::hello(setup.gateway.smtp);
    client.say(&format!("MAIL FROM:<{OWN}>")).unwrap();
    let inner = format!("MAIL FROM:<{OWN}>\r\nRCPT TO:<smuggled@partner.example>\r\nDATA\r\nx\r\n.\r\n");
    // No recipient was accepted, so DATA is refused and what follows was never asked for.
    client.raw(format!("DATA\r\n{inner}").as_bytes()).unwrap();
    let replies = client.rest();
    assert!(replies.iter().all(|reply| reply.starts_with('5')), "{replies:?}");
    setup.gateway.wait_empty();
    assert_no_mail(&setup.sink);
}

#[test]
fn c13_nobody_outside_the_listed_networks_relays_whatever_the_address_looks_like() {
    let setup = setup("relay-c13", "  clients: {cidrs: [192.0.2.0/24, \"2001:db8::/32\"]}\n");
    for from in [OWN, "", "x@elsewhere.example"] {
        let mut client = Client::hello(setup.gateway.smtp);
        let reply = client.say(&format!("MAIL FROM:<{from}>")).unwrap();
        assert!(reply.starts_with("250") || reply.starts_with("550 5.7.1"), "{reply}");
        for to in [
            "<b@partner.example>",
            "<b%rival.example@partner.example>",
            "<b%partner.example@solarmora.com>",
            "<partner.example!b@solarmora.com>",
            "<\"b@partner.example\"@solarmora.com>",
            "<@solarmora.com:b@partner.example>",
            "<b@[127.0.0.1]>",
            "<ani@solarmora.com>",
            "<postmaster>",
        ] {
            let reply = client.say(&format!("RCPT TO:{to}")).unwrap();
            assert!(reply.starts_with("550 5.7.1") || reply.starts_with("50"), "{to}: {reply}");
        }
        assert!(client.say("DATA").unwrap().starts_with('5'));
    }
    assert_eq!(setup.gateway.queued(), 0);
    assert_no_mail(&setup.sink);
}

#[test]
fn c13_a_listed_client_cannot_send_in_the_name_of_another_organisation() {
    let setup = setup("foreign-c13", "");
    let mut client = Client::hello(setup.gateway.smtp);
    for from in [
        "x@elsewhere.example",
        "x@notsolarmora.com",
        "x@solarmora.com.elsewhere.example",
        "\"x@solarmora.com\"@elsewhere.example",
        "x%solarmora.com@elsewhere.example",
        "x@[127.0.0.1]",
    ] {
        let reply = client.send(from, &[PARTNER], &message("foreign")).unwrap();
        assert!(reply.starts_with("550 5.7.1"), "{from}: {reply}");
        client.say("RSET").unwrap();
    }
    assert!(client.send("x@sub.solarmora.com", &[PARTNER], &message("own")).unwrap().starts_with("250"));
}

/// C16: 40 clients that trickle their commands, 40 that trickle their content.
#[test]
fn c16_forty_slow_clients_do_not_slow_down_the_others() {
    let setup = setup("slow", "");
    let over = AtomicBool::new(false);
    let slowest = std::thread::scope(|threads| {
        for n in 0..80 {
            let (over, to) = (&over, setup.gateway.smtp);
            threads.spawn(move || trickle(to, n % 2 == 0, over));
        }
        let mut slowest = Duration::ZERO;
        for n in 0..20 {
            let start = Instant::now();
            let reply = send(setup.gateway.smtp, OWN, &[PARTNER], &message(&format!("quick {n}")));
            assert!(reply.starts_with("250"), "{reply}");
            wait(setup.sink.wait_for(n + 1));
            slowest = slowest.max(start.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        slowest
    });
    assert!(slowest < Duration::from_secs(5), "{slowest:?} from connection to delivery");
}

fn trickle(to: SocketAddr, in_commands: bool, over: &AtomicBool) {
    let mut client = Client::hello(to);
    if !in_commands {
        for line in [format!("MAIL FROM:<{OWN}>"), format!("RCPT TO:<{PARTNER}>"), "DATA".to_owned()] {
            client.say(&line).unwrap();
        }
    }
    while !over.load(Ordering::Relaxed) {
        client.raw(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// C18, C12, C7.
#[test]
fn c18_floods_of_nonsense_end_in_421_or_refusals_and_the_gateway_lives() {
    let setup = setup("flood", "");
    let mut client = Client::hello(setup.gateway.smtp);
    let replies = (0..200).map_while(|_| client.say("XYZZY").ok()).collect::<Vec<_>>();
    assert!(replies.iter().all(|reply| reply.starts_with("50") || reply.starts_with("421")), "{replies:?}");
    let last = replies.last().unwrap();
    assert!(replies.len() < 200 && last.starts_with("421"), "{} replies, the last {last}", replies.len());

    let noise = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[0xa5; 200]].concat();
    for octets in [noise.as_slice(), &[0; 100_000], &[b'A'; 3 << 20], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(setup.gateway.smtp).unwrap();
        // The gateway may hang up before it has read all of it.
        let _ = std::io::Write::write_all(&mut stream, octets);
    }
    assert!(send(setup.gateway.smtp, OWN, &[PARTNER], &message("alive")).starts_with("250"));
    assert_eq!(wait(setup.sink.wait_for(1)).len(), 1);
}
