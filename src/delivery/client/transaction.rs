//! One message for some recipients, on a session that is ready for MAIL.

use std::fmt::Write as _;

use super::connect::Session;
use super::content::Encoder;
use crate::delivery::outcome::{Stage, Trouble};
use crate::mail::address::{Host, Mailbox};
use crate::mail::envelope::{BodyType, Notify, Recipient, Ret, Sender};
use crate::smtp::reply::Reply;

/// RCPT commands in one flight: small enough that neither side's buffers fill up while both write
/// (RFC 2920 section 3.1).
const FLIGHT: usize = 50;

/// A message as it leaves: the edited header section and the untouched rest.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    pub sender: &'a Sender,
    pub head: &'a [u8],
    pub rest: &'a [u8],
    /// Octets above 127 anywhere.
    pub eight_bit: bool,
    /// Octets above 127 in the header section, sent by a client that spoke SMTPUTF8.
    pub utf8_head: bool,
    /// Nobody is to be told of what becomes of it (spec R85).
    pub suppress_bounces: bool,
}

impl<'a> Letter<'a> {
    pub fn new(sender: &'a Sender, head: &'a [u8], rest: &'a [u8]) -> Self {
        let head_ascii = head.is_ascii();
        let eight_bit = !head_ascii || !rest.is_ascii();
        Self {
            sender,
            head,
            rest,
            eight_bit,
            utf8_head: sender.smtputf8 && !head_ascii,
            suppress_bounces: false,
        }
    }

    pub fn size(&self) -> u64 {
        (self.head.len() + self.rest.len()) as u64
    }
}

/// One answer per recipient, in order; the reply after the data for those that were taken.
pub type Answers = Vec<Result<Reply, Trouble>>;

impl Session {
    /// Sends `letter` to `recipients`. `Err`: the same trouble for all of them. After an error that
    /// [ends the session](Trouble::ends_session) the session must be dropped.
    pub async fn deliver(
        &mut self,
        letter: &Letter<'_>,
        recipients: &[&Recipient],
    ) -> Result<Answers, Trouble> {
        let utf8 = self.fits(letter, recipients)?;
        self.used += 1;
        let mail = self.mail_command(letter, utf8);
        let rcpts: Vec<String> = recipients.iter().map(|r| self.rcpt_command(letter, r, utf8)).collect();
        let (mut answers, go) = if self.extensions.pipelining {
            self.envelope_in_flights(&mail, &rcpts).await?
        } else {
            self.envelope_step_by_step(&mail, &rcpts).await?
        };
        let taken = answers.iter().any(Result::is_ok);
        let end = match go {
            Some(reply) if reply.code == 354 && taken => self.content(letter).await,
            // Nobody was taken, yet the host waits for content: an empty one (RFC 2920 section 3.1).
            Some(reply) if reply.code == 354 => {
                self.exchange(b".\r\n", Stage::End).await?;
                return Ok(answers);
            }
            Some(reply) => Err(Trouble::Refused(Stage::Data, reply)),
            None => {
                self.reset().await;
                return Ok(answers);
            }
        };
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = end.clone();
        }
        Ok(answers)
    }

    /// MAIL and RCPT without DATA: whether the host would take mail for this recipient.
    pub async fn try_recipient(&mut self, sender: &Sender, recipient: &Recipient) -> Result<Reply, Trouble> {
        let letter = Letter::new(sender, b"", b"");
        let utf8 = self.fits(&letter, &[recipient])?;
        let reply = self.exchange(self.mail_command(&letter, utf8).as_bytes(), Stage::Mail).await?;
        if !reply.is_positive() {
            return Err(Trouble::Refused(Stage::Mail, reply));
        }
        let rcpt = self.rcpt_command(&letter, recipient, utf8);
        let reply = answer(self.exchange(rcpt.as_bytes(), Stage::Rcpt).await?);
        self.reset().await;
        reply
    }

    /// Whether the next hop can take this message as it is; nothing is ever converted. Returns
    /// whether SMTPUTF8 is needed.
    fn fits(&self, letter: &Letter<'_>, recipients: &[&Recipient]) -> Result<bool, Trouble> {
        let offered = &self.extensions;
        if letter.sender.require_tls {
            let why = match (&self.tls, offered.require_tls) {
                (None, _) => "the connection is not encrypted",
                (Some(_), false) => "it does not offer REQUIRETLS",
                (Some(_), true) => "",
            };
            if !why.is_empty() {
                return Err(Trouble::RequireTls(why.to_owned()));
            }
        }
        let needs = |mailbox: &Mailbox| match offered.smtputf8 {
            true => mailbox.needs_utf8(),
            // Without it, a domain can be written in ASCII; a local part cannot.
            false => !mailbox.local().is_ascii(),
        };
        let utf8 = letter.utf8_head
            || letter.sender.mailbox.as_ref().is_some_and(needs)
            || recipients.iter().any(|recipient| needs(&recipient.mailbox));
        if utf8 && !offered.smtputf8 {
            return Err(Trouble::NeedsUtf8);
        }
        if letter.eight_bit && !offered.eight_bit_mime {
            return Err(Trouble::NeedsEightBit);
        }
        match offered.size {
            Some(limit) if limit > 0 && letter.size() > limit => Err(Trouble::TooLarge(limit)),
            _ => Ok(utf8),
        }
    }

    fn mail_command(&self, letter: &Letter<'_>, utf8: bool) -> String {
        let offered = &self.extensions;
        let sender = letter.sender;
        // R85: a host that knows DSN is told not to report; another one gets nobody to report to.
        let nobody = letter.suppress_bounces && !offered.dsn;
        let mut line = match &sender.mailbox {
            Some(mailbox) if !nobody => format!("MAIL FROM:<{}>", path(mailbox, utf8)),
            _ => "MAIL FROM:<>".to_owned(),
        };
        if offered.size.is_some() {
            write!(line, " SIZE={}", letter.size()).expect("a String takes everything");
        }
        if offered.eight_bit_mime && (letter.eight_bit || sender.body == BodyType::EightBitMime) {
            line.push_str(" BODY=8BITMIME");
        }
        if utf8 {
            line.push_str(" SMTPUTF8");
        }
        if sender.require_tls {
            line.push_str(" REQUIRETLS");
        }
        if offered.dsn {
            match sender.ret {
                Some(Ret::Full) => line.push_str(" RET=FULL"),
                Some(Ret::Headers) => line.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = sender.envid.as_ref().filter(|envid| is_plain(envid)) {
                write!(line, " ENVID={envid}").expect("a String takes everything");
            }
        }
        line + "\r\n"
    }

    fn rcpt_command(&self, letter: &Letter<'_>, recipient: &Recipient, utf8: bool) -> String {
        let mut line = format!("RCPT TO:<{}>", path(&recipient.mailbox, utf8));
        if self.extensions.dsn {
            let notify = if letter.suppress_bounces { Notify::Never } else { recipient.notify };
            match notify {
                Notify::Unset => {}
                Notify::Never => line.push_str(" NOTIFY=NEVER"),
                Notify::On { success, failure, delay } => {
                    let names = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                    let names: Vec<&str> =
                        names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
                    if !names.is_empty() {
                        write!(line, " NOTIFY={}", names.join(",")).expect("a String takes everything");
                    }
                }
            }
            if let Some(original) = recipient.original.as_ref().filter(|original| is_plain(original)) {
                write!(line, " ORCPT={original}").expect("a String takes everything");
            }
        }
        line + "\r\n"
    }

    /// MAIL, the RCPTs and DATA with as few waits as possible. Returns an answer per recipient and
    /// the reply to DATA.
    async fn envelope_in_flights(
        &mut self,
        mail: &str,
        rcpts: &[String],
    ) -> Result<(Answers, Option<Reply>), Trouble> {
        let mut answers = Vec::with_capacity(rcpts.len());
        let mut mail_refused = None;
        for (n, flight) in rcpts.chunks(FLIGHT).enumerate() {
            let (first, last) = (n == 0, (n + 1) * FLIGHT >= rcpts.len());
            let mut commands = if first { mail.to_owned() } else { String::new() };
            flight.iter().for_each(|rcpt| commands.push_str(rcpt));
            if last {
                commands.push_str("DATA\r\n");
            }
            if let Err(trouble) = self.wire.send(commands.as_bytes(), Stage::Mail, self.timeouts.mail).await {
                return Err(self.parting(Stage::Mail, trouble).await);
            }
            if first {
                let reply = self.wire.reply(Stage::Mail, self.timeouts.mail).await?;
                if !reply.is_positive() {
                    mail_refused = Some(Trouble::Refused(Stage::Mail, reply));
                }
            }
            for _ in flight {
                let reply = match self.wire.reply(Stage::Rcpt, self.timeouts.rcpt).await {
                    Ok(reply) => reply,
                    // Hung up after it refused MAIL: its words count for more than its manners.
                    Err(trouble) => return Err(mail_refused.unwrap_or(trouble)),
                };
                if reply.code == 421 {
                    return Err(Trouble::Refused(Stage::Rcpt, reply));
                }
                answers.push(answer(reply));
            }
            if mail_refused.is_some() || last {
                let go = match last {
                    true => self.wire.reply(Stage::Data, self.timeouts.data).await,
                    false => Err(Trouble::Closed(Stage::Data)),
                };
                if let Some(refused) = mail_refused {
                    if matches!(&go, Ok(reply) if reply.code == 354) {
                        self.exchange(b".\r\n", Stage::End).await.ok();
                    }
                    return Err(refused);
                }
                let hung_up = answers.iter().all(Result::is_err);
                return match go {
                    Ok(reply) => Ok((answers, Some(reply))),
                    Err(_) if hung_up => Ok((answers, None)),
                    Err(trouble) => Err(trouble),
                };
            }
        }
        Ok((answers, None))
    }

    async fn envelope_step_by_step(
        &mut self,
        mail: &str,
        rcpts: &[String],
    ) -> Result<(Answers, Option<Reply>), Trouble> {
        let reply = self.exchange(mail.as_bytes(), Stage::Mail).await?;
        if !reply.is_positive() {
            return Err(Trouble::Refused(Stage::Mail, reply));
        }
        let mut answers = Vec::with_capacity(rcpts.len());
        for rcpt in rcpts {
            let reply = self.exchange(rcpt.as_bytes(), Stage::Rcpt).await?;
            if reply.code == 421 {
                return Err(Trouble::Refused(Stage::Rcpt, reply));
            }
            answers.push(answer(reply));
        }
        if answers.iter().all(Result::is_err) {
            return Ok((answers, None));
        }
        let reply = self.exchange(b"DATA\r\n", Stage::Data).await?;
        Ok((answers, Some(reply)))
    }

    async fn exchange(&mut self, command: &[u8], stage: Stage) -> Result<Reply, Trouble> {
        let limit = match stage {
            Stage::Rcpt => self.timeouts.rcpt,
            Stage::Data => self.timeouts.data,
            Stage::Content | Stage::End => self.timeouts.end,
            Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Auth | Stage::Mail => self.timeouts.mail,
        };
        match self.wire.send(command, stage, limit).await {
            Ok(()) => self.wire.reply(stage, limit).await,
            Err(trouble) => Err(self.parting(stage, trouble).await),
        }
    }

    /// The content and the reply after the final dot.
    async fn content(&mut self, letter: &Letter<'_>) -> Result<Reply, Trouble> {
        let mut encoder = Encoder::new(letter.head, letter.rest);
        let mut wire = Vec::new();
        while let Some(block) = encoder.next_block(&mut wire) {
            if let Err(trouble) = self.wire.send(block, Stage::Content, self.timeouts.block).await {
                return Err(self.parting(Stage::Content, trouble).await);
            }
        }
        let reply = self.wire.reply(Stage::End, self.timeouts.end).await?;
        if (200..300).contains(&reply.code) { Ok(reply) } else { Err(Trouble::Refused(Stage::End, reply)) }
    }

    /// What the peer said before it hung up, where it said why; else the trouble itself.
    async fn parting(&mut self, stage: Stage, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Closed(_) => match self.wire.last_words(stage).await {
                Some(reply) if !reply.is_positive() => Trouble::Refused(stage, reply),
                _ => trouble,
            },
            _ => trouble,
        }
    }

    /// Ends a transaction that got nowhere, so that the session can be used again.
    async fn reset(&mut self) {
        if self.exchange(b"RSET\r\n", Stage::Mail).await.is_err() {
            self.used = u32::MAX;
        }
    }
}

fn answer(reply: Reply) -> Result<Reply, Trouble> {
    if (200..300).contains(&reply.code) { Ok(reply) } else { Err(Trouble::Refused(Stage::Rcpt, reply)) }
}

/// Whether a parameter's value can stand in a command line: the reader checked it, the writer does too.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_graphic())
}

/// An address as the next hop can read it.
fn path(mailbox: &Mailbox, utf8: bool) -> String {
    match mailbox.host() {
        Host::Domain(domain) if !utf8 && !domain.as_str().is_ascii() => {
            format!("{}@{}", mailbox.local(), domain.ascii())
        }
        _ => mailbox.to_string(),
    }
}
