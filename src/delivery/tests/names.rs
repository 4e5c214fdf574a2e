//! What each failure of DNS means for the sender: one row a test, so that a row can be run alone.

use tokio::net::UdpSocket;

use super::protection::{Setup, World};
use super::*;
use crate::delivery::sink::{Authority, Behaviour, Sink};

/// What became of mail to `a@d.example`.
async fn said(dnssec: bool, records: &[&str], port: u16) -> String {
    let ca = Authority::new();
    let setup = Setup { ca: &ca, port, dnssec, web: None, target: RouteTarget::RecipientMx };
    World::new(setup, records).await.send().await
}

/// The same with and without DNSSEC, where it makes no difference.
async fn check(records: &[&str], expected: &str) {
    for dnssec in [false, true] {
        let said = said(dnssec, records, 25).await;
        assert!(said.starts_with(expected), "dnssec {dnssec}: {said}");
    }
}

#[tokio::test]
async fn r011_a_domain_that_does_not_exist_is_5_1_2() {
    check(&["e.example. A 127.0.0.1"], "5.1.2: The domain d.example does not exist").await;
}

#[tokio::test]
async fn r011_a_domain_with_neither_mail_host_nor_address_is_5_4_4() {
    check(&["d.example. TXT here"], "5.4.4: The domain d.example has no mail server").await;
}

#[tokio::test]
async fn r011_a_domain_that_takes_no_mail_is_5_1_10() {
    check(&["d.example. MX 0 .", "d.example. A 127.0.0.1"], "5.1.10: The domain d.example takes no mail")
        .await;
}

#[tokio::test]
async fn r011_mail_hosts_that_lead_to_nothing_are_5_4_4() {
    check(&["d.example. MX 10 mx.d.example."], "5.4.4: The mail server mx.d.example has no address").await;
    check(&["d.example. MX 10 mx.d.example.", "mx.d.example. TXT x"], "5.4.4: ").await;
    // An address where a name must be.
    check(&["d.example. MX 10 127.0.0.1."], "5.4.4: ").await;
}

#[tokio::test]
async fn r011_mail_hosts_that_are_this_gateway_are_5_4_6() {
    check(&["d.example. MX 10 gw.solarmora.com."], "5.4.6: Mail for d.example would come back").await;
}

#[tokio::test]
async fn r011_aliases_are_followed_to_their_end() {
    let sink = Sink::start(Behaviour::default()).await;
    let port = sink.address.port();
    let chain = [
        "d.example. CNAME e.example.",
        "e.example. CNAME f.example.",
        "f.example. MX 10 mx.f.example.",
        "mx.f.example. CNAME host.f.example.",
        "host.f.example. A 127.0.0.1",
    ];
    for dnssec in [false, true] {
        assert_eq!(said(dnssec, &chain, port).await, "None by mx.f.example", "dnssec {dnssec}");
    }
}

#[tokio::test]
async fn r011_aliases_in_a_ring_never_deliver_and_never_hang() {
    for dnssec in [false, true] {
        let ring = ["d.example. CNAME e.example.", "e.example. CNAME d.example."];
        let said = said(dnssec, &ring, 25).await;
        assert!(said.starts_with("later: ") || said.starts_with('5'), "{said}");
    }
}

/// A DNS server that has one answer for everything.
async fn answering(code: u8) -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 1500];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut question).await else { return };
            let mut answer = question[..length].to_vec();
            answer[2] |= 0x80;
            answer[3] = (answer[3] & 0xf0) | code;
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

async fn said_by(server: std::net::SocketAddr, dnssec: bool) -> String {
    let ca = Authority::new();
    let setup = Setup { ca: &ca, port: 25, dnssec, web: None, target: RouteTarget::RecipientMx };
    let mut world = World::new(setup, &[]).await;
    let servers = crate::delivery::dns::Servers { addresses: vec![server], ..world.table.dns.clone() };
    world.table.dns = servers;
    world.send().await
}

#[tokio::test]
async fn r011_a_server_that_fails_or_refuses_makes_mail_wait() {
    for code in [2, 5] {
        let server = answering(code).await;
        for dnssec in [false, true] {
            let said = said_by(server, dnssec).await;
            assert!(said.starts_with("later: DNS gave no answer for d.example"), "{code} {dnssec}: {said}");
        }
    }
}

#[tokio::test]
async fn r011_a_server_that_is_silent_makes_mail_wait() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let said = said_by(silent.local_addr().unwrap(), true).await;
    assert!(said.starts_with("later: DNS gave no answer for d.example"), "{said}");
}

#[tokio::test]
async fn r020_answers_that_are_not_signed_make_mail_wait_when_they_must_be() {
    // A server that knows nothing of DNSSEC, or somebody between: the root is signed, this is not.
    let plain = crate::delivery::authority::Authority::start(&["d.example. MX 10 mx.d.example."]).await;
    let said = said_by(plain.address, true).await;
    assert!(said.starts_with("later: ") && said.contains("DNSSEC"), "{said}");
    // The same for a denial.
    let empty = crate::delivery::authority::Authority::start(&[]).await;
    let said = said_by(empty.address, true).await;
    assert!(said.starts_with("later: ") && said.contains("DNSSEC"), "{said}");
}
