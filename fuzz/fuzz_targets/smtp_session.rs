//! Any octets in any segments: the server never panics, never waits for what cannot come, gives its
//! handler only content that no reader can misread, by DATA and by BDAT, and says "taken" exactly as often as it
//! is. The same octets never log anybody in.

#![no_main]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use libfuzzer_sys::fuzz_target;
use postern::mail::envelope::{Recipient, Sender};
use postern::smtp::auth::{Exchange, Mechanism, Step, Users};
use postern::smtp::reply::Reply;
use postern::smtp::server::{Connections, ListenerConfig, serve};
use postern::smtp::settings::{Settings, TlsMode};
use postern::smtp::tls::LiveCertificate;
use postern::smtp::{Handler, Mail, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

struct Counting(Arc<AtomicUsize>);

struct Checking {
    taken: Arc<AtomicUsize>,
    recipients: usize,
    content: Vec<u8>,
}

impl Handler for Counting {
    type Mail = Checking;

    async fn mail(&self, _: &Peer, _: Sender, _: Option<u64>) -> Result<Checking, Reply> {
        Ok(Checking { taken: self.0.clone(), recipients: 0, content: Vec::new() })
    }

    fn greet(&self, _: SocketAddr) -> Result<(), Reply> {
        Ok(())
    }
}

impl Mail for Checking {
    async fn rcpt(&mut self, _: Recipient) -> Result<(), Reply> {
        self.recipients += 1;
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Reply> {
        assert!(self.recipients > 0);
        Ok(())
    }

    async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        self.content.extend_from_slice(content);
        Ok(())
    }

    async fn finish(self) -> Reply {
        let content = &self.content;
        for (at, octet) in content.iter().enumerate() {
            match octet {
                b'\r' => assert_eq!(content.get(at + 1), Some(&b'\n')),
                b'\n' => assert_eq!(content.get(at.wrapping_sub(1)), Some(&b'\r')),
                _ => assert_ne!(*octet, 0),
            }
        }
        assert!(content.is_empty() || content.ends_with(b"\r\n"));
        self.taken.fetch_add(1, Ordering::Relaxed);
        Reply::new(250, [2, 0, 0], "Taken")
    }
}

static CONFIG: LazyLock<Arc<ListenerConfig>> = LazyLock::new(|| {
    Arc::new(ListenerConfig {
        name: "fuzz".into(),
        addr: "127.0.0.1:0".parse().unwrap(),
        tls: TlsMode::Optional,
        proxy_from: Vec::new(),
        loops: Default::default(),
        certificate: Arc::new(LiveCertificate::self_signed("gw.example", None).unwrap()),
        settings: Arc::new(ArcSwap::from_pointee(Settings::new("gw.example"))),
        connections: Arc::new(Connections::default()),
    })
});

fuzz_target!(|segments: Vec<Vec<u8>>| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let users = Users::new([("app", Box::<[u8]>::from(&[0xf5; 64][..]))]);
    for mechanism in Mechanism::ALL {
        let mut step = Exchange::begin(mechanism, None, &users);
        for segment in &segments {
            let Step::Challenge(exchange, _) = step else { break };
            step = exchange.answer(segment, &users);
        }
        assert!(!matches!(step, Step::Proven(_)));
    }
    runtime.block_on(async {
        let taken = Arc::new(AtomicUsize::new(0));
        let (client, server) = tokio::io::duplex(64 << 10);
        let (mut from_server, mut to_server) = tokio::io::split(client);
        let (peer, local) = ("192.0.2.7:4711".parse().unwrap(), "192.0.2.1:25".parse().unwrap());
        let handler = Arc::new(Counting(taken.clone()));
        let serving = serve(server, peer, local, CONFIG.clone(), handler, CancellationToken::new());
        let writing = async {
            for segment in &segments {
                if to_server.write_all(segment).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = to_server.shutdown().await;
        };
        let mut heard = Vec::new();
        let reading = async {
            let _ = from_server.read_to_end(&mut heard).await;
        };
        tokio::join!(serving, writing, reading);
        let said = heard.windows(15).filter(|part| part == b"250 2.0.0 Taken").count();
        assert_eq!(said, taken.load(Ordering::Relaxed));
    });
});
