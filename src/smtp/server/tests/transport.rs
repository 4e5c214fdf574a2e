//! Over loopback: time limits, connection limits, drain, certificates.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::super::{EXHAUSTED, ListenerConfig, Server, recover, serve};
use super::support::{Client, Script, Scripted, config, trusting_client};
use crate::smtp::settings::{Settings, TlsMode};
use crate::smtp::tls::LiveCertificate;

/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(20);

struct Running {
    config: ListenerConfig,
    script: Arc<Script>,
    addr: std::net::SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl Running {
    fn start(tls: TlsMode, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("gw.example");
        settings.timeouts.drain_grace = Duration::ZERO;
        change(&mut settings);
        let config = config(settings, tls);
        let script = Arc::new(Script::default());
        let server = Server::bind(config.clone(), Arc::new(Scripted(script.clone()))).unwrap();
        let addr = server.local_addr();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server.run(shutdown.clone()));
        Self { config, script, addr, shutdown, server }
    }

    async fn connect(&self) -> Tcp {
        Tcp(BufReader::new(TcpStream::connect(self.addr).await.unwrap()))
    }

    /// Shuts down and waits for the end.
    async fn stop(self) -> Arc<Script> {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.server).await.unwrap().unwrap();
        assert_eq!(self.config.connections.open(), 0);
        self.script
    }
}

struct Tcp(BufReader<TcpStream>);

impl Tcp {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The last line of the next reply; nothing when the server hung up.
    async fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read =
                tokio::time::timeout(LIMIT, self.0.read_line(&mut line)).await.expect("a reply in time");
            // A reset is a hang-up too.
            if read.unwrap_or(0) == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn expect(&mut self, start: &str) {
        let heard = self.hear().await;
        assert!(heard.starts_with(start), "{heard:?} is not {start:?}");
    }

    async fn ask(&mut self, text: &str, start: &str) {
        self.send(text).await;
        self.expect(start).await;
    }

    async fn expect_hang_up(&mut self) {
        assert_eq!(self.hear().await, "");
    }

    async fn send_message(&mut self) {
        self.send("MAIL FROM:<a@sender.example>\r\nRCPT TO:<b@rcpt.example>\r\nDATA\r\n").await;
        for start in ["250", "250", "354"] {
            self.expect(start).await;
        }
        self.ask("Subject: x\r\n\r\nhi\r\n.\r\n", "250").await;
    }
}

#[tokio::test]
async fn an_idle_client_is_told_so_and_let_go() {
    let running = Running::start(TlsMode::Optional, |s| s.timeouts.command = Duration::from_millis(500));
    let mut client = running.connect().await;
    client.expect("220").await;
    client.expect("421 4.4.2").await;
    client.expect_hang_up().await;
    // In a transaction as well.
    let mut client = running.connect().await;
    client.expect("220").await;
    client.send("EHLO c\r\nMAIL FROM:<a@sender.example>\r\n").await;
    client.expect("250 ENHANCED").await;
    client.expect("250 2.1.0").await;
    client.expect("421 4.4.2").await;
    client.expect_hang_up().await;
    running.stop().await;
}

#[tokio::test]
async fn a_command_that_trickles_in_does_not_buy_time() {
    let running = Running::start(TlsMode::Optional, |s| s.timeouts.command = Duration::from_millis(200));
    let mut client = running.connect().await;
    client.expect("220").await;
    let began = Instant::now();
    let (read, mut write) = client.0.into_inner().into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await.unwrap();
    assert!(line.starts_with("421 4.4.2"), "{line}");
    assert!(began.elapsed() < Duration::from_secs(5));
    trickle.await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn content_that_stops_or_crawls_is_given_up_and_not_taken() {
    for (stopped, reply) in [(true, "421 4.4.2 Timed out"), (false, "421 4.4.2 Content comes too slowly")] {
        let running = Running::start(TlsMode::Optional, |s| {
            s.timeouts.rate_grace = Duration::from_millis(if stopped { 10_000 } else { 100 });
            s.timeouts.data_block = Duration::from_millis(if stopped { 100 } else { 10_000 });
            s.timeouts.min_rate = 1000;
        });
        let mut client = running.connect().await;
        client.expect("220").await;
        client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@rcpt.example>\r\nDATA\r\n").await;
        for start in ["250", "250", "250", "354"] {
            client.expect(start).await;
        }
        let (read, mut write) = client.0.into_inner().into_split();
        let crawl = tokio::spawn(async move {
            while !stopped && write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            write
        });
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await.unwrap();
        assert!(line.starts_with(reply), "{line}");
        drop(crawl.await.unwrap());
        assert!(running.stop().await.taken.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_transaction_has_a_last_moment() {
    let running = Running::start(TlsMode::Optional, |s| s.timeouts.transaction = Duration::from_millis(100));
    let mut client = running.connect().await;
    client.expect("220").await;
    client.ask("EHLO c\r\n", "250").await;
    client.ask("MAIL FROM:<>\r\n", "250").await;
    client.expect("421 4.4.2").await;
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_replies_is_let_go() {
    let running = Running::start(TlsMode::Optional, |s| {
        s.timeouts.reply = Duration::from_millis(100);
        s.limits.chatter = u32::MAX;
    });
    let mut client = running.connect().await;
    let flood = "EHLO c.example\r\n".repeat(1000);
    // It never reads, so in the end writing fails: the server is gone.
    let flooding = async { while client.0.write_all(flood.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(LIMIT, flooding).await.expect("the server lets go");
    running.stop().await;
}

/// C16: forty clients that trickle commands and thirty that trickle content cost the others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_slow_down_the_others() {
    let running = Running::start(TlsMode::Optional, |_| {});
    let mut slow = JoinSet::new();
    for number in 0..70 {
        let mut client = running.connect().await;
        client.expect("220").await;
        if number >= 40 {
            client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@rcpt.example>\r\nDATA\r\n").await;
        }
        slow.spawn(async move {
            while client.0.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let began = Instant::now();
    for _ in 0..20 {
        let mut client = running.connect().await;
        client.expect("220").await;
        client.ask("EHLO c\r\n", "250").await;
        client.send_message().await;
        client.ask("QUIT\r\n", "221").await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    slow.shutdown().await;
    assert_eq!(running.stop().await.taken.lock().unwrap().len(), 20);
}

#[tokio::test]
async fn connections_over_the_limit_get_421_until_one_ends() {
    let running = Running::start(TlsMode::Optional, |s| s.limits.connections_per_client = 2);
    let mut first = running.connect().await;
    let mut second = running.connect().await;
    first.expect("220").await;
    second.expect("220").await;
    let mut third = running.connect().await;
    third.expect("421 4.7.0").await;
    third.expect_hang_up().await;
    first.ask("QUIT\r\n", "221").await;
    first.expect_hang_up().await;
    drop(first);
    let freed = async {
        while running.config.connections.open() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, freed).await.unwrap();
    running.connect().await.expect("220").await;
    // The limit is read when a client comes.
    let mut changed = Settings::clone(&running.config.settings.load());
    changed.limits.connections_per_client = 1;
    changed.hostname = "other.example".into();
    running.config.settings.store(Arc::new(changed));
    running.connect().await.expect("421").await;
    second.ask("HELO c\r\n", "250 other.example").await;
    running.stop().await;
}

#[tokio::test]
async fn a_drain_ends_idle_sessions_and_lets_transactions_reach_their_reply() {
    let running = Running::start(TlsMode::Optional, |_| {});
    let mut idle = running.connect().await;
    idle.expect("220").await;
    let mut busy = running.connect().await;
    busy.expect("220").await;
    busy.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@rcpt.example>\r\nDATA\r\n").await;
    for start in ["250", "250", "250", "354"] {
        busy.expect(start).await;
    }
    running.shutdown.cancel();
    idle.expect("421 4.3.2").await;
    idle.expect_hang_up().await;
    assert!(TcpStream::connect(running.addr).await.is_err(), "nobody listens any more");
    busy.send("hi\r\n.\r\nMAIL FROM:<>\r\n").await;
    busy.expect("250 2.0.0 Taken").await;
    busy.expect("421 4.3.2").await;
    busy.expect_hang_up().await;
    assert_eq!(running.stop().await.taken.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_drain_serves_new_clients_for_its_grace() {
    let running = Running::start(TlsMode::Optional, |s| s.timeouts.drain_grace = Duration::from_secs(2));
    running.shutdown.cancel();
    let mut late = running.connect().await;
    late.expect("220").await;
    late.ask("EHLO c\r\n", "250").await;
    late.send_message().await;
    late.expect("421 4.3.2").await;
    running.stop().await;
}

#[tokio::test]
async fn a_transaction_that_does_not_end_is_cut_at_the_drain_limit() {
    let running = Running::start(TlsMode::Optional, |s| s.timeouts.drain_limit = Duration::from_millis(100));
    let mut stuck = running.connect().await;
    stuck.expect("220").await;
    stuck.ask("EHLO c\r\n", "250").await;
    stuck.ask("MAIL FROM:<>\r\n", "250").await;
    assert!(running.stop().await.taken.lock().unwrap().is_empty());
    stuck.expect_hang_up().await;
}

#[tokio::test]
async fn the_handler_may_close_the_door() {
    let running = Running::start(TlsMode::Optional, |_| {});
    let mut client = running.connect().await;
    client.expect("220").await;
    client.ask("EHLO c\r\n", "250").await;
    running.script.closed.store(true, Ordering::SeqCst);
    client.ask("NOOP\r\n", "250").await;
    client.ask("MAIL FROM:<>\r\n", "421 4.3.2").await;
    client.expect_hang_up().await;
    running.connect().await.expect("421 4.3.2").await;
    running.stop().await;
}

/// The certificate a client is shown, by a handshake of its own.
async fn shown(running: &Running) -> CertificateDer<'static> {
    let tcp = TcpStream::connect(running.addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting_client()));
    let name = ServerName::try_from("gw.example").unwrap();
    let stream = connector.connect(name, tcp).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_new_certificate_is_used_by_the_next_handshake_and_a_bad_one_never() {
    let running = Running::start(TlsMode::Implicit, |_| {});
    let first = shown(&running).await;
    let made = rcgen::generate_simple_self_signed(["new.example".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let certificate = &running.config.certificate;
    for (chain, key) in [("", &key[..]), (&chain[..], ""), (&chain[..], &other[..]), ("x", "y")] {
        assert!(LiveCertificate::from_pem(chain.as_bytes(), key.as_bytes(), None).is_err());
    }
    assert_eq!(shown(&running).await, first);
    certificate.replace_by(&LiveCertificate::from_pem(chain.as_bytes(), key.as_bytes(), None).unwrap());
    assert_eq!(shown(&running).await, CertificateDer::from_pem_slice(chain.as_bytes()).unwrap());
    certificate.replace_by(&LiveCertificate::self_signed("gw.example", None).unwrap());
    assert_ne!(shown(&running).await, *made.cert.der());
    running.stop().await;
}

#[tokio::test]
async fn the_handler_is_told_what_tls_there_is() {
    let mut client = Client::connect(Settings::new("gw.example"), TlsMode::Implicit);
    client.start_tls().await.unwrap();
    client.send(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n.\r\n").await;
    client.hear().await;
    let tls = client.script.taken.lock().unwrap()[0].peer.tls.clone().unwrap();
    assert!(tls.starts_with("TLSv1.3 with cipher TLS13_"), "{tls}");
}

#[tokio::test]
async fn tls_1_1_is_refused() {
    let running = Running::start(TlsMode::Implicit, |_| {});
    let mut tcp = TcpStream::connect(running.addr).await.unwrap();
    // A ClientHello of version 3.2 without extensions, for TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    tcp.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, tcp.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.first(), Some(&0x15), "an alert and nothing else: {answer:?}");
    assert_eq!(answer.len(), 7);
    running.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let running = Running::start(TlsMode::Implicit, |s| s.timeouts.handshake = Duration::from_millis(50));
    running.connect().await.expect_hang_up().await;
    running.stop().await;
}

#[tokio::test]
async fn running_out_of_descriptors_is_waited_out_and_a_lost_client_is_not() {
    let config = config(Settings::new("gw.example"), TlsMode::Optional);
    let began = Instant::now();
    recover(&config, &rustix::io::Errno::CONNABORTED.into()).await;
    assert!(began.elapsed() < EXHAUSTED);
    recover(&config, &rustix::io::Errno::MFILE.into()).await;
    assert!(began.elapsed() >= EXHAUSTED);
}

/// Ten thousand of them may be open at once.
#[tokio::test]
async fn an_idle_session_is_small() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stream = TcpStream::connect(addr).await.unwrap();
    let config = Arc::new(config(Settings::new("gw.example"), TlsMode::Optional));
    let session =
        serve(stream, addr, addr, config, Arc::new(Scripted(Arc::default())), CancellationToken::new());
    assert!(size_of_val(&session) < 2048, "{} octets", size_of_val(&session));
}
