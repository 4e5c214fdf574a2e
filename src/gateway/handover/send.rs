//! The side that hands its mail over, batch by batch: written down, sent, taken there, given away here. In this
//! order, so that at every moment each recipient is somebody's: before the peer's commit ours, after our own the
//! peer's; in between nobody here touches it until the peer has said which it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;

use super::Metrics;
use super::doubts::{Doubt, Doubts};
use super::parcel::{Preface, Shipment};
use super::peers::{Greeting, Label, PeerError, Peers};
use crate::delivery::Pauses;
use crate::gateway::queue::pause_rows;
use crate::spool::{Claim, ClaimError, FORMAT, QueueId, Spool};

/// Messages of one batch.
const MOST: usize = 256;
/// Bytes of it that its receiver keeps in memory, and bytes in all; one message may be larger.
const IN_MEMORY: u64 = 4 << 20;
const IN_ALL: u64 = 64 << 20;
/// A message counts so much at most among those bytes in memory: a larger one goes to the disk as it comes.
const SMALL: u64 = 256 << 10;
/// Messages looked up at once.
const PAGE: usize = 20_000;
/// Messages read from the disk side by side.
const TOGETHER: usize = 32;
/// How often a peer is asked about a batch before others have their turn.
const TRIES: u32 = 4;
/// Nobody knows what became of a batch for so long: it is delivered here, and may be delivered twice.
const GIVE_UP: Duration = Duration::from_secs(4 * 3600);

pub struct Sender {
    spool: Spool,
    identity: String,
    pod: String,
    peers: Peers,
    pauses: Pauses,
    metrics: Metrics,
    doubts: Doubts,
    /// Batches of which nobody knows yet whether they were taken, and their messages, which nobody else may touch.
    open: Vec<(Doubt, Vec<Claim>)>,
    /// Batches that were taken, which our own disk did not let us write down.
    unwritten: Vec<Doubt>,
    /// The number of the last batch.
    last: u64,
    current: Option<(SocketAddr, Greeting)>,
    /// Peers that keep a note for us.
    used: Vec<SocketAddr>,
    /// Messages given away since the start.
    pub given: u64,
}

/// What a round came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub moved: usize,
    /// Messages that could not be taken into hand: somebody attempts or decides.
    pub busy: usize,
    /// Why it did not go on.
    pub problem: Option<String>,
}

enum End {
    Taken(usize),
    Not(String),
    /// Try again under a higher number.
    Over,
}

impl Sender {
    /// Takes what an earlier process left in doubt out of everybody's hands. To be called before anybody delivers.
    pub async fn open(
        spool: Spool,
        identity: String,
        pod: String,
        peers: Peers,
        pauses: Pauses,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let (doubts, left) = Doubts::open(spool.dir())?;
        let mut open = Vec::new();
        for doubt in left {
            let mut claims = Vec::new();
            for id in &doubt.ids {
                match spool.lift(*id).await {
                    Ok(claim) => claims.push(claim),
                    // Given away, as was written down last.
                    Err(ClaimError::NotWaiting(_)) => {}
                    Err(error) => {
                        return Err(format!("a message that may be elsewhere cannot be kept back: {error}"));
                    }
                }
            }
            if !claims.is_empty() {
                tracing::warn!(
                    pod = doubt.at,
                    messages = claims.len(),
                    "mail may be there already; it is asked"
                );
                open.push((doubt, claims));
            }
        }
        metrics.in_doubt(open.iter().map(|(_, claims)| claims.len()).sum());
        Ok(Self {
            spool,
            identity,
            pod,
            peers,
            pauses,
            metrics,
            doubts,
            open,
            unwritten: Vec::new(),
            last: 0,
            current: None,
            used: Vec::new(),
            given: 0,
        })
    }

    pub fn has_doubts(&self) -> bool {
        !self.open.is_empty()
    }

    /// Hands over what is free, until there is no more of it, something is in the way, or `enough` says so.
    pub async fn round(&mut self, enough: impl Fn() -> bool) -> Round {
        let mut round = Round::default();
        self.resolve().await;
        let mut after = None;
        loop {
            let page = self.spool.open_page(after, PAGE).await;
            let Some(last) = page.last().copied() else { return round };
            let mut ids: VecDeque<QueueId> = page.into();
            while !ids.is_empty() {
                if enough() {
                    return round;
                }
                let (at, greeting) = match self.choose().await {
                    Ok(chosen) => chosen,
                    Err(problem) => return Round { problem: Some(problem), ..round },
                };
                let claims = self.gather(&mut ids, &mut round).await;
                if claims.is_empty() {
                    continue;
                }
                match self.send(at, &greeting, claims).await {
                    End::Taken(count) => round.moved += count,
                    End::Over => {}
                    End::Not(problem) => {
                        self.current = None;
                        self.metrics.failed();
                        return Round { problem: Some(problem), ..round };
                    }
                }
            }
            after = Some(last);
        }
    }

    /// Says good-bye to those who keep a note for us. Only when nothing is in doubt.
    pub async fn take_leave(&mut self) {
        if !self.open.is_empty() || !self.unwritten.is_empty() {
            return;
        }
        if let Err(error) = self.doubts.write(&[]).await {
            tracing::warn!(%error, "what was handed over stays written down");
            return;
        }
        for at in std::mem::take(&mut self.used) {
            // Notes that stay are small, and let go after a month.
            let _ = self.peers.take_leave(at, &self.identity).await;
        }
    }

    /// A peer that takes mail: the one of last time, or the next that is asked.
    async fn choose(&mut self) -> Result<(SocketAddr, Greeting), String> {
        if let Some(current) = &self.current {
            return Ok(current.clone());
        }
        let mut found = self.peers.find().await;
        if found.is_empty() {
            return Err("no other pod is known".to_owned());
        }
        // Pods that leave at the same time begin with different peers.
        let hash = blake3::hash(self.pod.as_bytes());
        let turn = usize::from(hash.as_bytes()[0]) % found.len();
        found.rotate_left(turn);
        let mut problem = "no other pod is there".to_owned();
        for at in found {
            let greeting = match self.peers.greet(at).await {
                Ok(greeting) => greeting,
                Err(error) => {
                    problem = error.to_string();
                    continue;
                }
            };
            if greeting.identity == self.identity {
                continue;
            }
            if let Some(why) = &greeting.closed {
                problem = format!("{}: {why}", greeting.pod);
            } else if greeting.format != FORMAT {
                problem = format!("{} keeps mail in another form: it runs another version", greeting.pod);
            } else if self.open.iter().any(|(doubt, _)| doubt.peer == greeting.identity) {
                problem = format!("{} has not said what became of an earlier batch", greeting.pod);
            } else {
                self.current = Some((at, greeting.clone()));
                return Ok((at, greeting));
            }
        }
        Err(problem)
    }

    /// Takes messages into hand until there are enough for a batch.
    async fn gather(&self, ids: &mut VecDeque<QueueId>, round: &mut Round) -> Vec<Claim> {
        let mut claims: Vec<Claim> = Vec::new();
        let (mut memory, mut all) = (0, 0);
        while claims.len() < MOST && memory < IN_MEMORY && all < IN_ALL {
            let some = ids.len().min(TOGETHER).min(MOST - claims.len());
            if some == 0 {
                break;
            }
            let lifted = join_all(ids.drain(..some).map(|id| self.spool.lift(id))).await;
            for lifted in lifted {
                match lifted {
                    Ok(claim) => {
                        memory += claim.queued().size().min(SMALL);
                        all += claim.queued().size();
                        claims.push(claim);
                    }
                    Err(ClaimError::Busy(_)) => round.busy += 1,
                    Err(ClaimError::NotWaiting(_) | ClaimError::NotHeld(_)) => {}
                    Err(error @ ClaimError::Unreadable(_)) => {
                        tracing::error!(%error, "a message cannot be handed over");
                        round.busy += 1;
                    }
                }
            }
        }
        claims
    }

    async fn send(&mut self, at: SocketAddr, peer: &Greeting, claims: Vec<Claim>) -> End {
        let mut shipment = Shipment::new(&Preface { paused: pause_rows(&self.pauses.current()) });
        let mut sent = Vec::with_capacity(claims.len());
        for claim in claims {
            match claim.queued().content() {
                Ok(content) if shipment.add(claim.queued(), &content) => sent.push(claim),
                Ok(_) => {
                    tracing::error!(id = %claim.queued().id(), "a message is too large to be handed over");
                }
                Err(error) => tracing::error!(id = %claim.queued().id(), %error, "a message cannot be read"),
            }
        }
        if sent.is_empty() {
            return End::Not("what is left cannot be handed over: see the log".to_owned());
        }
        let ids: Vec<QueueId> = sent.iter().map(|claim| claim.queued().id()).collect();
        let now = Timestamp::now();
        self.last = u64::try_from(now.as_microsecond()).unwrap_or(0).max(self.last + 1);
        let label = Label {
            from: self.identity.clone(),
            pod: self.pod.clone(),
            batch: self.last,
            digest: super::digest(&ids),
            count: ids.len(),
            format: FORMAT,
        };
        let doubt = Doubt {
            peer: peer.identity.clone(),
            at: peer.pod.clone(),
            label: label.clone(),
            ids,
            since: now,
        };
        if let Err(error) = self.write_down(Some(&doubt)).await {
            return End::Not(format!("nothing is sent that could not be written down before: {error}"));
        }
        if !self.used.contains(&at) {
            self.used.push(at);
        }
        match self.peers.ship(at, &label, shipment).await {
            Ok(answer) if answer.taken => End::Taken(self.give_away(doubt, sent).await),
            Ok(answer) => match answer.last {
                Some(last) => {
                    self.last = self.last.max(last);
                    End::Over
                }
                None => End::Not(format!("{}: {}", peer.pod, answer.why.unwrap_or_default())),
            },
            Err(PeerError::Unreachable(error)) => End::Not(format!("{}: {error}", peer.pod)),
            Err(PeerError::Lost(error)) => {
                tracing::warn!(
                    pod = peer.pod,
                    error,
                    messages = sent.len(),
                    "no answer to a batch; it is asked"
                );
                for round in 0..TRIES {
                    tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(round)).await;
                    match self.peers.inquire(at, &label).await {
                        Ok(Greeting { identity, taken: Some(taken), .. }) if identity == peer.identity => {
                            return match taken {
                                true => End::Taken(self.give_away(doubt, sent).await),
                                false => End::Not(format!("{}: {error}", peer.pod)),
                            };
                        }
                        _ => {}
                    }
                }
                self.open.push((doubt, sent));
                self.count_doubts();
                End::Not(format!("{}: {error}; what it may have taken waits for its word", peer.pod))
            }
        }
    }

    /// The peer has it.
    async fn give_away(&mut self, doubt: Doubt, claims: Vec<Claim>) -> usize {
        let count = claims.len();
        let given = join_all(claims.into_iter().map(Claim::give_away)).await;
        if let Some(error) = given.into_iter().find_map(Result::err) {
            // It holds in this process; the next one has to ask again.
            tracing::error!(%error, "what was handed over could not be written down yet");
            self.unwritten.push(doubt);
        }
        self.given += count as u64;
        self.metrics.count("out", count);
        count
    }

    /// Keeps what is not decided, and `more`, over a crash.
    async fn write_down(&self, more: Option<&Doubt>) -> std::io::Result<()> {
        let open = self.open.iter().map(|(doubt, _)| doubt).chain(&self.unwritten).chain(more);
        let all: Vec<Doubt> = open.cloned().collect();
        self.doubts.write(&all).await
    }

    fn count_doubts(&self) {
        self.metrics.in_doubt(self.open.iter().map(|(_, claims)| claims.len()).sum());
    }

    /// Asks those who may have taken something.
    pub async fn resolve(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let (found, peers) = (self.peers.find().await, &self.peers);
        let greetings = join_all(found.into_iter().map(async |at| (at, peers.greet(at).await))).await;
        for (doubt, claims) in std::mem::take(&mut self.open) {
            let at = greetings.iter().find_map(|(at, greeting)| {
                greeting.as_ref().ok().filter(|greeting| greeting.identity == doubt.peer).map(|_| *at)
            });
            let taken = match at {
                Some(at) => {
                    self.peers.inquire(at, &doubt.label).await.ok().and_then(|greeting| greeting.taken)
                }
                None => None,
            };
            let over = doubt.since.checked_add(GIVE_UP).is_ok_and(|end| end < Timestamp::now());
            match taken {
                Some(true) => {
                    tracing::info!(pod = doubt.at, messages = claims.len(), "it had taken the mail");
                    self.give_away(doubt, claims).await;
                }
                Some(false) => {
                    tracing::info!(pod = doubt.at, messages = claims.len(), "it had not taken the mail");
                }
                None if over => {
                    tracing::warn!(
                        pod = doubt.at,
                        messages = claims.len(),
                        "it did not say whether it has this mail, which is delivered here now and may be delivered twice"
                    );
                    self.metrics.gave_up(claims.len());
                }
                None => self.open.push((doubt, claims)),
            }
        }
        self.count_doubts();
        if let Err(error) = self.write_down(None).await {
            tracing::warn!(%error, "what was handed over cannot be written down; a restart asks again");
        }
    }
}
