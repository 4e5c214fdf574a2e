//! One connection: moves octets between a stream, the [`Session`] that understands them and the
//! [`Handler`] that knows what to do with mail. Nothing here interprets a command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::ListenerConfig;
use super::input::{Input, Stream};
use super::logins::Try;
use crate::mail::envelope::{Recipient, Sender};
use crate::smtp::chunk::{Chunks, Tail};
use crate::smtp::line::{Content, Line, Lines, Piece};
use crate::smtp::reply::Reply;
use crate::smtp::session::{self, Action, Session};
use crate::smtp::settings::{Settings, TlsMode};
use crate::smtp::{Handler, Mail, Peer, tls};

/// Replies are gathered up to this many octets before they are written.
const GATHERED: usize = 16 << 10;

/// How long, and how many octets, we listen on after our last word. A socket closed with input unread
/// is reset, and the reset can overtake that last word.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_OCTETS: usize = 1 << 20;

/// Octets of a message already refused that are read for the sake of its reply, beyond its size limit.
const PATIENCE: u64 = 1 << 20;

/// Why a conversation over one stream is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Our last reply is written or waits to be: close in an orderly way.
    Close,
    /// The client is gone.
    Gone,
    /// 220 is written: what comes next is a handshake.
    StartTls,
}

/// Serves one connection until it ends. `closing` ends it at the next moment without a transaction.
pub async fn serve<S: Stream, H: Handler>(
    mut stream: S,
    address: SocketAddr,
    local: SocketAddr,
    config: Arc<ListenerConfig>,
    handler: Arc<H>,
    closing: CancellationToken,
) {
    let mut talk = Talk::new(address, local, config, handler, closing);
    if talk.config.tls != TlsMode::Implicit {
        match talk.greet_and_run(&mut stream).await {
            End::Close => return talk.leave(&mut stream).await,
            End::Gone => return,
            End::StartTls => {}
        }
    }
    let Some(mut stream) = talk.handshake(stream).await else { return };
    let end = match talk.config.tls {
        TlsMode::Implicit => talk.greet_and_run(&mut *stream).await,
        TlsMode::Optional | TlsMode::Required => talk.run(&mut *stream).await,
    };
    if end == End::Close {
        talk.leave(&mut *stream).await;
    }
}

/// What a connection remembers. Kept small: most connections are idle most of the time.
struct Talk<H: Handler> {
    config: Arc<ListenerConfig>,
    handler: Arc<H>,
    closing: CancellationToken,
    /// As they were when the transaction began, or at the last command.
    settings: Arc<Settings>,
    session: Session,
    peer: Peer,
    mail: Option<Box<H::Mail>>,
    /// Content that comes in chunks and has begun.
    chunks: Option<Box<Arriving>>,
    lines: Lines,
    input: Input,
    output: Vec<u8>,
    /// When the command that is awaited must be here.
    command_due: Instant,
    /// When the transaction must be over, if there is one.
    transaction_due: Instant,
}

/// Content that comes in chunks, between two of them.
#[derive(Default)]
struct Arriving {
    content: Chunks,
    /// Time spent waiting for it.
    waited: Duration,
}

impl<H: Handler> Talk<H> {
    fn new(
        address: SocketAddr,
        local: SocketAddr,
        config: Arc<ListenerConfig>,
        handler: Arc<H>,
        closing: CancellationToken,
    ) -> Self {
        let settings = config.settings.load_full();
        let now = Instant::now();
        Self {
            session: Session::new(config.tls),
            peer: Peer {
                address,
                local,
                listener: config.name.clone(),
                helo: String::new(),
                esmtp: false,
                tls: None,
                login: None,
                certificate: None,
            },
            mail: None,
            chunks: None,
            lines: Lines::default(),
            input: Input::default(),
            output: Vec::new(),
            command_due: now + settings.timeouts.command,
            transaction_due: now,
            config,
            handler,
            closing,
            settings,
        }
    }

    async fn greet_and_run(&mut self, stream: &mut dyn Stream) -> End {
        match self.handler.greet(self.peer.address) {
            Ok(()) => self.say(&session::greeting(&self.settings.hostname)),
            Err(refusal) => {
                self.say(&refusal);
                return End::Close;
            }
        };
        match self.flush(stream).await {
            Some(end) => end,
            None => self.run(stream).await,
        }
    }

    async fn run(&mut self, stream: &mut dyn Stream) -> End {
        self.command_due = Instant::now() + self.settings.timeouts.command;
        loop {
            if let Some(end) = self.wait(stream).await {
                return end;
            }
            // Boxed: what it takes to serve a command exists only while there is one.
            if let Some(end) = Box::pin(self.serve_input(stream)).await {
                return end;
            }
        }
    }

    /// Waits for input between commands.
    async fn wait(&mut self, stream: &mut dyn Stream) -> Option<End> {
        let in_transaction = self.session.in_transaction();
        let due = if in_transaction { self.command_due.min(self.transaction_due) } else { self.command_due };
        let last_word = tokio::select! {
            biased;
            filled = timeout_at(due, self.input.fill(stream)) => match filled {
                Ok(Ok(0) | Err(_)) => return Some(End::Gone),
                Ok(Ok(_)) => return None,
                Err(_) => session::timed_out(),
            },
            () = self.closing.cancelled(), if !in_transaction => session::shutting_down(),
        };
        self.say(&last_word);
        Some(End::Close)
    }

    /// Obeys every whole command that is here, then writes the replies of all in one go.
    async fn serve_input(&mut self, stream: &mut dyn Stream) -> Option<End> {
        loop {
            if !self.session.in_transaction() {
                self.settings = self.config.settings.load_full();
            }
            let (used, line) = self.lines.next(self.input.unread(), self.session.longest_line());
            let action = match line {
                Line::Partial => {
                    self.input.consume(used);
                    return self.flush(stream).await;
                }
                Line::Whole(line) => self.session.line(line, &self.settings),
                Line::TooLong => self.session.too_long(&self.settings),
                Line::Hopeless(why) => self.session.hopeless(why),
            };
            self.input.consume(used);
            let end = self.act(action, stream).await;
            if end.is_some() {
                return end;
            }
            if !self.session.in_transaction() {
                (self.mail, self.chunks) = (None, None);
            }
            self.command_due = Instant::now() + self.settings.timeouts.command;
            if self.output.len() > GATHERED
                && let Some(end) = self.flush(stream).await
            {
                return Some(end);
            }
        }
    }

    async fn act(&mut self, action: Action, stream: &mut dyn Stream) -> Option<End> {
        match action {
            Action::Say(reply) => self.say(&reply),
            Action::NoData(reply) => self.no_data(reply),
            Action::Close(reply) => {
                self.say(&reply);
                Some(End::Close)
            }
            Action::StartTls(reply) => self.start_tls(&reply, stream).await,
            Action::Mail { sender, size } => self.mail(sender, size).await,
            Action::Rcpt(recipient) => self.rcpt(recipient).await,
            Action::Data => self.data(stream).await,
            Action::Chunk { size, last } => self.chunk(size, last, stream).await,
            Action::NoChunk { size, reply } => self.no_chunk(size, &reply, stream).await,
            Action::LogIn { mechanism, initial } => {
                let (client, rate) = (self.peer.address.ip(), self.settings.limits.failed_logins);
                let logins = self.config.connections.logins();
                let may = logins.may_try(client, &rate, Timestamp::now());
                let tried = may.then_some((mechanism, initial.as_deref()));
                let action = self.session.log_in(tried, &self.settings);
                Box::pin(self.act(action, stream)).await
            }
            Action::LoggedIn(reply) => {
                self.config.connections.logins().count(Try::Succeeded);
                self.say(&reply)
            }
            Action::LoginFailed(action) => self.login_failed(*action, stream).await,
        }
    }

    async fn login_failed(&mut self, action: Action, stream: &mut dyn Stream) -> Option<End> {
        let (client, rate) = (self.peer.address.ip(), self.settings.limits.failed_logins);
        self.config.connections.logins().failed(client, &rate, Timestamp::now());
        info!(listener = %self.config.name, %client, "login failed");
        if let Some(end) = self.flush(stream).await {
            return Some(end);
        }
        let delay = self.settings.timeouts.failed_login;
        // A sleep of no length still ends a tick later.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Box::pin(self.act(action, stream)).await
    }

    async fn mail(&mut self, sender: Sender, size: Option<u64>) -> Option<End> {
        let open = if self.closing.is_cancelled() {
            Err(session::shutting_down())
        } else {
            self.handler.greet(self.peer.address)
        };
        if let Err(refusal) = open {
            self.say(&refusal);
            return Some(End::Close);
        }
        if let Some(hello) = self.session.hello() {
            self.peer.helo.clone_from(&hello.name);
            self.peer.esmtp = hello.esmtp;
        }
        self.peer.login = self.session.login().cloned();
        let smtputf8 = sender.smtputf8;
        let reply = match self.handler.mail(&self.peer, sender, size).await {
            Ok(mail) => {
                self.mail = Some(Box::new(mail));
                self.transaction_due = Instant::now() + self.settings.timeouts.transaction;
                self.session.began(smtputf8)
            }
            Err(refusal) => refusal,
        };
        self.say(&reply)
    }

    async fn rcpt(&mut self, recipient: Recipient) -> Option<End> {
        let mail = self.mail.as_mut().expect("the session is in a transaction only after one began");
        let reply = match mail.rcpt(recipient).await {
            Ok(()) => self.session.added(),
            Err(refusal) => refusal,
        };
        self.say(&reply)
    }

    async fn data(&mut self, stream: &mut dyn Stream) -> Option<End> {
        let mut mail = self.mail.take().expect("the session is in a transaction only after one began");
        if let Err(refusal) = mail.data().await {
            self.session.ended(&refusal);
            return self.no_data(refusal);
        }
        self.say(&session::send_content());
        if let Some(end) = self.flush(stream).await {
            return Some(end);
        }
        let mut content = Content::default();
        let reply = match self.receive(mail, &mut content, stream).await {
            Ok(reply) => reply,
            Err(end) => return Some(end),
        };
        self.session.ended(&reply);
        let end = self.say(&reply);
        if content.ended_crooked() { Some(End::Close) } else { end }
    }

    /// Reads content to its end; the answer is the reply to it.
    async fn receive(
        &mut self,
        mail: Box<H::Mail>,
        content: &mut Content,
        stream: &mut dyn Stream,
    ) -> Result<Reply, End> {
        let limit = self.settings.limits.message_size;
        // Dropped as soon as it is clear that nothing will come of it.
        let mut taker = Ok(mail);
        let mut size = 0;
        let mut thrown_away = 0;
        let mut waited = Duration::ZERO;
        loop {
            let (used, piece) = content.next(self.input.unread());
            match piece {
                Piece::End => {
                    self.input.consume(used);
                    break;
                }
                Piece::More => {
                    self.input.consume(used);
                    self.wait_for_content(content.seen(), &mut waited, stream).await?;
                }
                Piece::Text(text) => {
                    size += text.len() as u64;
                    // A defect of the content outranks a refusal that would invite another try.
                    if let Some(fault) = content.fault() {
                        taker = Err(session::broken_content(fault));
                    } else if size > limit {
                        taker = Err(session::too_big(limit));
                    } else if let Ok(mail) = &mut taker
                        && let Err(refusal) = mail.write(text).await
                    {
                        taker = Err(refusal);
                    }
                    if let Err(refusal) = &taker {
                        thrown_away += used as u64;
                        if thrown_away > limit.saturating_add(PATIENCE) {
                            let refusal = refusal.clone();
                            self.say(&refusal);
                            return Err(End::Close);
                        }
                    }
                    self.input.consume(used);
                }
            }
        }
        match (content.fault(), taker) {
            (Some(fault), _) => Ok(session::broken_content(fault)),
            (None, Ok(mail)) => Ok(mail.finish().await),
            (None, Err(refusal)) => Ok(refusal),
        }
    }

    /// A chunk: it follows its command at once, so it is read to its end even when something is wrong with it.
    async fn chunk(&mut self, size: u64, last: bool, stream: &mut dyn Stream) -> Option<End> {
        let mail = self.mail.as_mut().expect("the session is in a transaction only after one began");
        let mut arriving = match self.chunks.take() {
            Some(arriving) => arriving,
            None => match mail.data().await {
                Ok(()) => Box::default(),
                Err(refusal) => {
                    self.session.ended(&refusal);
                    return self.no_chunk(size, &refusal, stream).await;
                }
            },
        };
        let limit = self.settings.limits.message_size;
        if arriving.content.seen().saturating_add(size) > limit {
            let refusal = session::too_big(limit);
            self.session.ended(&refusal);
            return self.no_chunk(size, &refusal, stream).await;
        }
        let mut left = size;
        while left > 0 {
            let unread = self.input.unread();
            let here = unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if here == 0 {
                let so_far = arriving.content.seen();
                if let Err(end) = self.wait_for_chunk(so_far, &mut arriving.waited, stream).await {
                    return Some(end);
                }
                continue;
            }
            let text = &unread[..here];
            arriving.content.read(text);
            let written = match (arriving.content.fault(), &mut self.mail) {
                (Some(fault), _) => Err(session::broken_content(fault)),
                (None, Some(mail)) => mail.write(text).await,
                (None, None) => Ok(()),
            };
            self.input.consume(here);
            left -= here as u64;
            if let Err(refusal) = written {
                self.session.ended(&refusal);
                return self.no_chunk(left, &refusal, stream).await;
            }
        }
        if !last {
            self.chunks = Some(arriving);
            return self.say(&session::chunk_ok(size));
        }
        let mut mail = self.mail.take().expect("it was there when the chunk began");
        // A line end that is missing at the end is added: by DATA the message could not be sent without.
        let complete = match arriving.content.end() {
            Ok(Tail::Complete) => Ok(()),
            Ok(Tail::NeedsLineEnd) => mail.write(b"\r\n").await,
            Err(fault) => Err(session::broken_content(fault)),
        };
        let reply = match complete {
            Ok(()) => mail.finish().await,
            Err(refusal) => refusal,
        };
        self.session.ended(&reply);
        self.say(&reply)
    }

    /// Reads a chunk that nobody wants, and says why.
    async fn no_chunk(&mut self, size: u64, reply: &Reply, stream: &mut dyn Stream) -> Option<End> {
        (self.mail, self.chunks) = (None, None);
        let limit = self.settings.limits.message_size;
        if size > limit.saturating_add(PATIENCE) {
            self.say(reply);
            return Some(End::Close);
        }
        self.transaction_due = Instant::now() + self.settings.timeouts.transaction;
        let (mut left, mut waited) = (size, Duration::ZERO);
        while left > 0 {
            let here = self.input.unread().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if here > 0 {
                self.input.consume(here);
                left -= here as u64;
            } else if let Err(end) = self.wait_for_chunk(size - left, &mut waited, stream).await {
                return Some(end);
            }
        }
        self.say(reply)
    }

    /// Replies to what came before go out first: the client may be waiting for them with the rest in its hand.
    async fn wait_for_chunk(
        &mut self,
        so_far: u64,
        waited: &mut Duration,
        stream: &mut dyn Stream,
    ) -> Result<(), End> {
        match self.flush(stream).await {
            Some(end) => Err(end),
            None => self.wait_for_content(so_far, waited, stream).await,
        }
    }

    async fn wait_for_content(
        &mut self,
        so_far: u64,
        waited: &mut Duration,
        stream: &mut dyn Stream,
    ) -> Result<(), End> {
        let timeouts = &self.settings.timeouts;
        let now = Instant::now();
        let deserved = timeouts.rate_grace + Duration::from_secs(so_far / timeouts.min_rate.max(1));
        let too_slow = now + deserved.saturating_sub(*waited);
        let due = self.transaction_due.min(now + timeouts.data_block);
        match timeout_at(due.min(too_slow), self.input.fill(stream)).await {
            Ok(Ok(0) | Err(_)) => Err(End::Gone),
            Ok(Ok(_)) => {
                *waited += now.elapsed();
                Ok(())
            }
            Err(_) => {
                self.say(&if too_slow < due { session::too_slow() } else { session::timed_out() });
                Err(End::Close)
            }
        }
    }

    /// DATA was refused. What is here already was sent before we asked for it: content, not commands.
    fn no_data(&mut self, reply: Reply) -> Option<End> {
        if self.input.is_empty() {
            return self.say(&reply);
        }
        self.say(&session::content_unasked());
        Some(End::Close)
    }

    /// All that the client sent before it saw our 220 was not protected: it is thrown away, so nothing
    /// said in clear is ever taken for something said under TLS (CVE-2011-0411).
    async fn start_tls(&mut self, ready: &Reply, stream: &mut dyn Stream) -> Option<End> {
        (self.mail, self.chunks) = (None, None);
        self.input.clear();
        while matches!(self.input.fill_now(stream).await, Ok(1..)) {
            self.input.clear();
        }
        self.say(ready);
        self.flush(stream).await.or(Some(End::StartTls))
    }

    async fn handshake<S: Stream>(&mut self, stream: S) -> Option<Box<TlsStream<S>>> {
        let acceptor = TlsAcceptor::from(self.config.certificate.current());
        let accepting = Box::pin(timeout(self.settings.timeouts.handshake, acceptor.accept(stream)));
        let stream = match accepting.await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => {
                debug!(listener = %self.config.name, client = %self.peer.address, %error, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                debug!(listener = %self.config.name, client = %self.peer.address, "TLS handshake timed out");
                return None;
            }
        };
        self.session.secured();
        self.lines = Lines::default();
        let connection = stream.get_ref().1;
        self.peer.tls = Some(tls::describe(connection));
        let shown = connection.peer_certificates().unwrap_or_default();
        let authority = self.config.settings.load().authority.clone();
        self.peer.certificate = authority.and_then(|authority| authority.names(shown, UnixTime::now()));
        Some(stream)
    }

    /// Puts a reply behind the others. 421 is always the last.
    fn say(&mut self, reply: &Reply) -> Option<End> {
        reply.write_to(&mut self.output);
        (reply.code == 421).then_some(End::Close)
    }

    async fn flush(&mut self, stream: &mut dyn Stream) -> Option<End> {
        if self.output.is_empty() {
            return None;
        }
        let writing = async {
            stream.write_all(&self.output).await?;
            stream.flush().await
        };
        let written = timeout(self.settings.timeouts.reply, writing).await;
        self.output.clear();
        self.output.shrink_to(1024);
        if matches!(written, Ok(Ok(()))) { None } else { Some(End::Gone) }
    }

    /// Writes our last word, closes our side, and waits a little for the client to close its own.
    async fn leave(&mut self, stream: &mut dyn Stream) {
        self.mail = None;
        if self.flush(stream).await.is_some() {
            return;
        }
        self.input.clear();
        let leaving = async {
            stream.shutdown().await?;
            let mut scrap = [0; 512];
            let mut thrown_away = 0;
            while thrown_away < LINGER_OCTETS {
                match stream.read(&mut scrap).await? {
                    0 => break,
                    count => thrown_away += count,
                }
            }
            std::io::Result::Ok(())
        };
        // Either way the connection ends here.
        let _ = timeout(LINGER, leaving).await;
    }
}
