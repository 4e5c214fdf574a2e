//! The committer: the only one who writes to the log. One thread gathers what sessions hand in
//! while a sync runs, writes it in one go, syncs once, and tells them all. A session that is alone on a fast
//! disk takes the thread's place for one commit: two threads to wake cost more than the sync itself.
//!
//! What must not happen here: a reply before the sync that covers it; a wait for anything but the
//! log's own disk.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::CommitError;
use super::content::{Body, Content};
use super::due::{Arrival, Finished, Index, Place};
use super::entry::Fate;
use super::id::QueueId;
use super::record::{Head, News, Record};
use super::segment::{Log, Reserved};
use super::shared::{Shared, lock};
use super::sweep::Chore;

/// Fates ride with the next sync, which is no further away than this.
const MAX_UNSYNCED: Duration = Duration::from_millis(100);
/// After a failure the fates that could not be written are tried again this often.
const RETRY: Duration = Duration::from_millis(500);
/// After some work the committer sleeps so lightly that it takes fates along without being woken for them.
const LIGHT: Duration = Duration::from_millis(2);
/// A sync that takes no longer may be waited for by an event loop.
const SWIFT: Duration = Duration::from_micros(500);
/// Most bytes that an event loop writes itself.
const SMALL: u64 = 64 << 10;
/// Most bytes of one write, so that no sync grows without limit.
const MAX_GROUP: u64 = 8 << 20;

/// What stays together on disk, and who waits for it.
pub(super) struct Batch {
    /// New messages: their records and what the index is told once they are durable. The place in
    /// the arrival is filled in here.
    pub messages: Vec<(Record, Arrival)>,
    pub fates: Option<Fates>,
    /// Content files the messages need, their bytes synced, their names perhaps not.
    pub bodies: Vec<Arc<Body>>,
    /// Whether the reply must wait for a sync.
    pub durable: bool,
    pub reply: Reply,
}

/// Who waits for a batch.
pub(super) enum Reply {
    To(oneshot::Sender<Result<(), CommitError>>, Option<Handle>),
    /// Fates that nobody waits for.
    Nobody,
}

impl Reply {
    /// The second half is what the caller waits for.
    pub fn new() -> (Self, oneshot::Receiver<Result<(), CommitError>>) {
        let (reply, answer) = oneshot::channel();
        (Reply::To(reply, Handle::try_current().ok()), answer)
    }

    fn send(self, result: Result<(), CommitError>) {
        if let Reply::To(reply, _) = self {
            // Whoever does not wait any more has lost interest, not the mail.
            let _ = reply.send(result);
        }
    }
}

/// How recipients of one message stand from now on, and the record that says so.
pub(super) struct Fates {
    pub id: QueueId,
    pub fates: Vec<(usize, Fate)>,
    pub record: Record,
}

impl Batch {
    fn len(&self) -> u64 {
        let fates = self.fates.as_ref().map_or(0, |fates| fates.record.len());
        self.messages.iter().map(|(record, _)| record.len()).sum::<u64>() + fates
    }

    fn parts(&self) -> u16 {
        let parts = self.messages.len() + usize::from(self.fates.is_some());
        u16::try_from(parts).expect("a call commits at most a few messages for each recipient")
    }
}

/// A message that the sweeper carries over from a dying segment.
pub(super) struct Carry {
    pub id: QueueId,
    pub from: Place,
    /// The encoded entry.
    pub entry: Vec<u8>,
    pub content: Option<Content>,
}

pub(super) struct Carries {
    pub messages: Vec<Carry>,
    pub reply: oneshot::Sender<Result<(), CommitError>>,
}

/// Where sessions put their batches.
#[derive(Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    ready: Condvar,
}

#[derive(Default)]
struct Jobs {
    batches: Vec<Batch>,
    carries: Vec<Carries>,
    closing: bool,
    sleep: Sleep,
    /// Something outside of the log failed: to be looked at.
    nudged: bool,
    /// The committer has ended: nobody would answer.
    ended: bool,
}

impl Jobs {
    /// Whether there is more than what may wait.
    fn is_urgent(&self) -> bool {
        let waited_for = |batch: &Batch| !matches!(batch.reply, Reply::Nobody);
        self.batches.iter().any(waited_for) || !self.carries.is_empty() || self.closing || self.nudged
    }
}

/// What the committer takes out of it.
struct Work {
    batches: Vec<Batch>,
    carries: Vec<Carries>,
    closing: bool,
}

/// How the committer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sleep {
    /// Not at all: it looks again when it is done with what it does.
    #[default]
    Awake,
    /// For a moment; only what somebody waits for is worth waking it.
    Light,
    Deep,
}

impl Queue {
    /// Fates that nobody waits for and that are not even written yet.
    pub fn backlog(&self) -> usize {
        lock(&self.jobs).batches.len()
    }

    pub fn push(&self, batch: Batch) {
        let mut jobs = lock(&self.jobs);
        // The dropped reply tells the caller.
        if !jobs.ended {
            let wake = match jobs.sleep {
                Sleep::Awake => false,
                Sleep::Light => !matches!(batch.reply, Reply::Nobody),
                Sleep::Deep => true,
            };
            jobs.batches.push(batch);
            drop(jobs);
            if wake {
                self.ready.notify_one();
            }
        }
    }

    pub fn push_carries(&self, carries: Carries) {
        let mut jobs = lock(&self.jobs);
        if !jobs.ended {
            jobs.carries.push(carries);
            drop(jobs);
            self.ready.notify_one();
        }
    }

    /// Everything that waits to be written, and `batch` behind it, if the thread sleeps and nobody waits for it
    /// either; else `batch` back.
    fn take_alone(&self, batch: Box<Batch>) -> Result<Vec<Batch>, Box<Batch>> {
        let mut jobs = lock(&self.jobs);
        let busy = jobs.sleep == Sleep::Awake || jobs.is_urgent() || jobs.ended;
        if busy {
            return Err(batch);
        }
        let mut batches = std::mem::take(&mut jobs.batches);
        batches.push(*batch);
        Ok(batches)
    }

    /// Wakes the committer to see whether the disk works.
    pub fn nudge(&self) {
        lock(&self.jobs).nudged = true;
        self.ready.notify_one();
    }

    pub fn close(&self) {
        lock(&self.jobs).closing = true;
        self.ready.notify_one();
    }

    /// Waits for work, at most until `deadline`.
    fn take(&self, deadline: Option<Instant>) -> Work {
        let mut jobs = lock(&self.jobs);
        let light = Instant::now() + LIGHT;
        while !jobs.is_urgent() {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                break;
            }
            if now < light {
                jobs.sleep = Sleep::Light;
                jobs = self.wait(jobs, light - now);
            } else if jobs.batches.is_empty() {
                jobs.sleep = Sleep::Deep;
                jobs = match deadline {
                    Some(deadline) => self.wait(jobs, deadline - now),
                    None => self.ready.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                };
            } else {
                break;
            }
        }
        jobs.sleep = Sleep::Awake;
        jobs.nudged = false;
        Work {
            batches: std::mem::take(&mut jobs.batches),
            carries: std::mem::take(&mut jobs.carries),
            closing: jobs.closing,
        }
    }

    fn wait<'a>(&self, jobs: MutexGuard<'a, Jobs>, time: Duration) -> MutexGuard<'a, Jobs> {
        self.ready.wait_timeout(jobs, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says to all who wait or come later that nobody answers, whatever ended the thread.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut jobs = lock(&self.0.jobs);
        jobs.ended = true;
        jobs.batches.clear();
        jobs.carries.clear();
    }
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    log: Log,
    /// Answered for and written, but not durable yet.
    unsynced: Vec<Kept>,
    /// Answered for, and lying in no segment that counts: the next write begins with them.
    unwritten: Vec<Kept>,
    /// When the next sync or the next try is due.
    deadline: Option<Instant>,
    /// How long syncs take: the last few, the newest counting most.
    sync_time: Duration,
}

/// Fates without a report: they hold in memory from the first try on, and are kept until durable.
struct Kept {
    record: Record,
    /// What the disk may forget once they are.
    finished: Option<Finished>,
}

impl Kept {
    fn home(&self) -> Option<u64> {
        self.finished.as_ref().map(|finished| finished.place.segment)
    }
}

impl Committer {
    pub fn new(shared: Arc<Shared>, ends: Vec<(u64, u64)>) -> Committer {
        let log = Log::new(shared.clone(), ends);
        // Slow until it was seen to be fast.
        let sync_time = SWIFT * 8;
        Committer { shared, log, unsynced: Vec::new(), unwritten: Vec::new(), deadline: None, sync_time }
    }

    /// The thread's whole life. It has the committer while it works, not while it waits.
    pub fn run(committer: &Mutex<Committer>) {
        let shared = lock(committer).shared.clone();
        // Said to all, however this thread ends.
        let _ending = Ending(&shared.queue);
        let mut deadline = None;
        loop {
            let work = shared.queue.take(deadline);
            // Somebody panicked in our place: nothing is known to be as it should.
            let Ok(mut committer) = committer.lock() else { return };
            if !committer.turn(work) {
                return;
            }
            deadline = committer.deadline;
        }
    }

    /// Commits in the caller's thread, if that is the faster way: nobody else is about to commit, nothing is at
    /// work, and syncs are short. Else gives the batch back.
    pub fn commit_alone(
        committer: &Mutex<Committer>,
        shared: &Shared,
        batch: Box<Batch>,
    ) -> Result<(), Box<Batch>> {
        // Taken before the queue is looked at; the thread takes the two one after the other.
        let Ok(mut committer) = committer.try_lock() else { return Err(batch) };
        let small = batch.len() <= SMALL && batch.bodies.is_empty();
        let fits = committer.log.room() >= 2 * batch.len();
        if !small || !fits || !committer.is_swift() || shared.writers.load(Ordering::Relaxed) > 0 {
            return Err(batch);
        }
        let before = committer.deadline;
        let batches = shared.queue.take_alone(batch)?;
        committer.commit(batches.into());
        committer.prepare();
        if committer.deadline.is_some() && committer.deadline != before {
            // The thread sleeps until another time, or for ever.
            shared.queue.nudge();
        }
        Ok(())
    }

    /// One turn of the thread. False: it was the last.
    fn turn(&mut self, work: Work) -> bool {
        let idle = work.batches.is_empty() && work.carries.is_empty();
        self.commit(work.batches.into());
        for carries in work.carries {
            self.carry(carries);
        }
        if work.closing && idle {
            // A disk that fails now was reported with each failure before.
            let _ = self.flush();
            return false;
        }
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            // A disk that fails now was reported with each failure before.
            let _ = if self.is_failing() { self.probe() } else { self.flush() };
        }
        if self.is_failing() {
            self.deadline.get_or_insert_with(|| Instant::now() + RETRY);
        }
        self.prepare();
        true
    }

    /// Has the next segment made in time.
    fn prepare(&mut self) {
        if self.log.wants_next() {
            let _ = self.shared.chores.send(Chore::Prepare);
        }
    }

    /// The disk is fast, and works.
    fn is_swift(&self) -> bool {
        self.sync_time <= SWIFT && !self.is_failing() && self.unwritten.is_empty()
    }

    fn commit(&mut self, mut batches: VecDeque<Batch>) {
        while let Some(first) = batches.front() {
            let first = first.len();
            let room = self.make_room(first);
            let mut left = self.log.room().min(MAX_GROUP.max(first));
            let fits = |batch: &&Batch| {
                let fits = batch.len() <= left;
                left = left.saturating_sub(batch.len());
                fits
            };
            // Without room nothing fits anywhere: one answer for all.
            let count = if room.is_ok() { batches.iter().take_while(fits).count() } else { batches.len() };
            let group: Vec<Batch> = batches.drain(..count).collect();
            match room {
                Ok(()) => self.write_group(group),
                Err(error) => self.refuse(group, &error),
            }
        }
    }

    /// Opens the next segment when the open one cannot take `least` more bytes, and writes what an
    /// earlier failure left over.
    fn make_room(&mut self, least: u64) -> Result<(), CommitError> {
        let leftover: u64 = self.unwritten.iter().map(|kept| kept.record.len()).sum();
        if !self.log.is_open() || self.log.room() < least + leftover {
            // If this sync fails, what it should have covered becomes leftover: count again.
            if self.log.is_open() && self.sync().is_err() {
                return self.make_room(least);
            }
            self.log.seal();
            let _ = self.shared.chores.send(Chore::Sweep);
            self.log.open(least + leftover).map_err(|error| self.shared.failed(error))?;
        }
        if leftover > 0 {
            let mut kept = std::mem::take(&mut self.unwritten);
            let records = kept.iter_mut().map(|kept| {
                let home = kept.home();
                (&mut kept.record, (0, 1), home)
            });
            let written = self.write(records.collect());
            match written {
                Ok(_) => self.unsynced.append(&mut kept),
                Err(error) => {
                    self.unwritten = kept;
                    return Err(self.fail(error));
                }
            }
        }
        Ok(())
    }

    fn write_group(&mut self, mut group: Vec<Batch>) {
        let durable = group.iter().any(|batch| batch.durable);
        if group.iter().any(|batch| !batch.bodies.is_empty())
            && let Err(error) = self.shared.store.sync_names()
        {
            let error = self.shared.failed(error);
            return self.refuse(group, &error);
        }
        let mut records = Vec::with_capacity(group.len());
        for batch in &mut group {
            let parts = batch.parts();
            let fates = batch.fates.iter_mut().map(|fates| &mut fates.record);
            let messages = batch.messages.iter_mut().map(|(record, _)| record);
            records
                .extend(fates.chain(messages).zip(0..).map(|(record, part)| (record, (part, parts), None)));
        }
        let places = match self.write(records) {
            Ok(places) => places,
            Err(error) => {
                let error = self.fail(error);
                return self.refuse(group, &error);
            }
        };
        let mut places = places.into_iter();
        let mut waiting = Vec::with_capacity(group.len());
        for mut batch in group {
            places.by_ref().take(usize::from(batch.fates.is_some())).for_each(drop);
            for (_, arrival) in &mut batch.messages {
                arrival.place = places.next().expect("each record has a place");
            }
            match batch.durable {
                true => waiting.push(batch),
                false => self.settled(batch, Ok(())),
            }
        }
        if !durable {
            return;
        }
        match self.sync() {
            Ok(()) => self.arrived(waiting),
            Err(error) => self.refuse(waiting, &error),
        }
    }

    /// Writes records behind each other, one write for all of them. Each comes with its part of a
    /// batch and, if the index does not know it any more, the home of its message.
    fn write(&mut self, mut records: Vec<(&mut Record, (u16, u16), Option<u64>)>) -> io::Result<Vec<Place>> {
        let total = records.iter().map(|(record, ..)| record.len()).sum();
        let at = self.log.reserve(total);
        let mut places = Vec::with_capacity(records.len());
        let mut offset = at.offset;
        let mut index = self.shared.index();
        for (record, part, home) in &mut records {
            let home = home.or_else(|| record.about().and_then(|id| index.home(id)));
            let home = home.filter(|home| *home != at.segment);
            if let Some(home) = home {
                index.segments.entry(at.segment).or_default().needs.insert(home);
            }
            record.place((at.segment, offset), *part, home.unwrap_or(0), at.synced);
            places.push(Place { segment: at.segment, offset, len: record.len() });
            offset += record.len();
        }
        drop(index);
        self.write_pieces(records.iter().map(|(record, ..)| &**record), at)?;
        Ok(places)
    }

    fn write_pieces<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
        at: Reserved,
    ) -> io::Result<()> {
        let mut pieces: Vec<IoSlice<'_>> = records.flat_map(Record::pieces).collect();
        self.log.write(&mut pieces, at)
    }

    /// Makes durable what was written.
    fn sync(&mut self) -> Result<(), CommitError> {
        let wrote = self.log.has_news();
        let began = Instant::now();
        self.log.sync().map_err(|error| self.fail(error))?;
        self.sync_time = (self.sync_time * 7 + began.elapsed()) / 8;
        if wrote {
            self.shared.works();
        }
        self.deadline = (!self.unwritten.is_empty()).then(|| Instant::now() + RETRY);
        let mut index = self.shared.index();
        for finished in self.unsynced.drain(..).filter_map(|kept| kept.finished) {
            forget(&self.shared, &mut index, &finished);
        }
        Ok(())
    }

    /// Brings to disk what was answered for.
    fn flush(&mut self) -> Result<(), CommitError> {
        let room = if self.unwritten.is_empty() { Ok(()) } else { self.make_room(0) };
        let result = room.and_then(|()| self.sync());
        if result.is_err() {
            self.deadline = Some(Instant::now() + RETRY);
        }
        result
    }

    fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Writes and syncs the beginning of a new segment, to see whether the disk works again: nobody who is
    /// told that it does not brings mail to try it with.
    fn probe(&mut self) -> Result<(), CommitError> {
        if self.log.is_open() {
            self.sync()?;
            self.log.seal();
        }
        let result = self.make_room(0).and_then(|()| self.sync());
        if matches!(result, Err(CommitError::Full)) {
            // It answers, and what it says is another matter.
            self.shared.works();
        }
        self.deadline = (!self.unwritten.is_empty() || self.is_failing()).then(|| Instant::now() + RETRY);
        result
    }

    /// The disk failed: the open segment counts as far as it was durable and no further.
    fn fail(&mut self, error: io::Error) -> CommitError {
        self.log.seal();
        self.unsynced.append(&mut self.unwritten);
        std::mem::swap(&mut self.unsynced, &mut self.unwritten);
        self.deadline = (!self.unwritten.is_empty()).then(|| Instant::now() + RETRY);
        tracing::error!(%error, "the spool's disk failed; the next commit tries a new segment");
        self.shared.failed(error)
    }

    /// Durable: the messages exist from now on.
    fn arrived(&mut self, batches: Vec<Batch>) {
        let mut index = self.shared.index();
        let mut news = false;
        let mut replies = Vec::with_capacity(batches.len());
        for batch in batches {
            let Batch { messages, fates, bodies, reply, durable: _ } = batch;
            for (_, arrival) in messages {
                index.insert(arrival);
                news = true;
            }
            bodies.iter().for_each(|body| body.committed());
            if let Some(Fates { id, fates, record: _ }) = fates
                && let Some(finished) = index.settle(id, fates)
            {
                forget(&self.shared, &mut index, &finished);
            }
            replies.push(reply);
        }
        drop(index);
        answer(replies);
        self.shared.counters.commits.fetch_add(1, Ordering::Relaxed);
        if news {
            self.shared.wake.notify_one();
        }
    }

    /// Fates without reports hold from now on, whatever the disk said.
    fn settled(&mut self, batch: Batch, result: Result<(), CommitError>) {
        let Batch { fates, reply, .. } = batch;
        if let Some(Fates { id, fates, record }) = fates {
            let finished = self.shared.index().settle(id, fates);
            let comes_again = finished.is_none();
            let kept = Kept { record, finished };
            match &result {
                Ok(()) => self.unsynced.push(kept),
                Err(_) => self.unwritten.push(kept),
            }
            self.deadline.get_or_insert_with(|| Instant::now() + MAX_UNSYNCED);
            if comes_again {
                self.shared.wake.notify_one();
            }
        }
        reply.send(result);
    }

    /// Answers batches that did not get to disk.
    fn refuse(&mut self, batches: Vec<Batch>, error: &CommitError) {
        for batch in batches {
            match batch.durable {
                true => batch.reply.send(Err(error.clone())),
                false => self.settled(batch, Err(error.clone())),
            }
        }
    }

    /// Writes messages again at the end of the log, as they stand now. They come alone in their
    /// write, after every fate that was answered for, so that no later record is older news.
    fn carry(&mut self, carries: Carries) {
        let Carries { messages, reply } = carries;
        let result = self.rewrite_messages(messages);
        let _ = reply.send(result);
    }

    fn rewrite_messages(&mut self, messages: Vec<Carry>) -> Result<(), CommitError> {
        let mut moved = Vec::with_capacity(messages.len());
        let index = self.shared.index();
        for Carry { id, from, entry, content } in messages {
            if index.place(id) != Some(from) {
                continue;
            }
            let Some((received_at, body, fates)) = index.snapshot(id) else { continue };
            let targets = u32::try_from(fates.len()).expect("recipients are limited to thousands");
            let head = Head { id, received_at, targets, body, fates: Some(fates) };
            moved.push((id, Record::moved(&head, &entry, content)));
        }
        drop(index);
        if moved.is_empty() {
            return self.flush();
        }
        self.make_room(moved.iter().map(|(_, record)| record.len()).sum())?;
        let records = moved.iter_mut().map(|(_, record)| (record, (0, 1), None)).collect();
        let places = self.write(records).map_err(|error| self.fail(error))?;
        self.sync()?;
        let mut index = self.shared.index();
        for ((id, _), place) in moved.into_iter().zip(places) {
            index.moved(id, place);
        }
        Ok(())
    }
}

/// Tells all who wait that their batches are durable. Those of one event loop are told there: to wake the
/// loop once costs less than once for each of them.
fn answer(replies: Vec<Reply>) {
    let mut by_loop: Vec<(Handle, Vec<Reply>)> = Vec::new();
    for reply in replies {
        match &reply {
            Reply::To(_, Some(home)) => match by_loop.iter_mut().find(|(handle, _)| handle.id() == home.id())
            {
                Some((_, replies)) => replies.push(reply),
                None => by_loop.push((home.clone(), vec![reply])),
            },
            Reply::To(_, None) | Reply::Nobody => reply.send(Ok(())),
        }
    }
    for (home, replies) in by_loop {
        let alone = replies.len() == 1;
        let tell = move || replies.into_iter().for_each(|reply| reply.send(Ok(())));
        if alone { tell() } else { drop(home.spawn(async move { tell() })) }
    }
}

/// The end of a message is durable: what it took on disk may go.
fn forget(shared: &Shared, index: &mut Index, finished: &Finished) {
    if let Some(file) = index.forget(finished) {
        let _ = shared.chores.send(Chore::Remove(file));
    }
    let usage = index.segments.get(&finished.place.segment);
    if usage.is_some_and(|usage| usage.sealed && usage.live == 0) {
        let _ = shared.chores.send(Chore::Sweep);
    }
}

impl Fates {
    pub fn new(id: QueueId, fates: Vec<(usize, Fate)>) -> Fates {
        let target = |at: usize| u32::try_from(at).expect("recipients are limited to thousands");
        let news = fates.iter().map(|(at, fate)| (target(*at), fate.clone())).collect();
        let record = Record::news(&News { id, fates: news });
        Fates { id, fates, record }
    }
}
