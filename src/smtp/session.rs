//! The state of a conversation (RFC 5321 sections 3 and 4.1.4), without IO: a command line and the
//! settings in, the next thing to do out. Replies that depend on nobody else are decided here; what
//! needs the [`Handler`](super::Handler) is an [`Action`], and its answer is told back.

mod replies;

pub(super) use replies::*;

use std::borrow::Cow;
use std::sync::Arc;

use super::auth::{Exchange, MAX_RESPONSE, Mechanism, Step};
use super::command::{self, Command, CommandError, Forward};
use super::line::{Hopeless, MAX_COMMAND};
use super::reply::Reply;
use super::settings::{Settings, TlsMode};
use crate::mail::envelope::{Recipient, Sender};

/// What the driver of a session must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this and go on.
    Say(Reply),
    /// Say this to DATA and go on; but if input is already waiting, it is content that nobody asked
    /// for and must not be taken for commands: close.
    NoData(Reply),
    /// Say this and close.
    Close(Reply),
    /// Say this, throw away all input, do the handshake, then call [`Session::secured`].
    StartTls(Reply),
    /// Ask the handler to begin a transaction, then call [`Session::began`] if it does.
    Mail { sender: Sender, size: Option<u64> },
    /// Ask the handler for this recipient, then call [`Session::added`] if it is accepted.
    Rcpt(Recipient),
    /// Ask the handler whether content may come, read it, then call [`Session::ended`].
    Data,
    /// Read so many octets of content; before the first ones ask the handler as for [`Action::Data`]. After the
    /// last ones, or when something is wrong, call [`Session::ended`].
    Chunk { size: u64, last: bool },
    /// Read so many octets, throw them away, and say this.
    NoChunk { size: u64, reply: Reply },
    /// Look whether this client may try to log in, then call [`Session::log_in`] and do what it says.
    LogIn { mechanism: Mechanism, initial: Option<String> },
    /// A login succeeded: count it and say this.
    LoggedIn(Reply),
    /// A login failed: count it, wait, and do this.
    LoginFailed(Box<Action>),
}

#[derive(Debug)]
pub struct Session {
    tls: TlsMode,
    secured: bool,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    /// A login that waits for the client's next line.
    exchange: Option<Box<Exchange>>,
    login: Option<Arc<str>>,
    errors: u32,
    chatter: u32,
}

/// How the client introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub name: String,
    /// EHLO, not HELO.
    pub esmtp: bool,
}

#[derive(Debug)]
struct Transaction {
    smtputf8: bool,
    recipients: usize,
    /// Content has begun to come, by BDAT.
    chunking: bool,
}

impl Session {
    pub fn new(tls: TlsMode) -> Self {
        Self {
            tls,
            secured: tls == TlsMode::Implicit,
            hello: None,
            transaction: None,
            exchange: None,
            login: None,
            errors: 0,
            chatter: 0,
        }
    }

    /// Who the client says it is; `None` before EHLO and again after STARTTLS.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Whether a transaction is open. When it is not, whatever the handler began must be dropped.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whom the client has logged in as.
    pub fn login(&self) -> Option<&Arc<str>> {
        self.login.as_ref()
    }

    /// Octets that the next line may have.
    pub fn longest_line(&self) -> usize {
        if self.exchange.is_some() { MAX_RESPONSE } else { MAX_COMMAND }
    }

    /// One command line without its CRLF, or a line of a login.
    pub fn line(&mut self, line: &[u8], settings: &Settings) -> Action {
        if let Some(exchange) = self.exchange.take() {
            return self.step(exchange.answer(line, &settings.users), settings);
        }
        match command::parse(line) {
            Ok(command) => self.command(command, settings),
            Err(error @ (CommandError::Http | CommandError::Chunk)) => Action::Close(error.reply()),
            Err(error) if error.is_protocol_error() => self.mistake(error.reply(), settings),
            Err(error) => Action::Say(error.reply()),
        }
    }

    /// A command line that was too long to keep.
    pub fn too_long(&mut self, settings: &Settings) -> Action {
        let reply = if self.exchange.take().is_some() { login_line_too_long() } else { line_too_long() };
        self.mistake(reply, settings)
    }

    /// Input that can hold no command any more.
    pub fn hopeless(&self, why: Hopeless) -> Action {
        Action::Close(match why {
            Hopeless::BareLf => bare_lf(),
            Hopeless::Tls => tls_on_plain_port(),
            Hopeless::Endless => line_too_long(),
        })
    }

    /// The handshake is done: everything said before it counts for nothing (RFC 3207 section 4.2).
    pub fn secured(&mut self) {
        self.secured = true;
        self.hello = None;
        self.transaction = None;
        self.exchange = None;
        self.login = None;
    }

    /// The login of [`Action::LogIn`]; `None` when its client must not try.
    pub fn log_in(&mut self, tried: Option<(Mechanism, Option<&str>)>, settings: &Settings) -> Action {
        match tried {
            Some((mechanism, initial)) => {
                self.step(Exchange::begin(mechanism, initial, &settings.users), settings)
            }
            None => self.mistake(too_many_failed_logins(), settings),
        }
    }

    /// The handler began the transaction of [`Action::Mail`].
    pub fn began(&mut self, smtputf8: bool) -> Reply {
        self.transaction = Some(Transaction { smtputf8, recipients: 0, chunking: false });
        sender_ok()
    }

    /// The handler accepted the recipient of [`Action::Rcpt`].
    pub fn added(&mut self) -> Reply {
        if let Some(transaction) = &mut self.transaction {
            transaction.recipients += 1;
        }
        recipient_ok()
    }

    /// Content was read to its end and `reply` is the answer: the transaction is over.
    pub fn ended(&mut self, reply: &Reply) {
        self.transaction = None;
        if reply.is_positive() {
            (self.errors, self.chatter) = (0, 0);
        }
    }

    fn command(&mut self, command: Command, settings: &Settings) -> Action {
        match command {
            Command::Ehlo(name) => {
                let reply = ehlo(settings, self.secured);
                self.greeted(Hello { name, esmtp: true }, reply, settings)
            }
            Command::Helo(name) => {
                let reply = Reply::plain(250, settings.hostname.clone());
                self.greeted(Hello { name, esmtp: false }, reply, settings)
            }
            Command::Quit => Action::Close(goodbye()),
            Command::Noop => self.chat(ok(), settings),
            Command::StartTls => self.start_tls(settings),
            Command::Rset => {
                self.transaction = None;
                self.chat(ok(), settings)
            }
            Command::Help => self.chat(help(), settings),
            Command::Vrfy
            | Command::Mail { .. }
            | Command::Rcpt { .. }
            | Command::Data
            | Command::Bdat { .. }
            | Command::Auth { .. }
                if self.tls == TlsMode::Required && !self.secured =>
            {
                match (self.mistake(starttls_first(), settings), command) {
                    (Action::Say(reply), Command::Bdat { size, .. }) => Action::NoChunk { size, reply },
                    (action, _) => action,
                }
            }
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial, settings),
            Command::Bdat { size, last } => self.bdat(size, last, settings),
            Command::Vrfy => self.chat(cannot_verify(), settings),
            Command::Mail { sender, size } => self.mail(sender, size, settings),
            Command::Rcpt { to, notify, original } => match self.rcpt(to, settings) {
                Ok(mailbox) => Action::Rcpt(Recipient { mailbox, notify, original }),
                Err(action) => action,
            },
            Command::Data => self.data(settings),
        }
    }

    fn greeted(&mut self, hello: Hello, reply: Reply, settings: &Settings) -> Action {
        self.hello = Some(hello);
        self.transaction = None;
        self.chat(reply, settings)
    }

    fn start_tls(&mut self, settings: &Settings) -> Action {
        if self.secured {
            return self.mistake(already_secured(), settings);
        }
        self.transaction = None;
        Action::StartTls(ready_for_tls())
    }

    fn auth(&mut self, mechanism: &str, initial: Option<String>, settings: &Settings) -> Action {
        let refused = if settings.users.is_empty() {
            CommandError::NotImplemented.reply()
        } else if !self.secured {
            encryption_required()
        } else if !self.hello.as_ref().is_some_and(|hello| hello.esmtp) {
            bad_sequence("EHLO first")
        } else if self.login.is_some() {
            bad_sequence("Already authenticated")
        } else if self.transaction.is_some() {
            bad_sequence("A transaction is open")
        } else {
            match Mechanism::named(mechanism) {
                Some(mechanism) => return Action::LogIn { mechanism, initial },
                None => mechanism_unknown(),
            }
        };
        self.mistake(refused, settings)
    }

    fn step(&mut self, step: Step, settings: &Settings) -> Action {
        match step {
            Step::Challenge(exchange, challenge) => {
                self.exchange = Some(Box::new(exchange));
                Action::Say(auth_challenge(challenge))
            }
            Step::Proven(name) => {
                self.login = Some(name);
                Action::LoggedIn(logged_in())
            }
            Step::Wrong => Action::LoginFailed(Box::new(self.mistake(login_failed(), settings))),
            Step::Cancelled => self.mistake(login_cancelled(), settings),
            Step::Malformed => self.mistake(login_malformed(), settings),
        }
    }

    fn mail(&mut self, sender: Sender, size: Option<u64>, settings: &Settings) -> Action {
        if self.hello.is_none() {
            return self.mistake(bad_sequence("EHLO or HELO first"), settings);
        }
        if self.transaction.is_some() {
            return self.mistake(bad_sequence("A transaction is already open"), settings);
        }
        // Offered under TLS only (RFC 8689 section 2).
        if sender.require_tls && !self.secured {
            return self.mistake(starttls_first(), settings);
        }
        let needs_utf8 = sender.mailbox.as_ref().is_some_and(|mailbox| mailbox.needs_utf8());
        if needs_utf8 && !sender.smtputf8 {
            return Action::Say(utf8_not_announced());
        }
        if size.is_some_and(|size| size > settings.limits.message_size) {
            return Action::Say(too_big(settings.limits.message_size));
        }
        Action::Mail { sender, size }
    }

    fn rcpt(&mut self, to: Forward, settings: &Settings) -> Result<crate::mail::address::Mailbox, Action> {
        let Some(transaction) = &self.transaction else {
            return Err(self.mistake(bad_sequence("MAIL first"), settings));
        };
        if transaction.chunking {
            return Err(self.mistake(bad_sequence("Content has begun"), settings));
        }
        if transaction.recipients >= settings.limits.recipients {
            return Err(Action::Say(too_many_recipients(settings.limits.recipients)));
        }
        let mailbox = match to {
            Forward::Mailbox(mailbox) => mailbox,
            Forward::Postmaster(written) => format!("{written}@{}", settings.hostname)
                .parse()
                .map_err(|_| Action::Say(CommandError::Recipient("no domain").reply()))?,
        };
        if mailbox.needs_utf8() && !transaction.smtputf8 {
            return Err(Action::Say(utf8_not_announced()));
        }
        Ok(mailbox)
    }

    fn data(&mut self, settings: &Settings) -> Action {
        let refused = match &self.transaction {
            // RFC 3030 section 2: never both, and what came so far is void.
            Some(transaction) if transaction.chunking => {
                self.transaction = None;
                bad_sequence("DATA and BDAT do not mix; the transaction is over")
            }
            Some(transaction) if transaction.recipients > 0 => return Action::Data,
            Some(_) => no_recipients(),
            None => bad_sequence("MAIL first"),
        };
        match self.mistake(refused, settings) {
            Action::Say(reply) => Action::NoData(reply),
            other => other,
        }
    }

    /// The chunk follows whatever is answered (RFC 3030 section 2), so it is read even when it is not wanted.
    /// Chunks behind one that was refused have no transaction any more and end here.
    fn bdat(&mut self, size: u64, last: bool, settings: &Settings) -> Action {
        let refused = match &mut self.transaction {
            Some(transaction) if transaction.recipients > 0 => {
                transaction.chunking = true;
                return Action::Chunk { size, last };
            }
            Some(_) => no_recipients(),
            None => bad_sequence("MAIL first"),
        };
        match self.chat(refused, settings) {
            Action::Say(reply) => Action::NoChunk { size, reply },
            other => other,
        }
    }

    /// Answers a command that is fine but brings no message nearer.
    fn chat(&mut self, reply: Reply, settings: &Settings) -> Action {
        self.chatter = self.chatter.saturating_add(1);
        if self.chatter > settings.limits.chatter {
            self.mistake(reply, settings)
        } else {
            Action::Say(reply)
        }
    }

    /// Answers a mistake, or closes a session that makes too many of them.
    fn mistake(&mut self, reply: Reply, settings: &Settings) -> Action {
        self.errors = self.errors.saturating_add(1);
        if self.errors > settings.limits.errors {
            Action::Close(too_many_errors())
        } else {
            Action::Say(reply)
        }
    }
}

/// The response to EHLO: our name, then what we can do.
fn ehlo(settings: &Settings, secured: bool) -> Reply {
    let size = format!("SIZE {}", settings.limits.message_size);
    let mut lines: Vec<Cow<'_, str>> = vec![settings.hostname.as_str().into()];
    lines.extend(["PIPELINING", &size, "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"].map(Cow::from));
    // Passwords are for TLS only.
    if secured && !settings.users.is_empty() {
        lines.push(format!("AUTH {}", Mechanism::ALL.map(Mechanism::name).join(" ")).into());
    }
    // One of the two: the other makes no sense on this leg.
    lines.push(if secured { "REQUIRETLS" } else { "STARTTLS" }.into());
    // Last, so that the final line is the same on every leg.
    lines.push("ENHANCEDSTATUSCODES".into());
    Reply::plain(250, lines.join("\n"))
}

#[cfg(test)]
mod tests;
