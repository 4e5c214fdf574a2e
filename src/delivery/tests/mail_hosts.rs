//! Finding mail hosts by DNS, against a real authority on loopback.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, SOA};
use hickory_resolver::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::bundle::document::Gateway;
use crate::delivery::dns::{Dns, Names};
use crate::delivery::outcome::{Problem, Trouble};
use crate::delivery::plan::{self, Plan};

/// Serves the zone `example.` with these records: `name TYPE value`.
pub struct Authority {
    pub address: SocketAddr,
    _server: Server<Catalog>,
}

impl Authority {
    pub async fn start(records: &[&str]) -> Self {
        let name = |text: &str| Name::from_str(text).unwrap();
        let zone = name("example.");
        let mut handler: InMemoryZoneHandler =
            InMemoryZoneHandler::empty(zone.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 60, 60, 60, 60);
        handler.upsert_mut(Record::from_rdata(zone.clone(), 60, RData::SOA(soa)), 1);
        for record in records {
            let words: Vec<&str> = record.split(' ').collect();
            let data = match words[1..] {
                ["A", ip] => RData::A(A::from_str(ip).unwrap()),
                ["CNAME", to] => RData::CNAME(CNAME(name(to))),
                ["MX", preference, host] => RData::MX(MX::new(preference.parse().unwrap(), name(host))),
                _ => panic!("{record}"),
            };
            handler.upsert_mut(Record::from_rdata(name(words[0]), 60, data), 1);
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&zone), vec![Arc::new(handler)]);
        let mut server = Server::new(catalog);
        // One port for both, whatever else runs on this machine.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = udp.local_addr().unwrap();
        server.register_listener(tcp, Duration::from_secs(5), 16);
        server.register_socket(udp);
        Self { address, _server: server }
    }

    pub fn gateway(&self) -> Gateway {
        Gateway { dns_servers: vec![self.address], ..gateway() }
    }
}

async fn find(authority: &Authority, domain: &str) -> Result<Plan, Problem> {
    let table = table_of(authority.gateway(), Vec::new(), None);
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
    let table = table_of(authority.gateway(), vec![route(RouteTarget::MxOf(vec![domain]))], None);
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
