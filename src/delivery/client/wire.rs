//! A connection to a next hop: lines out, replies in. Bytes only; what they mean is decided elsewhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::tls;
use crate::delivery::outcome::{Stage, Trouble};
use crate::smtp::reply::Reply;

/// Octets of one reply line; RFC 5321 allows 512, some hosts say more.
const MAX_LINE: usize = 4096;
/// Octets of a whole reply.
const MAX_REPLY: usize = 64 << 10;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream and what was read from it but not yet used. The read-ahead belongs to this stream alone:
/// switching to TLS makes a new `Wire`, so injected clear text is thrown away (RFC 3207 section 4.2).
pub struct Wire {
    stream: Stream,
    ahead: Vec<u8>,
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        match &self.stream {
            Stream::Plain(_) => Vec::new(),
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec(),
        }
    }

    /// The stream alone; whatever was read ahead is forgotten.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    pub async fn send(&mut self, bytes: &[u8], stage: Stage, limit: Duration) -> Result<(), Trouble> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(limit, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Trouble::Closed(stage)),
            Err(_) => Err(Trouble::TimedOut(stage)),
        }
    }

    pub async fn reply(&mut self, stage: Stage, limit: Duration) -> Result<Reply, Trouble> {
        match timeout(limit, self.read_reply(stage)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::TimedOut(stage)),
        }
    }

    /// A reply that is already here or comes at once, for a connection that broke while sending.
    pub async fn last_words(&mut self, stage: Stage) -> Option<Reply> {
        self.reply(stage, Duration::from_millis(500)).await.ok()
    }

    /// Whether the peer said something or hung up while nothing was asked of it.
    pub fn is_stale(&mut self) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer).is_ready()
    }

    async fn read_reply(&mut self, stage: Stage) -> Result<Reply, Trouble> {
        let garbled = |what: &[u8]| Trouble::Garbled(stage, printable(what));
        let mut code = None;
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut total = 0;
        loop {
            let line = self.line(stage).await?;
            total += line.len();
            let digits = line.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit));
            let digits = digits.ok_or_else(|| garbled(&line))?;
            let this = digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
            if !(200..600).contains(&this) || code.is_some_and(|code| code != this) || total > MAX_REPLY {
                return Err(garbled(&line));
            }
            code = Some(this);
            lines.push(line.get(4..).unwrap_or_default().to_vec());
            match line.get(3) {
                Some(b'-') => {}
                Some(b' ') | None => return Ok(assemble(this, &lines)),
                Some(_) => return Err(garbled(&line)),
            }
        }
    }

    /// One line without its end. A bare LF is taken as an end too: replies carry no content.
    async fn line(&mut self, stage: Stage) -> Result<Vec<u8>, Trouble> {
        loop {
            if let Some(end) = self.ahead.iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.ahead.len() > MAX_LINE {
                return Err(Trouble::Garbled(stage, "an endless line".to_owned()));
            }
            let mut block = [0; 4096];
            match self.stream.read(&mut block).await {
                Ok(0) => return Err(Trouble::Closed(stage)),
                // With TLS 1.3 the peer judges our certificate only when our side of the handshake is done.
                Err(error) => {
                    let refused = tls::refused_certificate(&error);
                    return Err(refused.map_or(Trouble::Closed(stage), Trouble::ClientCertificate));
                }
                Ok(read) => self.ahead.extend_from_slice(&block[..read]),
            }
        }
    }
}

/// Lines become text; an enhanced code before each of them is taken off and kept once (RFC 2034).
fn assemble(code: u16, lines: &[Vec<u8>]) -> Reply {
    let mut enhanced = None;
    let texts: Vec<String> = lines
        .iter()
        .map(|line| {
            let text = String::from_utf8_lossy(line).into_owned();
            match split_enhanced(&text).filter(|(status, _)| status[0] == code / 100) {
                Some((status, rest)) => {
                    enhanced.get_or_insert(status);
                    rest.to_owned()
                }
                None => text,
            }
        })
        .collect();
    Reply { code, enhanced, text: texts.join("\n") }
}

fn split_enhanced(text: &str) -> Option<([u16; 3], &str)> {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut numbers = first.split('.');
    let mut number = || {
        let digits = numbers.next().filter(|d| (1..=3).contains(&d.len()))?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok())?
    };
    let status = [number()?, number()?, number()?];
    numbers.next().is_none().then_some((status, rest))
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_taken_off_every_line_and_kept_once() {
        let reply = assemble(550, &[b"5.1.1 no such".to_vec(), b"5.1.1 user".to_vec()]);
        assert_eq!(reply, Reply { code: 550, enhanced: Some([5, 1, 1]), text: "no such\nuser".into() });
        // A code of another class is text.
        assert_eq!(assemble(250, &[b"5.1.1 x".to_vec()]).enhanced, None);
        assert_eq!(assemble(250, &[b"10.0.0.1 x".to_vec()]).text, "10.0.0.1 x");
        assert_eq!(assemble(550, &[b"caf\xe9".to_vec()]).text, "caf\u{fffd}");
    }
}
