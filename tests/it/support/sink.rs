//! A next hop to test against: an SMTP server whose every answer can be scripted, which goes wrong
//! on demand and keeps what it got byte for byte. Deliberately simple-minded: it shares no code with
//! the product, so that both cannot be wrong in the same way.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What a sink answers. Start from [`Behaviour::default`].
#[derive(Clone)]
pub struct Behaviour {
    /// Keywords of the EHLO response, STARTTLS excepted.
    pub extensions: Vec<String>,
    /// Offers STARTTLS with this certificate.
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS from the first octet.
    pub implicit: bool,
    /// Looked at in order; the first that fits a command and is not used up acts.
    pub script: Vec<Step>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let extensions = ["PIPELINING", "SIZE 0", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"];
        Self {
            extensions: extensions.map(str::to_owned).to_vec(),
            tls: None,
            implicit: false,
            script: Vec::new(),
        }
    }
}

impl Behaviour {
    pub fn bare() -> Self {
        Self { extensions: Vec::new(), ..Self::default() }
    }

    pub fn with_tls(tls: Arc<ServerConfig>) -> Self {
        Self { tls: Some(tls), ..Self::default() }
    }

    pub fn on(mut self, command: &str, action: Action) -> Self {
        self.script.push(Step { command: command.to_owned(), times: usize::MAX, action });
        self
    }

    pub fn on_times(mut self, command: &str, times: usize, action: Action) -> Self {
        self.script.push(Step { command: command.to_owned(), times, action });
        self
    }
}

/// `command`: the beginning of a command line, `BLANK` (a line with nothing in it), or `CONNECT` (before the greeting), `CONTENT` (after
/// the first octets of content), `END` (after the final dot).
#[derive(Clone)]
pub struct Step {
    pub command: String,
    pub times: usize,
    pub action: Action,
}

#[derive(Clone)]
pub enum Action {
    /// Says this instead (CRLF is added).
    Say(String),
    /// Says what this makes of the line.
    Do(Arc<dyn Fn(&str) -> String + Send + Sync>),
    /// Says this and hangs up.
    SayAndClose(String),
    Close,
    /// Goes on with the normal answer after a while.
    Wait(Duration),
    /// Never answers.
    Hang,
}

pub fn say(text: &str) -> Action {
    Action::Say(text.to_owned())
}

/// One message that got a positive answer after its final dot, or none because of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The whole MAIL line.
    pub mail: String,
    /// The whole RCPT lines that were accepted.
    pub rcpts: Vec<String>,
    /// Dots unstuffed, without the final dot.
    pub content: Vec<u8>,
    pub tls: bool,
    /// Whether the last answer was positive.
    pub accepted: bool,
    pub connection: usize,
}

#[derive(Default)]
struct Seen {
    mails: Mutex<Vec<Mail>>,
    commands: Mutex<Vec<String>>,
    peers: Mutex<Vec<IpAddr>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

pub struct Sink {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    behaviour: Arc<Mutex<Behaviour>>,
    task: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sink {
    pub async fn start(behaviour: Behaviour) -> Sink {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    pub async fn start_at(address: SocketAddr, behaviour: Behaviour) -> Sink {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (to, script) = (Arc::clone(&seen), Arc::clone(&behaviour));
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                to.peers.lock().unwrap().push(peer.ip());
                let connection = to.connections.fetch_add(1, Ordering::SeqCst);
                let (to, script) = (Arc::clone(&to), Arc::clone(&script));
                sessions.spawn(async move {
                    let open = to.open.fetch_add(1, Ordering::SeqCst) + 1;
                    to.most_open.fetch_max(open, Ordering::SeqCst);
                    session(stream, connection, &to, &script).await;
                    to.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Sink { address, seen, behaviour, task }
    }

    /// Changes what later commands get.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// Every message whose content came to its end.
    pub fn mails(&self) -> Vec<Mail> {
        self.seen.mails.lock().unwrap().clone()
    }

    pub fn accepted(&self) -> Vec<Mail> {
        self.mails().into_iter().filter(|mail| mail.accepted).collect()
    }

    /// Every command line, in the order of arrival.
    pub fn commands(&self) -> Vec<String> {
        self.seen.commands.lock().unwrap().clone()
    }

    /// Where each connection came from, in the order of arrival.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.seen.peers.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Most connections that were open at the same time.
    pub fn most_open(&self) -> usize {
        self.seen.most_open.load(Ordering::SeqCst)
    }

    /// Waits until `count` messages were accepted.
    /// Waits until so many commands that begin like this have come.
    pub async fn wait_commands(&self, start: &str, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.commands().iter().filter(|command| command.starts_with(start)).count() < count {
            assert!(tokio::time::Instant::now() < deadline, "no {count} {start}: {:?}", self.commands());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_for(&self, count: usize) -> Vec<Mail> {
        for _ in 0..2000 {
            if self.accepted().len() >= count {
                return self.accepted();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} of {count} messages came; commands: {:#?}", self.accepted().len(), self.commands());
    }
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

struct Line<'a> {
    stream: Box<dyn Duplex>,
    ahead: Vec<u8>,
    script: &'a Mutex<Behaviour>,
}

enum Answer {
    Normal,
    Done,
    Close,
}

impl Line<'_> {
    async fn say(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
        self.stream.flush().await.ok()
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..].windows(end.len()).position(|w| w == end) {
                return Some(self.ahead.drain(..searched + at + end.len()).collect());
            }
            searched = self.ahead.len().saturating_sub(end.len());
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut block = vec![0; 65536];
        let read = self.stream.read(&mut block).await.ok().filter(|read| *read > 0)?;
        self.ahead.extend_from_slice(&block[..read]);
        Some(())
    }

    /// What the script says about this moment.
    async fn scripted(&mut self, moment: &str) -> Answer {
        let action = {
            let mut behaviour = self.script.lock().unwrap();
            let upper = moment.to_ascii_uppercase();
            let fits = |s: &&mut Step| s.times > 0 && upper.starts_with(&s.command.to_ascii_uppercase());
            match behaviour.script.iter_mut().find(fits) {
                Some(step) => {
                    step.times -= 1;
                    step.action.clone()
                }
                None => return Answer::Normal,
            }
        };
        match action {
            Action::Say(text) => {
                if self.say(&text).await.is_some() {
                    Answer::Done
                } else {
                    Answer::Close
                }
            }
            Action::Do(make) => match self.say(&make(moment)).await {
                Some(()) => Answer::Done,
                None => Answer::Close,
            },
            Action::SayAndClose(text) => {
                self.say(&text).await;
                Answer::Close
            }
            Action::Close => Answer::Close,
            Action::Wait(time) => {
                tokio::time::sleep(time).await;
                Answer::Normal
            }
            Action::Hang => std::future::pending().await,
        }
    }
}

async fn session(stream: TcpStream, connection: usize, seen: &Seen, script: &Mutex<Behaviour>) -> Option<()> {
    let start = script.lock().unwrap().clone();
    let mut encrypted = false;
    let stream: Box<dyn Duplex> = match (&start.tls, start.implicit) {
        (Some(tls), true) => {
            encrypted = true;
            Box::new(TlsAcceptor::from(Arc::clone(tls)).accept(stream).await.ok()?)
        }
        _ => Box::new(stream),
    };
    let mut line = Line { stream, ahead: Vec::new(), script };
    match line.scripted("CONNECT").await {
        Answer::Normal => line.say("220 sink.example ESMTP").await?,
        Answer::Done => {}
        Answer::Close => return None,
    }
    let (mut mail, mut rcpts): (Option<String>, Vec<String>) = (None, Vec::new());
    loop {
        let command = String::from_utf8_lossy(&line.until(b"\r\n").await?).trim_end().to_owned();
        seen.commands.lock().unwrap().push(command.clone());
        let moment = if command.is_empty() { "BLANK" } else { &command };
        let scripted = line.scripted(moment).await;
        match scripted {
            Answer::Close => return None,
            Answer::Done => continue,
            Answer::Normal => {}
        }
        let verb = command.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                (mail, rcpts) = (None, Vec::new());
                let mut lines = vec!["sink.example".to_owned()];
                lines.extend(start.extensions.clone());
                if start.tls.is_some() && !encrypted {
                    lines.push("STARTTLS".to_owned());
                }
                let last = lines.len() - 1;
                for (n, text) in lines.iter().enumerate() {
                    line.say(&format!("250{}{text}", if n == last { ' ' } else { '-' })).await?;
                }
            }
            "HELO" => line.say("250 sink.example").await?,
            "STARTTLS" => {
                line.say("220 2.0.0 go").await?;
                let Line { stream, ahead, .. } = line;
                assert!(ahead.is_empty(), "clear text after STARTTLS: {ahead:?}");
                let tls = start.tls.clone()?;
                let stream = TlsAcceptor::from(tls).accept(stream).await.ok()?;
                encrypted = true;
                line = Line { stream: Box::new(stream), ahead: Vec::new(), script };
            }
            "MAIL" => {
                mail = Some(command);
                line.say("250 2.1.0 ok").await?;
            }
            "RCPT" if mail.is_some() => {
                rcpts.push(command);
                line.say("250 2.1.5 ok").await?;
            }
            "DATA" if !rcpts.is_empty() => {
                line.say("354 go").await?;
                let end = content(&mut line).await?;
                let got = Mail {
                    mail: mail.take()?,
                    rcpts: std::mem::take(&mut rcpts),
                    content: end.0,
                    tls: encrypted,
                    accepted: matches!(end.1, Answer::Normal),
                    connection,
                };
                seen.mails.lock().unwrap().push(got);
                match end.1 {
                    Answer::Normal => line.say("250 2.0.0 taken").await?,
                    Answer::Done => {}
                    Answer::Close => return None,
                }
            }
            "RCPT" | "DATA" => line.say("503 5.5.1 not now").await?,
            "RSET" => {
                (mail, rcpts) = (None, Vec::new());
                line.say("250 2.0.0 ok").await?;
            }
            "QUIT" => {
                line.say("221 2.0.0 bye").await?;
                return None;
            }
            _ => line.say("500 5.5.2 what?").await?,
        }
    }
}

/// Reads content up to the final dot and unstuffs it. A strict reader: only CRLF.CRLF ends it.
async fn content(line: &mut Line<'_>) -> Option<(Vec<u8>, Answer)> {
    while line.ahead.is_empty() {
        line.more().await?;
    }
    match line.scripted("CONTENT").await {
        Answer::Close => return None,
        Answer::Normal | Answer::Done => {}
    }
    let mut content = Vec::new();
    loop {
        let text = line.until(b"\r\n").await?;
        if text == b".\r\n" {
            break;
        }
        content.extend_from_slice(text.strip_prefix(b".").unwrap_or(&text));
    }
    let answer = line.scripted("END").await;
    Some((content, answer))
}

/// A certificate authority for tests.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A server's configuration with the chain it shows, its own certificate first.
pub type Shown = (Arc<ServerConfig>, Vec<CertificateDer<'static>>);

impl Authority {
    pub fn new() -> Self {
        Self::called("Test Authority")
    }

    pub fn called(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// The CA file.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for these names (host names or addresses).
    pub fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.server_with(names, |_| {})
    }

    /// The same with the authority's own certificate in the chain, for TLSA records that name it.
    pub fn server_with_chain(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let (params, key) = leaf(names, change);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.issuer.der().clone()];
        (config(chain.clone(), &key), chain)
    }

    pub fn server_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let (params, key) = leaf(names, change);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        config(vec![certificate.der().clone()], &key)
    }
}

impl Authority {
    /// A server that talks only to clients with a certificate of `clients`, in these versions of TLS.
    pub fn server_for(
        &self,
        names: &[&str],
        clients: &Authority,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let (params, key) = leaf(names, |_| {});
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }

    /// A server that knows these versions of TLS only.
    pub fn server_of(
        &self,
        names: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let (params, key) = leaf(names, |_| {});
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    /// A certificate for a client and its key, in PEM.
    pub fn client(&self, name: &'static str) -> (String, String) {
        let (params, key) = leaf(&[], common_name(name));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A certificate that nobody signed but itself, and its PEM form.
pub fn self_signed(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let (params, key) = leaf(names, |_| {});
    let certificate = params.self_signed(&key).unwrap();
    (config(vec![certificate.der().clone()], &key), certificate.pem())
}

pub fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 2));
}

pub fn not_yet_valid(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
}

/// RFC 7633.
pub fn must_staple(params: &mut CertificateParams) {
    let content = vec![0x30, 0x03, 0x02, 0x01, 0x05];
    params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], content));
}

pub fn common_name(name: &'static str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.distinguished_name = named(name)
}

fn leaf(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = named("sink");
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

fn named(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

fn config(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}
