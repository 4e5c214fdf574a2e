//! Finding mail hosts by DNS, against a real authority on loopback.

use tokio::net::UdpSocket;

use super::*;
use crate::bundle::document::Gateway;
use crate::delivery::attempt::{Outside, attempt};
use crate::delivery::authority::Authority;
use crate::delivery::client::transaction::Letter;
use crate::delivery::dns::{Dns, Names};
use crate::delivery::outcome::{Outcome, Problem, Tally, Trouble};
use crate::delivery::plan::{self, Plan};
use crate::delivery::sink::{Behaviour, Sink, nobody};
use crate::mail::envelope::Sender;

fn gateway_asking(authority: &Authority) -> Gateway {
    Gateway { dns_servers: vec![authority.address], ..gateway() }
}

async fn find(authority: &Authority, domain: &str) -> Result<Plan, Problem> {
    let table = table_of(gateway_asking(authority), Vec::new(), None);
    let route = table.resolve(&Via::Normal).unwrap();
    let recipient = to(&format!("a@{domain}"));
    plan::plan(&table, &Dns::default(), route, recipient.mailbox.host(), false, 25).await
}

async fn hosts_of(authority: &Authority, domain: &str) -> Vec<String> {
    find(authority, domain).await.unwrap().hops.into_iter().map(|hop| hop.host).collect()
}

async fn trouble(authority: &Authority, domain: &str) -> Trouble {
    find(authority, domain).await.unwrap_err().trouble
}

#[tokio::test]
async fn mail_hosts_are_found_as_rfc_5321_says() {
    let authority = Authority::start(&[
        "d.example. MX 20 mx2.example.",
        "d.example. MX 10 mx1.example.",
        "mx1.example. A 127.0.0.2",
        "mx2.example. A 127.0.0.3",
        "plain.example. A 127.0.0.4",
        "alias.example. CNAME d.example.",
        "null.example. MX 0 .",
        "us.example. MX 10 gw.solarmora.com.",
        "half.example. MX 10 mx1.example.",
        "half.example. MX 20 GW.solarmora.com.",
        "half.example. MX 20 mx2.example.",
        "xn--bcher-kva.example. MX 10 mx1.example.",
        "other.example. CNAME nowhere.example.",
        "ring.example. CNAME ring2.example.",
        "ring2.example. CNAME ring.example.",
    ])
    .await;
    assert_eq!(hosts_of(&authority, "d.example").await, ["mx1.example", "mx2.example"]);
    assert_eq!(hosts_of(&authority, "D.Example").await, ["mx1.example", "mx2.example"]);
    assert_eq!(hosts_of(&authority, "plain.example").await, ["plain.example"]);
    assert_eq!(hosts_of(&authority, "alias.example").await, ["mx1.example", "mx2.example"]);
    assert_eq!(hosts_of(&authority, "bücher.example").await, ["mx1.example"]);
    assert_eq!(hosts_of(&authority, "half.example").await, ["mx1.example"]);
    assert_eq!(hosts_of(&authority, "[127.0.0.7]").await, ["127.0.0.7"]);
    assert_eq!(hosts_of(&authority, "[IPv6:::1]").await, ["::1"]);

    assert_eq!(trouble(&authority, "null.example").await, Trouble::NullMx("null.example".into()));
    assert_eq!(trouble(&authority, "us.example").await, Trouble::LoopsBack("us.example".into()));
    assert_eq!(trouble(&authority, "gone.example").await, Trouble::NoSuchDomain("gone.example".into()));
    assert!(matches!(
        trouble(&authority, "ring.example").await,
        Trouble::Dns { .. } | Trouble::NoMailHost(_) | Trouble::NoSuchDomain(_)
    ));
}

#[tokio::test]
async fn no_answer_from_dns_is_no_reason_to_return_mail() {
    // A socket that takes questions and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway { dns_servers: vec![silent.local_addr().unwrap()], ..gateway() };
    let table = table_of(gateway, Vec::new(), None);
    let route = table.resolve(&Via::Normal).unwrap();

    let problem = plan::plan(&table, &Dns::default(), route, to("a@d.example").mailbox.host(), false, 25)
        .await
        .unwrap_err();
    assert!(matches!(problem.trouble, Trouble::Dns { .. }), "{problem}");
}

#[tokio::test]
async fn a_route_by_mx_lookup_goes_to_the_mail_hosts_of_its_own_domain() {
    let authority =
        Authority::start(&["relay.example. MX 10 mx1.example.", "mx1.example. A 127.0.0.2"]).await;
    let domain = HostPort { host: "relay.example".into(), port: 2525 };
    let table = table_of(gateway_asking(&authority), vec![route(RouteTarget::MxOf(vec![domain]))], None);
    let route = table.resolve(&via()).unwrap();
    let recipient = to("a@elsewhere.example");
    let plan = plan::plan(&table, &Dns::default(), route, recipient.mailbox.host(), true, 25).await.unwrap();
    assert_eq!((plan.hops[0].host.as_str(), plan.hops[0].port), ("mx1.example", 2525));
    assert!(plan.require_tls);
}

#[tokio::test]
async fn other_servers_are_asked_as_soon_as_the_routes_name_them() {
    let first = Authority::start(&["h.example. A 127.0.0.2"]).await;
    let second = Authority::start(&["h.example. A 127.0.0.3"]).await;
    let dns = Dns::default();
    for (authority, expected) in [(&first, "127.0.0.2"), (&second, "127.0.0.3"), (&first, "127.0.0.2")] {
        let found = dns.addresses(&[authority.address], "h.example", Names::Complete).await.unwrap();
        assert_eq!(found, [expected.parse::<std::net::IpAddr>().unwrap()]);
    }
}

/// Sends to `a@d.example` by MX; mail hosts listen on `port`. One word for what became of it.
async fn send_by_mx(authority: &Authority, own: &Own, port: u16) -> String {
    let bundle = Bundle::new(gateway_asking(authority));
    let table = RouteTable::build(&bundle, &Materials::default(), own);
    let outside = Outside { timeouts: impatient(), ..Outside::default() };
    let recipient = to("a@d.example");
    let route = table.resolve(&Via::Normal).unwrap();
    let host = recipient.mailbox.host();
    let outcome = match plan::plan(&table, &outside.dns, route, host, false, port).await {
        Ok(plan) => {
            let sender = Sender::default();
            let letter = Letter::new(&sender, b"Subject: s\r\n", b"\r\nx\r\n");
            attempt(&outside, &table, &plan, &pass(&plan), &letter, &[&recipient]).await.remove(0)
        }
        Err(problem) => {
            let mut tally = Tally::default();
            tally.add(problem, OnTlsFailure::Bounce).or_else(|| tally.sum()).unwrap()
        }
    };
    match outcome {
        Outcome::Delivered(receipt) => receipt.host,
        Outcome::Later(problem) => problem.to_string(),
        Outcome::Failed { status: [class, subject, detail], .. } => format!("{class}.{subject}.{detail}"),
    }
}

#[tokio::test]
async fn the_third_mail_host_gets_the_mail_when_the_first_two_are_dead() {
    let authority = Authority::start(&[
        "d.example. MX 10 dead1.example.",
        "d.example. MX 10 dead2.example.",
        "d.example. MX 20 good.example.",
        "dead1.example. A 127.0.0.42",
        "dead2.example. A 127.0.0.43",
        "good.example. A 127.0.0.1",
    ])
    .await;
    let sink = Sink::start(Behaviour::default()).await;
    assert_eq!(send_by_mx(&authority, &Own::default(), sink.address.port()).await, "good.example");
}

#[tokio::test]
async fn mail_hosts_that_lead_nowhere_or_back_to_us_are_refused() {
    let loopback = Authority::start(&["d.example. MX 10 m.example.", "m.example. A 127.0.0.1"]).await;
    let nobody = nobody().await;
    assert_eq!(send_by_mx(&loopback, &Own::default(), nobody.port()).await, "5.4.6");
    // Our own listener answers there: it is not even asked.
    let ourselves = Sink::start(Behaviour::default()).await;
    let wildcard = format!("0.0.0.0:{}", ourselves.address.port()).parse().unwrap();
    let own = Own { listening: vec![wildcard], ..Own::default() };
    assert_eq!(send_by_mx(&loopback, &own, ourselves.address.port()).await, "5.4.6");
    assert_eq!(ourselves.connections(), 0);
    for nowhere in ["0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"] {
        let address = format!("m.example. A {nowhere}");
        let authority = Authority::start(&["d.example. MX 10 m.example.", &address]).await;
        assert_eq!(send_by_mx(&authority, &Own::default(), 25).await, "5.4.4", "{nowhere}");
    }
    let dangling = Authority::start(&["d.example. MX 10 gone.example."]).await;
    assert_eq!(send_by_mx(&dangling, &Own::default(), 25).await, "5.4.4");
    let null = Authority::start(&["d.example. MX 0 ."]).await;
    assert_eq!(send_by_mx(&null, &Own::default(), 25).await, "5.1.10");
}

#[tokio::test]
async fn a_host_that_an_administrator_typed_may_be_of_this_machine() {
    let authority = Authority::start(&[]).await;
    let found = Dns::default().addresses(&[authority.address], "localhost", Names::Typed).await.unwrap();
    assert!(found.contains(&"127.0.0.1".parse().unwrap()), "{found:?}");
}
