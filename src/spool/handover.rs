//! The spool's part in a hand-over between pods (design section 6): messages leave one spool as a whole and enter
//! another as they stood, under the same id. What a sender and a receiver say to each other is not known here.
//!
//! The receiver keeps a note beside the messages it took, in the same commit: whoever asks later whether they were
//! taken gets the right answer even if all of them were delivered and forgotten meanwhile. Nothing may be in two
//! spools at once for longer than the sender needs to hear that the other one has it.

use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::task;

use super::commit::{Batch, Fates, Reply};
use super::content::Body;
use super::entry::{Entry, Fate, Submission};
use super::hold::{Claim, ClaimError};
use super::id::QueueId;
use super::items::State;
use super::shared::Shared;
use super::{CommitError, Content, Spool, prepare, segment};

/// What two pods must have in common to exchange messages: the encoding of [`Entry`] and [`Fate`].
pub const FORMAT: u32 = segment::VERSION;

/// A message with how each of its recipients stands.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub id: QueueId,
    pub entry: Entry,
    /// As many as the entry has targets.
    pub fates: Vec<Fate>,
    pub content: Content,
}

/// A commit of new mail that has begun.
pub(super) struct Entering<'a>(&'a Shared);

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.entering.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Before new mail enters. An error: the spool is sealed.
    pub(super) fn enter(&self) -> Result<Entering<'_>, CommitError> {
        self.entering.fetch_add(1, Ordering::SeqCst);
        let entering = Entering(self);
        if self.sealed.load(Ordering::SeqCst) {
            return Err(CommitError::Io(Arc::new(io::Error::other(
                "the spool was handed over to another pod",
            ))));
        }
        Ok(entering)
    }
}

impl Spool {
    /// Messages with a recipient that waits or is held, behind this one, oldest first, at most `limit`. Looks at
    /// every message, a thousand at a time and the lock free in between.
    pub async fn open_page(&self, after: Option<QueueId>, limit: usize) -> Vec<QueueId> {
        let shared = Arc::clone(&self.inner.shared);
        let page = move || {
            let (mut oldest, mut step) = (BinaryHeap::new(), 0);
            while limit > 0 && shared.index().gather(step, after, limit, State::is_open, &mut oldest) {
                step += 1;
            }
            oldest.into_sorted_vec()
        };
        task::spawn_blocking(page).await.unwrap_or_default()
    }

    /// Takes a whole message into hand, all recipients without a final outcome; none of them may be in other hands.
    pub async fn lift(&self, id: QueueId) -> Result<Claim, ClaimError> {
        let targets = self.inner.shared.index().lift(id)?;
        self.hold_on(id, targets).await
    }

    /// Takes in what another spool had, and a note about it; takes away the note that this one replaces. One commit,
    /// durable when it returns Ok. Messages that are here already stay as they are.
    pub async fn adopt(
        &self,
        parcels: Vec<Parcel>,
        note: Submission,
        instead: Option<QueueId>,
    ) -> Result<(), CommitError> {
        let shared = &self.inner.shared;
        let _entering = shared.enter()?;
        let fresh: Vec<Parcel> = {
            let index = shared.index();
            parcels.into_iter().filter(|parcel| index.place(parcel.id).is_none()).collect()
        };
        let bytes = fresh.iter().map(|parcel| parcel.content.memory() + 1024).sum::<u64>();
        if !shared.take_room(bytes) {
            return Err(CommitError::Full);
        }
        let bodies: Vec<Arc<Body>> =
            fresh.iter().filter_map(|parcel| parcel.content.body().cloned()).collect();
        self.sync_bodies(&bodies).await?;
        let now = Timestamp::now();
        let mut messages = Vec::with_capacity(fresh.len() + 1);
        for Parcel { id, entry, fates, content } in fresh {
            if fates.len() != entry.targets.len() || fates.contains(&Fate::Noted) {
                let error =
                    io::Error::new(io::ErrorKind::InvalidData, "a message and its recipients do not fit");
                return Err(CommitError::Io(Arc::new(error)));
            }
            if fates.iter().any(|fate| !fate.is_final()) {
                messages.push(prepare(Submission { id, entry, content }, Some(fates), now).0);
            }
        }
        let noted = vec![Fate::Noted; note.entry.targets.len()];
        messages.push(prepare(note, Some(noted), now).0);
        let fates = instead.map(|id| Fates::new(id, vec![(0, Fate::Released)]));
        let (reply, answer) = Reply::new();
        shared.queue.push(Batch { messages, fates, bodies, durable: true, reply });
        answer
            .await
            .unwrap_or_else(|_| Err(CommitError::Io(Arc::new(io::Error::other("the spool is closed")))))
    }

    /// Notes about what was taken in, oldest first.
    pub fn notes(&self) -> Vec<QueueId> {
        self.inner.shared.index().notes()
    }

    /// Takes a note away.
    pub async fn forget_note(&self, id: QueueId) -> Result<(), CommitError> {
        self.settle(id, vec![(0, Fate::Released)], Vec::new()).await.map(drop)
    }

    /// Nobody delivers any more and what was being attempted is nobody's: it waits again. Mail in the hands of people
    /// stays there. Returns how many messages there were.
    pub fn end_attempts(&self) -> usize {
        let mut ended = 0;
        for step in 0.. {
            // In its own statement: the lock is let go after each step.
            let some = self.inner.shared.index().end_attempts(step);
            match some {
                Some(some) => ended += some,
                None => break,
            }
        }
        ended
    }

    /// From now on new mail is refused, or no longer.
    pub fn seal(&self, sealed: bool) {
        self.inner.shared.sealed.store(sealed, Ordering::SeqCst);
    }

    pub fn is_sealed(&self) -> bool {
        self.inner.shared.sealed.load(Ordering::SeqCst)
    }

    /// Whether nothing is here and nothing can come.
    pub fn is_sealed_and_empty(&self) -> bool {
        // In this order: whoever entered before the seal is either counted or has arrived.
        self.is_sealed() && self.inner.shared.entering.load(Ordering::SeqCst) == 0 && self.is_empty()
    }
}
