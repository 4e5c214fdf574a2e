//! Taking mail over TLS with a connection for each message, and handshakes alone: how many a core does, beside
//! Postfix with the same certificate. No session is resumed: each handshake is a whole one.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Bench;
use super::load::median;
use super::peers::{Peer, RELAY, SINK, Server, Sink};

const CLIENTS: usize = 20;
const SECONDS: u64 = 5;

/// Messages or handshakes a second, and for each second of the server's processor time.
type Rate = (f64, f64);

pub fn measure(bench: &Bench) -> Result<(), String> {
    let key =
        rcgen::generate_simple_self_signed(["gw.bench.example".to_owned()]).map_err(|e| e.to_string())?;
    let (chain, secret) = (key.cert.pem(), key.signing_key.serialize_pem());
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    println!("\nTLS 1.3, ECDSA P-256, {CLIENTS} clients, a connection for each; median of {}", bench.runs);
    println!("{:>24} | {:>20} {:>20} | {:>14} {:>14}", "", "Postern/s", "Postfix/s", "ratio", "ratio a core");
    for (what, mail) in [("handshakes", false), ("one message each", true)] {
        let (mut ours, mut theirs): (Vec<Rate>, Vec<Rate>) = Default::default();
        for _ in 0..bench.runs {
            let server = postern(bench, &chain, &secret)?;
            ours.push(runtime.block_on(load(bench, &server, key.cert.der(), mail))?);
            drop(server);
            let server = postfix(bench, &chain, &secret)?;
            theirs.push(runtime.block_on(load(bench, &server, key.cert.der(), mail))?);
        }
        let of = |rates: &[Rate], what: fn(&Rate) -> f64| median(rates.iter().map(what).collect());
        let (a, b) = (of(&ours, |r| r.0), of(&theirs, |r| r.0));
        let (c, d) = (of(&ours, |r| r.1), of(&theirs, |r| r.1));
        let core = |rate: f64, core: f64| format!("{rate:.0} ({core:.0} a core)");
        println!("{what:>24} | {:>20} {:>20} | {:>13.1}x {:>13.1}x", core(a, c), core(b, d), a / b, c / d);
    }
    Ok(())
}

fn postern(bench: &Bench, chain: &str, key: &str) -> Result<Server, String> {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: tls}}\ntype: kubernetes.io/tls\n\
         data: {{tls.crt: {}, tls.key: {}}}\n---\n\
         apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {{name: default}}\nspec:\n  \
         hostname: gw.bench.example\n  domains: [source.example]\n  \
         listeners: [{{name: smtp, port: 25, tls: Optional, certificateRef: {{name: tls}}}}]\n  \
         clients: {{cidrs: [127.0.0.0/8], allowForeignSenders: true}}\n  \
         defaultRoute: {{host: 127.0.0.1, port: {SINK}}}\n  \
         limits: {{connectionsPerClient: 20000, connections: 20000}}\n",
        encode(chain),
        encode(key)
    );
    let binary = std::path::PathBuf::from(env!("CARGO_BIN_EXE_postern"));
    let server = Server::postern(bench, &binary, &yaml, &[], None)?;
    server.wait()?;
    Ok(server)
}

fn postfix(bench: &Bench, chain: &str, key: &str) -> Result<Server, String> {
    let server = Server::start(bench, &Peer::Postfix(""))?;
    let folder = bench.root.join("run/postfix/etc");
    let (chain_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
    fs::write(&chain_file, chain).and_then(|()| fs::write(&key_file, key)).map_err(|e| e.to_string())?;
    let settings = [
        "smtpd_tls_security_level=may".to_owned(),
        format!("smtpd_tls_cert_file={}", chain_file.display()),
        format!("smtpd_tls_key_file={}", key_file.display()),
        "smtpd_tls_session_cache_database=".to_owned(),
        "tls_ssl_options=NO_TICKET".to_owned(),
    ];
    let set = Command::new("postconf").arg("-c").arg(&folder).arg("-e").args(&settings).status();
    let reloaded = Command::new("postfix")
        .arg("-c")
        .arg(&folder)
        .arg("reload")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !set.is_ok_and(|s| s.success()) || !reloaded.is_ok_and(|s| s.success()) {
        return Err("Postfix does not take the certificate".to_owned());
    }
    std::thread::sleep(Duration::from_secs(1));
    server.wait()?;
    Ok(server)
}

async fn load(
    bench: &Bench,
    server: &Server,
    trusted: &CertificateDer<'static>,
    mail: bool,
) -> Result<Rate, String> {
    let _sink = Sink::start(bench, SINK)?;
    let config = Arc::new(client(trusted)?);
    let done = Arc::new(AtomicU64::new(0));
    let (before, start) = (cpu_seconds(server.pid()), Instant::now());
    let end = start + Duration::from_secs(SECONDS);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (config, done) = (Arc::clone(&config), Arc::clone(&done));
            tokio::spawn(async move {
                while Instant::now() < end {
                    one(&config, mail).await.map_err(|error| error.to_string())?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    for client in clients {
        client.await.map_err(|error| error.to_string())?.map_err(|e| format!("{}: {e}", server.name()))?;
    }
    let (done, seconds) = (done.load(Ordering::Relaxed) as f64, start.elapsed().as_secs_f64());
    let cpu = cpu_seconds(server.pid()) - before;
    Ok((done / seconds, done / cpu))
}

/// One connection: STARTTLS, a whole handshake, and a small message.
async fn one(config: &Arc<ClientConfig>, mail: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", RELAY)).await?;
    stream.set_nodelay(true)?;
    reply(&mut stream).await?;
    for command in ["EHLO x.example\r\n", "STARTTLS\r\n"] {
        stream.write_all(command.as_bytes()).await?;
        reply(&mut stream).await?;
    }
    let name = ServerName::try_from("gw.bench.example").expect("a name");
    let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    let commands: &[&str] = match mail {
        false => &["EHLO x.example\r\n", "QUIT\r\n"],
        true => &[
            "EHLO x.example\r\n",
            "MAIL FROM:<a@source.example>\r\n",
            "RCPT TO:<b@dest.example>\r\n",
            "DATA\r\n",
            "From: a@source.example\r\nSubject: x\r\n\r\nhello\r\n.\r\n",
            "QUIT\r\n",
        ],
    };
    for command in commands {
        stream.write_all(command.as_bytes()).await?;
        reply(&mut stream).await?;
    }
    Ok(())
}

async fn reply(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut text = Vec::new();
    loop {
        let mut block = [0; 2048];
        let read = stream.read(&mut block).await?;
        text.extend_from_slice(&block[..read]);
        let last = text.strip_suffix(b"\r\n").map(|text| text.rsplit(|b| *b == b'\n').next().unwrap_or(text));
        match last {
            Some([b'2' | b'3', _, _, b' ', ..]) => return Ok(()),
            Some([_, _, _, b'-', ..]) | None if read > 0 => {}
            _ => return Err(std::io::Error::other(String::from_utf8_lossy(&text).into_owned())),
        }
    }
}

/// Trusts the one certificate that both servers show, and never resumes.
fn client(trusted: &CertificateDer<'static>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Of a process and its children, those that have ended too.
fn cpu_seconds(pid: u32) -> f64 {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<u64> = rest.split(' ').skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let own = head.split(' ').next() == Some(&pid.to_string());
        // Fields of proc(5) from the fourth on: 4 is the parent, 14 and 15 the time, 16 and 17 the children's.
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
        if own || field(4) == u64::from(pid) {
            ticks += field(14) + field(15) + if own { field(16) + field(17) } else { 0 };
        }
    }
    ticks as f64 / 100.0
}
