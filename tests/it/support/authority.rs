//! A DNS server on loopback that knows what a test tells it, and says NXDOMAIN to the rest. It can sign what it
//! says, by a key that a test tells the gateway to trust, and forge single answers.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_resolver::proto::dnssec::rdata::DNSKEY;
use hickory_resolver::proto::dnssec::{DnssecSigner, SigningKey};
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, SOA, TLSA, TXT};
use hickory_resolver::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::Server;
use hickory_server::dnssec::NxProofKind;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

pub struct Authority {
    pub address: SocketAddr,
    /// The key that signs, as a DNSKEY record; empty without signatures.
    pub anchor: String,
    _server: Server<Catalog>,
}

impl Authority {
    /// Serves these records: `name TYPE value`; the value of a TXT record is the rest of the line.
    pub async fn start(records: &[&str]) -> Self {
        Self::serve(records, None).await
    }

    /// The same, everything signed. A record with `!` in front is put in after the signing: its signature is
    /// wrong, as if somebody between had forged it.
    pub async fn signed(records: &[&str]) -> Self {
        Self::serve(records, Some(Signing::new())).await
    }

    async fn serve(records: &[&str], signing: Option<Signing>) -> Self {
        let zone = Name::root();
        let proof = signing.is_some().then_some(NxProofKind::Nsec);
        let mut handler: InMemoryZoneHandler =
            InMemoryZoneHandler::empty(zone.clone(), ZoneType::Primary, AxfrPolicy::Deny, proof);
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 60, 60, 60, 60);
        handler.upsert_mut(Record::from_rdata(zone.clone(), 60, RData::SOA(soa)), 1);
        let (forged, honest): (Vec<&str>, Vec<&str>) =
            records.iter().partition(|record| record.starts_with('!'));
        for text in honest {
            handler.upsert_mut(record(text), 1);
        }
        let mut anchor = String::new();
        if let Some(Signing { key, public }) = signing {
            anchor = format!(". IN DNSKEY {public}");
            let day = Duration::from_secs(86_400);
            handler.add_zone_signing_key_mut(DnssecSigner::new(public, key, zone.clone(), day)).unwrap();
            handler.secure_zone_mut().unwrap();
        }
        for text in forged {
            handler.upsert_mut(record(&text[1..]), 1);
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
        Self { address, anchor, _server: server }
    }
}

struct Signing {
    key: Box<dyn SigningKey>,
    public: DNSKEY,
}

impl Signing {
    fn new() -> Self {
        let pkcs8 = Ed25519SigningKey::generate_pkcs8().unwrap();
        let key = Ed25519SigningKey::from_pkcs8(&pkcs8).unwrap();
        let public = DNSKEY::from_key(&key.to_public_key().unwrap());
        Self { key: Box::new(key), public }
    }
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn record(text: &str) -> Record {
    let (owner, rest) = text.split_once(' ').expect(text);
    let (kind, value) = rest.split_once(' ').expect(text);
    let data = match kind {
        "A" => RData::A(A::from_str(value).unwrap()),
        "CNAME" => RData::CNAME(CNAME(name(value))),
        "MX" => {
            let (preference, host) = value.split_once(' ').expect(text);
            RData::MX(MX::new(preference.parse().unwrap(), name(host)))
        }
        // Strings of a TXT record have 255 octets at most.
        "TXT" => {
            let pieces = value.as_bytes().chunks(255);
            let strings = pieces.map(|piece| String::from_utf8(piece.to_vec()).unwrap());
            RData::TXT(TXT::new(strings.collect()))
        }
        "TLSA" => RData::TLSA(tlsa(value)),
        _ => panic!("{text}"),
    };
    Record::from_rdata(name(owner), 60, data)
}

/// `usage selector matching hex`.
pub fn tlsa(text: &str) -> TLSA {
    let words: Vec<&str> = text.split(' ').collect();
    let [usage, selector, matching, hex] = words[..] else { panic!("{text}") };
    let number = |word: &str| word.parse::<u8>().unwrap();
    let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let data = (0..hex.len()).step_by(2).map(octet).collect();
    TLSA::new(
        CertUsage::from(number(usage)),
        Selector::from(number(selector)),
        Matching::from(number(matching)),
        data,
    )
}
