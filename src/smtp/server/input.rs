//! What a client sent and nobody has looked at yet. Ten thousand sessions may be idle at once, so a
//! session that waits owns no large buffer: reads go through one scratch buffer per thread, and only
//! what arrived is kept.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TCP connection, TLS on one, or a pipe in a test.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Octets of one read.
const SCRATCH: usize = 64 << 10;

/// What arrives in one read and fills this much of the block stays in it; less is copied out of it.
const MOST_OF_IT: usize = SCRATCH / 2;

/// A session that waits for input keeps a buffer up to this size.
const KEPT: usize = 4 << 10;

thread_local! {
    /// Empty, or a block of that size.
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
pub struct Input {
    octets: Vec<u8>,
    /// What of `octets` arrived and is not used up; the rest of a block is of no meaning.
    unread: Range<usize>,
}

impl Input {
    pub fn unread(&self) -> &[u8] {
        &self.octets[self.unread.clone()]
    }

    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.unread.len());
        self.unread.start += count;
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        self.unread = 0..0;
    }

    /// Waits for more octets and appends them; 0 means that the client has closed its side.
    pub async fn fill(&mut self, stream: &mut dyn Stream) -> io::Result<usize> {
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
            self.give_back(scratch);
            if scratch.len() < SCRATCH {
                *scratch = vec![0; SCRATCH];
            }
            let mut arrived = ReadBuf::new(scratch);
            std::task::ready!(Pin::new(stream).poll_read(context, &mut arrived))?;
            let count = arrived.filled().len();
            if self.is_empty() && count >= MOST_OF_IT {
                self.octets = std::mem::take(scratch);
                self.unread = 0..count;
            } else {
                self.octets.truncate(self.unread.end);
                self.octets.drain(..self.unread.start);
                self.octets.extend_from_slice(&scratch[..count]);
                self.unread = 0..self.octets.len();
            }
            Poll::Ready(Ok(count))
        })
    }

    /// Before it waits: its block takes the next octets that arrive, here or in another session.
    fn give_back(&mut self, scratch: &mut Vec<u8>) {
        if self.octets.len() == SCRATCH {
            let rest = self.unread().to_vec();
            self.unread = 0..rest.len();
            *scratch = std::mem::replace(&mut self.octets, rest);
        } else if self.is_empty() && self.octets.capacity() > KEPT {
            self.octets = Vec::new();
            self.unread = 0..0;
        }
    }
}
