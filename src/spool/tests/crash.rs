//! Power cuts, kills and failing disks at random moments: what was promised is kept.

use std::collections::HashMap;
use std::time::Instant;

use futures::future::join_all;

use super::sim::{Dice, Sim};
use super::*;

/// One message as its sender and its deliverer know it.
struct Promise {
    entry: Entry,
    content: Vec<u8>,
    /// Its commit was answered with Ok.
    kept: bool,
    /// All that was ever asked for each recipient, the first state included.
    history: Vec<Vec<Fate>>,
    /// How much of the history was answered with Ok, and how much of that must survive a power cut.
    answered: Vec<usize>,
    durable: Vec<usize>,
    /// Messages of the same call: all or none.
    with: Vec<QueueId>,
    /// This is a report; that recipient's end came with it.
    reports: Option<(QueueId, usize, usize)>,
    /// Its commit was answered with an error, and nothing happened.
    refused: bool,
}

/// The promises; and how rare commits are among the deeds: where most is finished soon, the sweeper has
/// segments to rewrite.
struct Model(HashMap<QueueId, Promise>, u64);

impl Default for Model {
    fn default() -> Self {
        Model(HashMap::new(), 2)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Crash {
    Kill,
    PowerCut,
}

fn open(sim: &Sim) -> (Spool, Recovery) {
    Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options()).expect("it opens")
}

/// Something to do to a spool, as the gateway and the deliverer would.
enum Deed {
    Commit(Vec<Submission>),
    Settle(QueueId, Vec<(usize, Fate)>, Vec<Submission>),
    /// A reviewer's decision on held mail.
    Decide(QueueId, Vec<(usize, Fate)>, Vec<Submission>),
}

impl Model {
    fn promise(
        &mut self,
        submission: &Submission,
        with: Vec<QueueId>,
        reports: Option<(QueueId, usize, usize)>,
    ) {
        let targets = submission.entry.targets.len();
        let first = match &submission.entry.held {
            Some(held) => Fate::Held(Holding { until: held.until }),
            None => recover::first_fate(submission.entry.received_at, Timestamp::now()),
        };
        let promise = Promise {
            entry: submission.entry.clone(),
            content: submission.content.bytes().to_vec(),
            kept: false,
            history: vec![vec![first]; targets],
            answered: vec![0; targets],
            durable: vec![0; targets],
            with,
            reports,
            refused: false,
        };
        self.0.insert(submission.id, promise);
    }

    /// Chooses what to do next, and notes that it was asked for.
    fn choose(&mut self, spool: &Spool, dice: &mut Dice) -> Option<Deed> {
        let content = |dice: &mut Dice| {
            let len = if dice.one_in(50) { 262_144 + dice.below(100_000) } else { dice.below(6000) };
            bytes(dice.below(u64::MAX), len as usize)
        };
        if dice.one_in(self.1) {
            let mut batch = Vec::new();
            for _ in 0..=dice.below(3) {
                let mut writer = spool.writer();
                writer.write(&content(dice)).ok()?;
                let content = writer.finish().ok()?;
                let targets = 1 + dice.below(3) as usize;
                let entry = if dice.one_in(4) { held_entry(targets) } else { entry(targets) };
                batch.push(Submission { id: spool.new_id(), entry, content });
            }
            let ids: Vec<QueueId> = batch.iter().map(|submission| submission.id).collect();
            batch.iter().for_each(|submission| self.promise(submission, ids.clone(), None));
            return Some(Deed::Commit(batch));
        }
        let mut ids: Vec<QueueId> = self.0.iter().filter(|(_, p)| p.open()).map(|(id, _)| *id).collect();
        ids.sort();
        if ids.is_empty() {
            return None;
        }
        let id = ids[dice.below(ids.len() as u64) as usize];
        let promise = self.0.get_mut(&id).expect("it was just found");
        let target =
            promise.history.iter().position(|history| !history.last().expect("never empty").is_final())?;
        let count = promise.history[target].len();
        if let Some(held) = promise.entry.held.clone() {
            let until = held.until + Duration::from_secs(60 * count as u64);
            let fate = match dice.below(3) {
                0 => Fate::Held(Holding { until }),
                1 => Fate::Failed,
                _ => Fate::Released,
            };
            // The same bytes, as a release has it.
            let mut writer = spool.writer();
            writer.write(&promise.content).ok()?;
            let content = writer.finish().ok()?;
            promise.history[target].push(fate.clone());
            let mut released = Vec::new();
            if fate == Fate::Released {
                let release = Submission { id: spool.new_id(), entry: entry(1), content };
                self.promise(&release, vec![release.id], Some((id, target, count)));
                released.push(release);
            }
            return Some(Deed::Decide(id, vec![(target, fate)], released));
        }
        let fate = match dice.below(4) {
            0 => retry_at(count as u32, in_an_hour()),
            1 => Fate::Failed,
            _ => Fate::Delivered,
        };
        promise.history[target].push(fate.clone());
        let mut reports = Vec::new();
        if fate == Fate::Failed {
            let report = Submission { id: spool.new_id(), entry: entry(1), content: content(dice).into() };
            self.promise(&report, vec![report.id], Some((id, target, count)));
            reports.push(report);
        }
        Some(Deed::Settle(id, vec![(target, fate)], reports))
    }

    /// What was answered so far: a durable answer from now on covers it.
    fn answered(&self) -> HashMap<QueueId, Vec<usize>> {
        self.0.iter().map(|(id, promise)| (*id, promise.answered.clone())).collect()
    }

    fn cover(&mut self, answered: &HashMap<QueueId, Vec<usize>>) {
        for (id, counts) in answered {
            let promise = self.0.get_mut(id).expect("promises stay");
            for (durable, count) in promise.durable.iter_mut().zip(counts) {
                *durable = (*durable).max(*count);
            }
        }
    }

    /// Compares with what a crash left, and goes on from there.
    async fn check(&mut self, spool: &Spool, crash: Crash, seed: u64) {
        let states: HashMap<QueueId, Arc<[Fate]>> = {
            let index = spool.inner.shared.index();
            self.0.keys().filter_map(|id| Some((*id, index.fates(*id)?))).collect()
        };
        assert_eq!(states.len(), spool.len(), "seed {seed}: messages nobody sent");
        for (id, promise) in &self.0 {
            let state = states.get(id);
            if !promise.kept {
                let others = promise.with.iter().all(|other| states.contains_key(other) == state.is_some());
                assert!(others, "seed {seed}: half a commit");
            }
            if let Some((original, target, count)) = promise.reports
                && state.is_some()
                && let Some(fates) = states.get(&original)
            {
                let reported = &self.0[&original].history[target][count];
                assert_eq!(&fates[target], reported, "seed {seed}: a report without the end it reports");
            }
            assert!(!promise.refused || state.is_none(), "seed {seed}: {id} was refused and is there");
            if let Some((original, target, count)) = promise.reports
                && state.is_none()
                && !promise.refused
                && promise.history.iter().all(|history| !history.last().expect("never empty").is_final())
            {
                let end = &self.0[&original].history[target][count];
                let still_open = states.get(&original).is_some_and(|fates| fates[target] != *end);
                assert!(still_open, "seed {seed}: an end without what it was committed with");
            }
            for target in 0..promise.history.len() {
                let history = &promise.history[target];
                let least = match crash {
                    Crash::Kill => promise.answered[target],
                    Crash::PowerCut => promise.durable[target],
                };
                let possible = &history[least..];
                match state {
                    Some(fates) => assert!(
                        possible.iter().any(|fate| same(fate, &fates[target])),
                        "seed {seed}: {id} {target} is {:?}, not one of {possible:?}",
                        fates[target]
                    ),
                    None => assert!(
                        !promise.kept || history.last().expect("never empty").is_final(),
                        "seed {seed}: {id} is lost"
                    ),
                }
            }
        }
        for (id, fates) in &states {
            let queued = spool.get(*id).await.expect("it can be read").expect("it is there");
            let promise = self.0.get_mut(id).expect("counted above");
            assert_eq!(queued.content().expect("it is there").bytes(), promise.content, "seed {seed}");
            assert_eq!(**queued.entry(), promise.entry, "seed {seed}");
            // What is there after a restart is a fact from now on.
            promise.kept = true;
            promise.history = fates.iter().map(|fate| vec![fate.clone()]).collect();
            promise.answered = vec![0; fates.len()];
            promise.durable = vec![0; fates.len()];
        }
        self.0.retain(|id, _| states.contains_key(id));
        for promise in self.0.values_mut() {
            promise.reports = None;
            promise.with.clear();
        }
    }
}

impl Promise {
    /// Whether the deliverer may have it in hand.
    fn open(&self) -> bool {
        self.kept && self.history.iter().any(|history| !history.last().expect("never empty").is_final())
    }
}

/// Never attempted is never attempted, whenever that was put down.
fn same(one: &Fate, other: &Fate) -> bool {
    match (one, other) {
        (Fate::Waiting(one), Fate::Waiting(other)) if one.attempts == 0 => other.attempts == 0,
        _ => one == other,
    }
}

/// Does things until the disk stops answering or `rounds` are over.
async fn live(spool: &Spool, model: &mut Model, dice: &mut Dice, rounds: u64, stop_at_error: bool) {
    for _ in 0..rounds {
        let mut touched = Vec::new();
        let mut deeds = Vec::new();
        for _ in 0..=dice.below(8) {
            match model.choose(spool, dice) {
                // One deed for one message at a time, as the deliverer does.
                Some(Deed::Settle(id, fates, reports) | Deed::Decide(id, fates, reports))
                    if touched.contains(&id) =>
                {
                    let promise = model.0.get_mut(&id).expect("chosen from it");
                    promise.history[fates[0].0].pop();
                    reports.iter().for_each(|report| drop(model.0.remove(&report.id)));
                }
                Some(deed) => {
                    if let Deed::Settle(id, ..) | Deed::Decide(id, ..) = &deed {
                        touched.push(*id);
                    }
                    deeds.push(deed);
                }
                None => {}
            }
        }
        let before = model.answered();
        let results = join_all(deeds.into_iter().map(|deed| async {
            match deed {
                Deed::Commit(batch) => {
                    let ids: Vec<QueueId> = batch.iter().map(|submission| submission.id).collect();
                    (ids, None, true, spool.commit(batch).await.is_ok())
                }
                Deed::Settle(id, fates, reports) => {
                    let ids: Vec<QueueId> = reports.iter().map(|report| report.id).collect();
                    let durable = !ids.is_empty();
                    let target = fates[0].0;
                    (ids, Some((id, target)), durable, spool.settle(id, fates, reports).await.is_ok())
                }
                Deed::Decide(id, fates, reports) => {
                    let ids: Vec<QueueId> = reports.iter().map(|report| report.id).collect();
                    let target = fates[0].0;
                    let done = match spool.claim(id).await {
                        Ok(claim) => claim.settle(fates, reports).await.is_ok(),
                        Err(_) => false,
                    };
                    (ids, Some((id, target)), true, done)
                }
            }
        }))
        .await;
        let failed = results.iter().any(|(.., ok)| !ok);
        let mut covered = false;
        for (ids, settled, durable, ok) in results {
            if !ok
                && durable
                && let Some((id, target)) = settled
                && !stop_at_error
            {
                // Nothing happened, says the contract: the recipient is as it was before.
                let promise = model.0.get_mut(&id).expect("promises stay");
                promise.history[target].pop();
                ids.iter().for_each(|id| model.0.get_mut(id).expect("promises stay").refused = true);
            }
            if ok && let Some((id, target)) = settled {
                let promise = model.0.get_mut(&id).expect("promises stay");
                promise.answered[target] = promise.history[target].len() - 1;
                if durable {
                    promise.durable[target] = promise.answered[target];
                }
            }
            if ok && durable {
                ids.iter().for_each(|id| model.0.get_mut(id).expect("promises stay").kept = true);
                covered = true;
            }
        }
        if covered {
            model.cover(&before);
        }
        if failed && stop_at_error {
            return;
        }
    }
}

/// What a run of `survives` has met, so that the test cannot become an easy one unnoticed.
#[derive(Default)]
struct Met {
    power_cuts: usize,
    cuts_in_recovery: usize,
    rewritten: u64,
    segments: usize,
    bodies: usize,
}

/// Opens what a crash left. The power may go again while that is read and healed.
fn reopen(sim: &Sim, dice: &mut Dice, seed: u64, met: &mut Met) -> (Spool, Sim, bool) {
    let mut sim = sim.clone();
    let mut cut = false;
    loop {
        if dice.one_in(3) {
            sim.cut_power_at(1 + dice.below(60));
        }
        match Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options()) {
            Ok((spool, recovery)) => {
                assert_eq!(recovery.damaged, 0, "seed {seed}: nothing was damaged, only torn");
                sim.do_not_cut_power();
                return (spool, sim, cut);
            }
            Err(error) => {
                assert!(matches!(error, RecoverError::Io(_)), "seed {seed}: {error:?}");
                met.cuts_in_recovery += 1;
                cut = true;
                sim = sim.after_power_cut(dice);
            }
        }
    }
}

async fn survives(seed: u64, met: &mut Met) {
    let mut dice = Dice::new(seed);
    let mut sim = Sim::default();
    let sweeping = seed.is_multiple_of(4);
    let mut model = Model(HashMap::new(), if sweeping { 5 } else { 2 });
    let options = if sweeping { Options { segment_bytes: Some(8 << 10), ..options() } } else { options() };
    for _ in 0..4 {
        let opened = Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options);
        let (spool, recovery) = opened.expect("it opens");
        assert_eq!(recovery.damaged, 0, "seed {seed}: nothing was damaged, only torn");
        sim.cut_power_at(20 + dice.below(if sweeping { 2000 } else { 400 }));
        live(&spool, &mut model, &mut dice, 200, true).await;
        let crash = if dice.one_in(3) { Crash::Kill } else { Crash::PowerCut };
        met.power_cuts += usize::from(crash == Crash::PowerCut);
        met.rewritten += spool.stats().rewritten;
        let names = sim.names();
        met.segments += names.iter().filter(|name| name.ends_with(".log")).count();
        met.bodies += names.iter().filter(|name| name.ends_with(".body")).count();
        sim.cut_power_at(0);
        spool.close().await;
        let left = match crash {
            Crash::Kill => sim.after_kill(),
            Crash::PowerCut => sim.after_power_cut(&mut dice),
        };
        let (spool, after, cut) = reopen(&left, &mut dice, seed, met);
        model.check(&spool, if cut { Crash::PowerCut } else { crash }, seed).await;
        spool.close().await;
        sim = after;
    }
}

/// `POSTERN_POWER_CUTS`: that many seeds instead of 100, each with four crashes.
#[tokio::test]
async fn r158_nothing_promised_is_lost_by_kills_and_power_cuts() {
    let seeds = std::env::var("POSTERN_POWER_CUTS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100);
    let mut met = Met::default();
    for seed in 1..=seeds {
        survives(seed, &mut met).await;
    }
    let Met { power_cuts, cuts_in_recovery, rewritten, segments, bodies } = met;
    tell!(
        "{} crashes, {power_cuts} of them power cuts, {cuts_in_recovery} more while recovering; {segments} \
         segments and {bodies} content files open to them, {rewritten} segments rewritten; lost 0",
        4 * seeds
    );
    assert!(power_cuts > 200 && cuts_in_recovery > 20 && rewritten > 20 && bodies > 50, "too easy");
}

/// Syncs fail now and then, and what they should have written is thrown away, as Linux does.
async fn survives_failing_syncs(seed: u64) {
    let mut dice = Dice::new(seed);
    let sim = Sim::default();
    let mut model = Model::default();
    let (spool, _) = open(&sim);
    let failing: Vec<u64> = (0..6).map(|_| 10 + dice.below(300)).collect();
    sim.fail_syncs_at(failing);
    live(&spool, &mut model, &mut dice, 60, false).await;
    // One commit that works covers all that was answered before.
    let before = model.answered();
    let last = submission(&spool, 1, b"last");
    if spool.commit(vec![last.clone()]).await.is_ok() {
        model.cover(&before);
    }
    sim.cut_power_at(0);
    spool.close().await;
    let sim = sim.after_power_cut(&mut dice);
    let (spool, recovery) = open(&sim);
    assert_eq!(recovery.damaged, 0, "seed {seed}");
    model.promise(&last, vec![last.id], None);
    model.check(&spool, Crash::PowerCut, seed).await;
}

#[tokio::test]
async fn a_failed_sync_is_never_believed() {
    for seed in 1..=100 {
        survives_failing_syncs(seed).await;
    }
}

#[tokio::test]
async fn a_disk_that_comes_back_is_used_again() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    let mail = submission(&spool, 2, b"before");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    sim.set_read_only(true);
    let refused = spool.commit(vec![submission(&spool, 1, b"while")]).await;
    assert!(matches!(refused, Err(CommitError::Io(_))), "{refused:?}");
    // The outcome holds even though the disk did not take it.
    assert!(spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.is_err());
    assert_eq!(spool.get(id).await.expect("it can be read").expect("it is there").state(0), Fate::Delivered);
    sim.set_read_only(false);
    spool.commit(vec![submission(&spool, 1, b"after")]).await.expect("committed");
    sim.cut_power_at(0);
    spool.close().await;
    let (spool, recovery) = open(&sim.after_power_cut(&mut Dice::new(1)));
    assert_eq!(recovery, Recovery { messages: 2, damaged: 0 });
    assert_eq!(spool.get(id).await.expect("it can be read").expect("it is there").state(0), Fate::Delivered);
}

#[tokio::test]
async fn a_full_disk_refuses_mail_and_takes_fates() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    let mail = submission(&spool, 1, b"before");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    sim.set_full(true);
    while spool.free() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = spool.commit(vec![submission(&spool, 1, b"while")]).await;
    assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
    spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("there is room for fates");
    sim.set_full(false);
    while spool.free() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    spool.commit(vec![submission(&spool, 1, b"after")]).await.expect("committed");
}

#[tokio::test]
async fn a_failing_disk_is_known_to_fail_until_it_works_without_anybody_trying() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    let mail = submission(&spool, 1, b"before");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    assert!(spool.disk_works());
    for large in [false, true] {
        sim.set_read_only(true);
        if large {
            // It is the content's own file that cannot be written; the log has nothing to do.
            let mut writer = spool.writer();
            assert!(writer.write(&bytes(1, 400_000)).is_err());
        } else {
            assert!(spool.commit(vec![submission(&spool, 1, b"while")]).await.is_err());
            assert!(spool.settle_soon(id, &[(0, Fate::Delivered)]));
        }
        assert!(!spool.disk_works());
        sim.set_read_only(false);
        let began = Instant::now();
        while !spool.disk_works() {
            assert!(began.elapsed() < Duration::from_secs(5), "nobody looked");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // What could not be written while it failed is written now, and durable.
    sim.cut_power_at(0);
    spool.close().await;
    assert_eq!(open(&sim.after_worst_power_cut()).1.messages, 0);
}

#[tokio::test]
async fn a_full_disk_is_not_a_failing_one() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    sim.set_full(true);
    until("it is full", || spool.free() == 0).await;
    assert!(matches!(spool.commit(vec![submission(&spool, 1, b"x")]).await, Err(CommitError::Full)));
    assert!(spool.disk_works());
}

/// What fire-and-forget costs: for a few milliseconds a kill, and for 100 ms a power cut, would repeat.
#[tokio::test]
async fn fates_that_nobody_waits_for_are_written_at_once_and_durable_soon() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    let mail: Vec<Submission> = (0..50).map(|n| submission(&spool, 1, &bytes(n, 100))).collect();
    let ids: Vec<QueueId> = mail.iter().map(|mail| mail.id).collect();
    spool.commit(mail).await.expect("committed");
    let began = Instant::now();
    for id in &ids {
        assert!(spool.settle_soon(*id, &[(0, Fate::Delivered)]));
    }
    until("a kill repeats none of them", || open(&sim.after_kill()).1.messages == 0).await;
    let killed = began.elapsed();
    until("a power cut repeats none of them", || open(&sim.after_worst_power_cut()).1.messages == 0).await;
    let cut = began.elapsed();
    tell!("safe from kills after {killed:?}, from power cuts after {cut:?}");
    // Opening takes time too, in a debug build on a busy machine: the bounds are wide.
    assert!(killed < Duration::from_secs(1) && cut < Duration::from_secs(2), "{killed:?} {cut:?}");
}

#[tokio::test]
async fn fates_that_nobody_waits_for_outlive_a_disk_that_fails() {
    for seed in 0..30 {
        let (sim, mut dice) = (Sim::default(), Dice::new(seed));
        let (spool, _) = open(&sim);
        let mail: Vec<Submission> = (0..20).map(|n| submission(&spool, 1, &bytes(n, 100))).collect();
        let ids: Vec<QueueId> = mail.iter().map(|mail| mail.id).collect();
        spool.commit(mail).await.expect("committed");
        sim.fail_syncs_at((0..3).map(|_| 1 + dice.below(20)));
        for id in ids {
            assert!(spool.settle_soon(id, &[(0, Fate::Delivered)]));
            if dice.one_in(4) {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
        // Whatever failed on the way: each fate gets to the disk, by itself.
        until("all is durable", || open(&sim.after_worst_power_cut()).1.messages == 0).await;
        spool.close().await;
    }
}

/// Waits, with a limit, until something is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 10 s for: {what}");
}

/// Commits and delivers mail until this segment has come and gone.
async fn pass_by(spool: &Spool, sim: &Sim, segment: u64) {
    let mut seen = false;
    for n in 0..10_000 {
        match sim.names().contains(&segment::name(segment)) {
            true => seen = true,
            false if seen => return,
            false => {}
        }
        let mail = submission(spool, 1, &bytes(n, 4000));
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
    }
    panic!("segment {segment} was never removed");
}

#[tokio::test]
async fn a_segment_goes_only_after_those_it_has_news_of_are_gone_for_good() {
    for seed in 0..40 {
        let sim = Sim::default();
        let (spool, _) = open(&sim);
        let early = submission(&spool, 1, b"early");
        let id = early.id;
        spool.commit(vec![early]).await.expect("committed");
        // On to the next segment, where its end will be told.
        let filler: Vec<Submission> = (0..16).map(|n| submission(&spool, 1, &bytes(n, 4000))).collect();
        let mut ids: Vec<QueueId> = filler.iter().map(|mail| mail.id).collect();
        spool.commit(filler).await.expect("committed");
        ids.push(id);
        for id in ids {
            spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
        }
        pass_by(&spool, &sim, 2).await;
        sim.cut_power_at(0);
        spool.close().await;
        let (spool, _) = open(&sim.after_power_cut(&mut Dice::new(seed)));
        assert!(
            spool.get(id).await.expect("it can be read").is_none(),
            "seed {seed}: delivered mail is back"
        );
    }
}

#[tokio::test]
async fn a_dead_segment_is_used_again_and_nothing_of_its_earlier_life_comes_back() {
    for seed in 0..40 {
        let sim = Sim::default();
        let (spool, _) = open(&sim);
        for n in 0..400 {
            let mail = submission(&spool, 1, &bytes(n, 4000));
            let id = mail.id;
            spool.commit(vec![mail]).await.expect("committed");
            spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
            // A disk in memory is faster than the sweeper's thread is woken.
            until("the dead are buried", || spool.inner.shared.index().droppable().is_empty()).await;
        }
        let newest = sim.names().iter().filter_map(|name| segment::number(name)).max();
        assert!(newest > Some(20), "seed {seed}: the newest segment is {newest:?}");
        let made = sim.made();
        assert!(made <= 6, "seed {seed}: {made} files were made for more than 20 segments");
        let lives = submission(&spool, 1, &bytes(seed, 3000));
        let id = lives.id;
        spool.commit(vec![lives]).await.expect("committed");
        sim.cut_power_at(0);
        spool.close().await;
        let mut dice = Dice::new(seed);
        for (crash, after) in [
            ("a kill", sim.after_kill()),
            ("a power cut", sim.after_power_cut(&mut dice)),
            ("the worst power cut", sim.after_worst_power_cut()),
        ] {
            let (spool, recovery) = open(&after);
            assert_eq!(recovery.damaged, 0, "seed {seed}, {crash}");
            let found = spool.get(id).await.expect("it can be read").expect("it is there");
            assert_eq!(found.content().expect("it is there").bytes(), bytes(seed, 3000));
            // Ends of the last few may not have been synced; nothing older is back.
            assert!(spool.len() <= 2, "seed {seed}, {crash}: {} messages", spool.len());
        }
    }
}

#[tokio::test]
async fn what_was_refused_stays_refused() {
    let sim = Sim::default();
    let (spool, _) = open(&sim);
    let stays = submission(&spool, 1, b"stays");
    let stays_id = stays.id;
    spool.commit(vec![stays]).await.expect("committed");
    let refused = submission(&spool, 1, b"refused");
    sim.fail_syncs_at([1]);
    assert!(spool.commit(vec![refused]).await.is_err());
    // The segment that says so must outlive the one it is about.
    pass_by(&spool, &sim, 3).await;
    sim.cut_power_at(0);
    spool.close().await;
    let (spool, recovery) = open(&sim.after_kill());
    assert_eq!(recovery.damaged, 0);
    let left: Vec<QueueId> = spool.list().iter().map(|summary| summary.id).collect();
    assert_eq!(left, [stays_id]);
}
