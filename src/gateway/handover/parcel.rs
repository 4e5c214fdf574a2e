//! Messages on their way from one pod to another, as the body of a request:
//!
//! ```text
//! length  preface   then for each message   length  meta  content
//!    4       n                                 4      m      l
//! ```
//! Lengths are little endian. The preface is JSON, the meta data of a message are in the form of the spool. TLS
//! guards the bytes, so there are no checksums; what is cut short has too few messages and is not taken.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::BodyDataStream;
use futures::StreamExt;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::gateway::queue::PauseRow;
use crate::spool::{CommitError, Content, Entry, Fate, Parcel, QueueId, Queued, Spool};

/// Bytes of content that are copied at once.
const CHUNK: usize = 256 << 10;
/// A message whose envelope and edits take more cannot be handed over.
const LARGEST_META: usize = 64 << 20;
/// Who sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// What comes before the messages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Preface {
    /// What is paused there: its mail must not leave here either.
    pub paused: Vec<PauseRow>,
}

#[derive(Serialize)]
struct Meta<'a> {
    id: QueueId,
    entry: &'a Entry,
    fates: &'a [Fate],
    size: u64,
}

#[derive(Deserialize)]
struct MetaRead {
    id: QueueId,
    entry: Entry,
    fates: Vec<Fate>,
    size: u64,
}

/// Messages as a body; nothing is copied before it is sent.
pub struct Shipment {
    pieces: VecDeque<Piece>,
    left: u64,
}

enum Piece {
    Bytes(Bytes),
    Content(Content, usize),
}

impl Shipment {
    pub fn new(preface: &Preface) -> Self {
        let text = serde_json::to_vec(preface).expect("its keys are strings");
        let mut shipment = Self { pieces: VecDeque::new(), left: 0 };
        shipment.framed(text);
        shipment
    }

    /// Adds a message as it stands; `false`: it is too large, and the shipment is as before.
    pub fn add(&mut self, queued: &Queued, content: &Content) -> bool {
        let fates: Vec<Fate> = (0..queued.entry().targets.len()).map(|target| queued.state(target)).collect();
        let meta = Meta { id: queued.id(), entry: queued.entry(), fates: &fates, size: content.len() };
        let meta =
            postcard::to_stdvec(&meta).expect("memory takes all and the types have no unknown lengths");
        if meta.len() > LARGEST_META {
            return false;
        }
        self.framed(meta);
        self.left += content.len();
        self.pieces.push_back(Piece::Content(content.clone(), 0));
        true
    }

    fn framed(&mut self, bytes: Vec<u8>) {
        let length = u32::try_from(bytes.len()).expect("it was compared with a limit");
        self.left += 4 + bytes.len() as u64;
        self.pieces.push_back(Piece::Bytes(Bytes::copy_from_slice(&length.to_le_bytes())));
        self.pieces.push_back(Piece::Bytes(bytes.into()));
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.pieces.front_mut()? {
                Piece::Bytes(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.pieces.pop_front();
                    return Some(bytes);
                }
                Piece::Content(content, at) => {
                    let rest = &content.bytes()[*at..];
                    let some = &rest[..rest.len().min(CHUNK)];
                    if some.is_empty() {
                        self.pieces.pop_front();
                        continue;
                    }
                    *at += some.len();
                    return Some(Bytes::copy_from_slice(some));
                }
            }
        }
    }
}

impl Body for Shipment {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.next();
        self.left -= next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it ended too early")]
    Short,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("{0}")]
    Broken(String),
    #[error("it is not what was agreed on: {0}")]
    Form(String),
    #[error(transparent)]
    Store(#[from] CommitError),
}

/// Reads a shipment of so many messages; large contents go to the spool's disk as they come.
pub async fn read(
    body: axum::body::Body,
    spool: &Spool,
    count: usize,
) -> Result<(Preface, Vec<Parcel>), ReadError> {
    let mut reader = Reader { body: body.into_data_stream(), rest: Bytes::new() };
    let preface = reader.frame().await?;
    let preface = serde_json::from_slice(&preface).map_err(|error| ReadError::Form(error.to_string()))?;
    let mut parcels = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let meta = reader.frame().await?;
        let MetaRead { id, entry, fates, size } =
            postcard::from_bytes(&meta).map_err(|error| ReadError::Form(error.to_string()))?;
        if fates.len() != entry.targets.len() {
            return Err(ReadError::Form("recipients and their fates are not as many".to_owned()));
        }
        let mut writer = spool.writer();
        reader.copy(size, |piece| writer.write(piece)).await?;
        parcels.push(Parcel { id, entry, fates, content: writer.finish()? });
    }
    Ok((preface, parcels))
}

struct Reader {
    body: BodyDataStream,
    rest: Bytes,
}

impl Reader {
    /// Makes sure that `rest` is not empty.
    async fn fill(&mut self) -> Result<(), ReadError> {
        while self.rest.is_empty() {
            let next = timeout(SILENCE, self.body.next()).await.map_err(|_| ReadError::Silent)?;
            self.rest = match next {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(ReadError::Broken(error.to_string())),
                None => return Err(ReadError::Short),
            };
        }
        Ok(())
    }

    async fn copy(
        &mut self,
        length: u64,
        mut to: impl FnMut(&[u8]) -> Result<(), CommitError>,
    ) -> Result<(), ReadError> {
        let mut left = length;
        while left > 0 {
            self.fill().await?;
            let some = self.rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            to(&self.rest.split_to(some))?;
            left -= some as u64;
        }
        Ok(())
    }

    async fn frame(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut length = Vec::with_capacity(4);
        self.copy(4, |piece| {
            length.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        if length as usize > LARGEST_META {
            return Err(ReadError::Form(format!("a frame of {length} bytes")));
        }
        let mut frame = Vec::new();
        self.copy(length.into(), |piece| {
            frame.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(frame)
    }
}
