//! The message as it leaves: the edits decided at its acceptance, applied to the stored bytes for one attempt.
//! Nothing of it is kept; the next attempt starts from the stored bytes again.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::info;

use super::outcome::{Problem, Trouble};
use super::routes::RouteTable;
use crate::mail::edit::{self, Edit, EditError, Edited};
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

/// Applies `edits`, and signs the result with the keys of `signing`. An error is final: the same bytes and the
/// same edits fail again.
pub async fn prepare<'a>(
    room: &'a Room,
    id: QueueId,
    content: &'a Content,
    edits: &Arc<[Edit]>,
    signing: Option<&Arc<RouteTable>>,
) -> Result<Prepared<'a>, Problem> {
    if !edit::touches_body(edits) {
        let mut message = edit::apply_all(content.bytes(), edits).map_err(problem)?;
        if let Some(table) = signing.filter(|table| table.signers.any_for(message.head())) {
            let fields = signatures(table, message.head(), content, message.rest().len()).await?;
            message.add_fields(&fields);
        }
        return Ok(Prepared { message, _room: None });
    }
    let room = room.take(content.len()).await;
    let message = if content.bytes().len() <= INLINE {
        changed(content.bytes(), edits, signing)
    } else {
        let (content, edits, signing) = (content.clone(), Arc::clone(edits), signing.cloned());
        let work = move || changed(content.bytes(), &edits, signing.as_ref()).map(Edited::into_owned);
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

/// Everything at once, where the body is rewritten anyway.
fn changed<'a>(
    content: &'a [u8],
    edits: &[Edit],
    signing: Option<&Arc<RouteTable>>,
) -> Result<Edited<'a>, EditError> {
    let mut message = edit::apply_all(content, edits)?;
    if let Some(table) = signing {
        let fields = table.signers.sign(message.head(), message.rest(), Timestamp::now());
        if !fields.is_empty() {
            message.add_fields(&fields);
        }
    }
    Ok(message)
}

/// The signatures of a message whose body, the last `rest` octets of `content`, stays as it is. A large one is
/// hashed where it lies, on a thread nobody else waits for.
async fn signatures(
    table: &Arc<RouteTable>,
    head: &[u8],
    content: &Content,
    rest: usize,
) -> Result<Vec<u8>, Problem> {
    let start = content.bytes().len() - rest;
    let now = Timestamp::now();
    if rest <= INLINE {
        return Ok(table.signers.sign(head, &content.bytes()[start..], now));
    }
    let (table, head, content) = (Arc::clone(table), head.to_vec(), content.clone());
    let work = move || table.signers.sign(&head, &content.bytes()[start..], now);
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::new(Trouble::EditFailed))
}

fn problem(error: EditError) -> Problem {
    Problem::new(Trouble::Unchangeable(error))
}
