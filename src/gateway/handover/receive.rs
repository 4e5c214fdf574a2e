//! The side that takes mail over. Only pods of the same gateway come here.
//!
//! A batch and the note that it was taken are one commit of the spool. So whoever lost the answer, or died before he
//! could write it down, asks again and is told the truth, also when all of it was delivered long ago or when this
//! process is another one by now. What was once said not to be taken is never taken later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Metrics;
use super::parcel::{self, Preface};
use super::peers::{Answer, Greeting, Label};
use crate::gateway::budget::Budget;
use crate::gateway::live::Live;
use crate::gateway::queue::Queue;
use crate::mail::envelope::{Recipient, Sender, Via};
use crate::spool::{CommitError, Entry, FORMAT, Parcel, QueueId, Spool, Submission, Target};

/// What a batch may hold in memory while it comes in: its messages that are not large.
const IN_MEMORY: u64 = 8 << 20;
/// A note that nobody asked for in this time is let go: its sender is gone for good.
const LONGEST_NOTE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What was last taken from one spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    from: String,
    pod: String,
    batch: u64,
    digest: String,
    at: Timestamp,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

pub struct Parts {
    pub spool: Spool,
    pub identity: String,
    pub pod: String,
    pub live: Arc<Live>,
    pub queue: Queue,
    pub budget: Budget,
    /// This process is about to end.
    pub ending: Arc<AtomicBool>,
    pub metrics: Metrics,
}

struct Inner {
    parts: Parts,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// The note about the last batch of each spool, and the message that keeps it.
    notes: HashMap<String, (QueueId, Note)>,
    /// Batches of a spool up to this number that were asked about: what is not taken by then never is.
    fences: HashMap<String, u64>,
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is here already.
    Taken,
    /// Its time is over; the number up to which all is over.
    Over(u64),
    /// It is new, and its note replaces this one.
    Take(Option<QueueId>),
}

impl Books {
    fn step(&self, label: &Label) -> Step {
        let note = self.notes.get(&label.from);
        if note.is_some_and(|(_, note)| (note.batch, &note.digest) == (label.batch, &label.digest)) {
            return Step::Taken;
        }
        let last = note.map_or(0, |(_, note)| note.batch);
        let over = last.max(self.fences.get(&label.from).copied().unwrap_or(0));
        if label.batch <= over { Step::Over(over) } else { Step::Take(note.map(|(id, _)| *id)) }
    }

    /// Answers for good: what is not taken now is not taken later.
    fn inquire(&mut self, label: &Label) -> bool {
        let taken = self.step(label) == Step::Taken;
        let fence = self.fences.entry(label.from.clone()).or_default();
        *fence = label.batch.max(*fence);
        taken
    }
}

/// What a peer may say in a query.
#[derive(Debug, Deserialize)]
struct Asked {
    from: Option<String>,
    pod: Option<String>,
    batch: Option<u64>,
    digest: Option<String>,
    count: Option<usize>,
    format: Option<u32>,
}

impl Asked {
    fn label(self) -> Option<Label> {
        Some(Label {
            from: self.from?,
            pod: self.pod?,
            batch: self.batch?,
            digest: self.digest?,
            count: self.count?,
            format: self.format?,
        })
    }
}

impl Receiver {
    /// Reads the notes of earlier processes.
    pub async fn open(parts: Parts) -> Self {
        let mut books = Books::default();
        for id in parts.spool.notes() {
            let note = match parts.spool.get(id).await {
                Ok(Some(queued)) => queued
                    .content()
                    .ok()
                    .and_then(|content| serde_json::from_slice::<Note>(content.bytes()).ok()),
                Ok(None) => None,
                Err(error) => {
                    tracing::error!(%id, %error, "a note about a hand-over cannot be read");
                    None
                }
            };
            if let Some(note) = note {
                books.notes.insert(note.from.clone(), (id, note));
            }
        }
        Self(Arc::new(Inner { parts, books: Mutex::new(books) }))
    }

    pub fn pages(&self) -> Router {
        Router::new().route("/handover", get(greet).post(take).delete(take_leave)).with_state(self.clone())
    }

    /// Why nothing is taken now.
    fn closed(&self) -> Option<&'static str> {
        let Parts { ending, live, spool, .. } = &self.0.parts;
        if ending.load(Ordering::Relaxed) {
            Some("this pod is about to end")
        } else if live.is_leaving() || spool.is_sealed() {
            Some("this pod is to leave itself")
        } else if live.current().is_none() {
            Some("this pod has no policy yet")
        } else if !spool.disk_works() {
            Some("the disk of this pod fails")
        } else {
            None
        }
    }

    async fn take(&self, label: Label, body: Body) -> (StatusCode, Answer) {
        let no = |status, why: String| (status, Answer { taken: false, why: Some(why), last: None });
        if label.format != FORMAT {
            return no(StatusCode::CONFLICT, format!("this pod keeps mail in form {FORMAT}"));
        }
        if let Some(why) = self.closed() {
            return no(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
        }
        let Some(_share) = self.0.parts.budget.take(IN_MEMORY).await else {
            return no(StatusCode::SERVICE_UNAVAILABLE, "this pod has no memory to spare".to_owned());
        };
        let (preface, parcels) = match parcel::read(body, &self.0.parts.spool, label.count).await {
            Ok(read) => read,
            Err(error) => return no(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let ids: Vec<QueueId> = parcels.iter().map(|parcel| parcel.id).collect();
        if super::digest(&ids) != label.digest {
            return no(StatusCode::BAD_REQUEST, "other messages than announced".to_owned());
        }
        let this = self.clone();
        // On its own: whoever asked may go away in the middle, and the books must say what the spool says.
        let stored = tokio::spawn(async move { this.store(label, preface, parcels).await });
        stored
            .await
            .unwrap_or_else(|_| no(StatusCode::INTERNAL_SERVER_ERROR, "the work ended badly".to_owned()))
    }

    async fn store(&self, label: Label, preface: Preface, parcels: Vec<Parcel>) -> (StatusCode, Answer) {
        let Parts { spool, queue, metrics, .. } = &self.0.parts;
        let mut books = self.0.books.lock().await;
        let no = |status, why: String| (status, Answer { taken: false, why: Some(why), last: None });
        let yes = (StatusCode::OK, Answer { taken: true, why: None, last: None });
        let instead = match books.step(&label) {
            Step::Taken => return yes,
            Step::Over(last) => {
                let why = Some("its time is over".to_owned());
                return (StatusCode::CONFLICT, Answer { taken: false, why, last: Some(last) });
            }
            Step::Take(instead) => instead,
        };
        // First: what is paused there must not leave from here.
        if let Err(error) = queue.adopt_pauses(preface.paused, &label.pod).await {
            return no(StatusCode::INSUFFICIENT_STORAGE, error.to_string());
        }
        let Label { from, pod, batch, digest, .. } = label;
        let note = Note { from: from.clone(), pod, batch, digest, at: Timestamp::now() };
        let count = parcels.len();
        let (id, submission) = submission(spool, &note);
        match spool.adopt(parcels, submission, instead).await {
            Ok(()) => {
                tracing::info!(
                    pod = note.pod,
                    batch,
                    messages = count,
                    "mail taken over from a pod that leaves"
                );
                metrics.count("in", count);
                books.notes.insert(from, (id, note));
                yes
            }
            Err(CommitError::Full) => {
                no(StatusCode::INSUFFICIENT_STORAGE, "the spool of this pod is full".to_owned())
            }
            Err(CommitError::Io(error)) => no(StatusCode::INSUFFICIENT_STORAGE, error.to_string()),
        }
    }

    /// Lets go of the note about a spool that has nothing more to ask, and of those that nobody asks about.
    async fn forget(&self, from: &str) {
        let mut books = self.0.books.lock().await;
        let now = Timestamp::now();
        let old = |note: &Note| note.at.checked_add(LONGEST_NOTE).is_ok_and(|end| end < now);
        let gone = books.notes.iter().filter(|(of, (_, note))| *of == from || old(note));
        let gone: Vec<(String, QueueId)> = gone.map(|(of, (id, _))| (of.clone(), *id)).collect();
        for (of, id) in gone {
            if let Some((_, note)) = books.notes.get(&of) {
                let last = note.batch;
                let fence = books.fences.entry(of.clone()).or_default();
                *fence = last.max(*fence);
            }
            if let Err(error) = self.0.parts.spool.forget_note(id).await {
                tracing::warn!(%error, "a note about a hand-over stays");
            }
            books.notes.remove(&of);
        }
    }
}

/// A note as the spool keeps it: a message to nobody.
fn submission(spool: &Spool, note: &Note) -> (QueueId, Submission) {
    let nobody = "note@handover.invalid".parse().expect("it is an address");
    let target = Target {
        recipient: Recipient::new(nobody),
        via: Via::Normal,
        require_tls: false,
        edits: Arc::new([]),
        suppress_bounces: true,
    };
    let entry = Entry {
        sender: Sender::default(),
        received_at: note.at,
        origin: String::new(),
        revision: String::new(),
        own: true,
        held: None,
        targets: vec![target],
    };
    let id = spool.new_id();
    let content = serde_json::to_vec(note).expect("its keys are strings").into();
    (id, Submission { id, entry, content })
}

async fn greet(State(receiver): State<Receiver>, Query(asked): Query<Asked>) -> Json<Greeting> {
    let taken = match asked.label() {
        Some(label) => Some(receiver.0.books.lock().await.inquire(&label)),
        None => None,
    };
    let Parts { identity, pod, .. } = &receiver.0.parts;
    Json(Greeting {
        identity: identity.clone(),
        pod: pod.clone(),
        format: FORMAT,
        closed: receiver.closed().map(str::to_owned),
        taken,
    })
}

async fn take(
    State(receiver): State<Receiver>,
    Query(asked): Query<Asked>,
    body: Body,
) -> (StatusCode, Json<Answer>) {
    let (status, answer) = match asked.label() {
        Some(label) => receiver.take(label, body).await,
        None => {
            let why = Some("the batch has no name".to_owned());
            (StatusCode::BAD_REQUEST, Answer { taken: false, why, last: None })
        }
    };
    (status, Json(answer))
}

async fn take_leave(State(receiver): State<Receiver>, Query(asked): Query<Asked>) -> Json<Answer> {
    receiver.forget(asked.from.as_deref().unwrap_or_default()).await;
    Json(Answer { taken: true, why: None, last: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(batch: u64, digest: &str) -> Label {
        Label { from: "s".into(), pod: "p-2".into(), batch, digest: digest.into(), count: 1, format: FORMAT }
    }

    #[test]
    fn a_batch_is_taken_once_and_never_after_it_was_said_not_to_be() {
        let mut books = Books::default();
        assert_eq!(books.step(&label(5, "a")), Step::Take(None));
        let id = "0000000000000000000001".parse().unwrap();
        let note =
            Note { from: "s".into(), pod: "p-2".into(), batch: 5, digest: "a".into(), at: Timestamp::now() };
        books.notes.insert("s".into(), (id, note));
        assert_eq!(books.step(&label(5, "a")), Step::Taken, "the answer was lost and it comes again");
        assert_eq!(books.step(&label(5, "b")), Step::Over(5), "a copy of the spool counts as we did");
        assert_eq!(books.step(&label(4, "a")), Step::Over(5), "an old request that was on its way for long");
        assert_eq!(books.step(&label(6, "b")), Step::Take(Some(id)));
        assert!(books.inquire(&label(5, "a")));
        assert!(!books.inquire(&label(7, "c")));
        assert_eq!(books.step(&label(7, "c")), Step::Over(7), "it was said not to be taken");
        assert_eq!(books.step(&label(8, "d")), Step::Take(Some(id)));
    }
}
