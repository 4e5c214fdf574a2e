//! The message as it leaves: the edits decided at its acceptance, applied to the stored bytes for one attempt.
//! Nothing of it is kept; the next attempt starts from the stored bytes again.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::info;

use super::outcome::{Problem, Trouble};
use super::routes::RouteTable;
use crate::mail::edit::{self, Edit, EditError, Edited, Signing};
use crate::spool::{Content, QueueId};

/// Permits are KiB.
const UNIT: u64 = 1024;
/// An edit of the body holds the message before and after at the same time, and once more in another encoding.
const COPIES: u64 = 3;
/// Messages up to this size are changed where they are; larger ones where nobody else waits for the thread.
const INLINE: usize = 64 << 10;

/// Memory for messages whose bodies are changed: one budget for all attempts.
pub struct Room {
    free: Semaphore,
    total: u32,
}

impl Room {
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        Self { free: Semaphore::new(total as usize), total }
    }

    /// Waits for room for a message of this size. One that is larger than all the room has it alone.
    async fn take(&self, size: u64) -> SemaphorePermit<'_> {
        let units = u32::try_from((COPIES * size).div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total);
        self.free.acquire_many(units).await.expect("the semaphore is never closed")
    }
}

/// A message ready for the wire, and the room it holds until it is gone.
pub struct Prepared<'a> {
    pub message: Edited<'a>,
    _room: Option<SemaphorePermit<'a>>,
}

impl Prepared<'_> {
    /// With the gateway's signatures, the last change of all (spec R106), where a key is for its author.
    /// `content` is what it was prepared from.
    pub async fn signed(mut self, table: &Arc<RouteTable>, content: &Content) -> Self {
        if !table.signers.any_for(self.message.head()) {
            return self;
        }
        let now = Timestamp::now();
        let rest = self.message.rest();
        let fields = if rest.len() <= INLINE {
            table.signers.sign(self.message.head(), rest, now)
        } else {
            let (table, head) = (Arc::clone(table), self.message.head().to_vec());
            let work = if self.message.is_as_stored() {
                let (content, at) = (content.clone(), content.bytes().len() - rest.len());
                tokio::task::spawn_blocking(move || table.signers.sign(&head, &content.bytes()[at..], now))
            } else {
                // The room it holds covers this copy too.
                let rest = rest.to_vec();
                tokio::task::spawn_blocking(move || table.signers.sign(&head, &rest, now))
            };
            work.await.unwrap_or_default()
        };
        self.message.add_fields(&fields);
        self
    }
}

/// Applies `edits`. An error is final: the same bytes and the same edits fail again.
pub async fn prepare<'a>(
    room: &'a Room,
    id: QueueId,
    content: &'a Content,
    edits: &Arc<[Edit]>,
    table: &Arc<RouteTable>,
) -> Result<Prepared<'a>, Problem> {
    let now = Timestamp::now();
    if !edit::touches_body(edits) {
        let message = edit::apply_all(content.bytes(), edits).map_err(problem)?;
        return Ok(Prepared { message, _room: None });
    }
    let room = room.take(content.len()).await;
    let message = if content.bytes().len() <= INLINE {
        edit::apply_signed(content.bytes(), edits, Signing { signers: &table.smime, now })
    } else {
        let (content, edits, table) = (content.clone(), Arc::clone(edits), Arc::clone(table));
        let work = move || {
            let signing = Signing { signers: &table.smime, now };
            edit::apply_signed(content.bytes(), &edits, signing).map(Edited::into_owned)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => return Err(Problem::new(Trouble::EditFailed)),
        }
    };
    let message = message.map_err(problem)?;
    for note in &message.notes {
        // Names of files are the correspondents' own: at debug only.
        info!(queue_id = %id, note = note.word(), "changed on its way out");
        tracing::debug!(queue_id = %id, %note, "changed on its way out");
    }
    Ok(Prepared { message, _room: Some(room) })
}

fn problem(error: EditError) -> Problem {
    Problem::new(Trouble::Unchangeable(error))
}
