//! A DNS server on loopback that knows what a test tells it, and says NXDOMAIN to the rest.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, SOA, TXT};
use hickory_resolver::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

pub struct Authority {
    pub address: SocketAddr,
    _server: Server<Catalog>,
}

impl Authority {
    /// Serves these records: `name TYPE value`; the value of a TXT record is the rest of the line.
    pub async fn start(records: &[&str]) -> Self {
        let name = |text: &str| Name::from_str(text).unwrap();
        let zone = Name::root();
        let mut handler: InMemoryZoneHandler =
            InMemoryZoneHandler::empty(zone.clone(), ZoneType::Primary, AxfrPolicy::Deny, None);
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 60, 60, 60, 60);
        handler.upsert_mut(Record::from_rdata(zone.clone(), 60, RData::SOA(soa)), 1);
        for record in records {
            let (owner, rest) = record.split_once(' ').expect(record);
            let (kind, value) = rest.split_once(' ').expect(record);
            let data = match kind {
                "A" => RData::A(A::from_str(value).unwrap()),
                "CNAME" => RData::CNAME(CNAME(name(value))),
                "MX" => {
                    let (preference, host) = value.split_once(' ').expect(record);
                    RData::MX(MX::new(preference.parse().unwrap(), name(host)))
                }
                // Strings of a TXT record have 255 octets at most.
                "TXT" => {
                    let pieces = value.as_bytes().chunks(255);
                    let strings = pieces.map(|piece| String::from_utf8(piece.to_vec()).unwrap());
                    RData::TXT(TXT::new(strings.collect()))
                }
                _ => panic!("{record}"),
            };
            handler.upsert_mut(Record::from_rdata(name(owner), 60, data), 1);
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
}
