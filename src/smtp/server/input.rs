//! What a client sent and nobody has looked at yet. Ten thousand sessions may be idle at once, so a
//! session that waits owns no large buffer: reads go through one scratch buffer per thread, and only
//! what arrived is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TCP connection, TLS on one, or a pipe in a test.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Octets of one read.
const SCRATCH: usize = 64 << 10;

/// A session that waits for input keeps a buffer up to this size.
const KEPT: usize = 4 << 10;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

#[derive(Debug, Default)]
pub struct Input {
    octets: Vec<u8>,
    /// How many of `octets` are used up.
    used: usize,
}

impl Input {
    pub fn unread(&self) -> &[u8] {
        &self.octets[self.used..]
    }

    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    pub fn consume(&mut self, count: usize) {
        self.used += count;
        debug_assert!(self.used <= self.octets.len());
        if self.used == self.octets.len() {
            self.clear();
        }
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.used = 0;
    }

    /// Waits for more octets and appends them; 0 means that the client has closed its side.
    pub async fn fill(&mut self, stream: &mut dyn Stream) -> io::Result<usize> {
        self.octets.drain(..self.used);
        self.used = 0;
        if self.octets.is_empty() && self.octets.capacity() > KEPT {
            self.octets = Vec::new();
        }
        std::future::poll_fn(|context| self.poll_fill(context, stream)).await
    }

    /// Takes over what has arrived already, without waiting.
    pub async fn fill_now(&mut self, stream: &mut dyn Stream) -> io::Result<usize> {
        std::future::poll_fn(|context| match self.poll_fill(context, stream) {
            Poll::Pending => Poll::Ready(Ok(0)),
            ready => ready,
        })
        .await
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, stream: &mut dyn Stream) -> Poll<io::Result<usize>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            std::task::ready!(Pin::new(stream).poll_read(context, &mut scratch))?;
            self.octets.extend_from_slice(scratch.filled());
            Poll::Ready(Ok(scratch.filled().len()))
        })
    }
}
