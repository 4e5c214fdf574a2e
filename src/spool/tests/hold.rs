//! Held mail: for nobody until somebody decides, and then decided once.

use super::sim::Sim;
use super::*;

fn open(sim: &Sim) -> Spool {
    Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options()).expect("it opens").0
}

fn held(spool: &Spool, targets: usize, content: &[u8]) -> Submission {
    Submission { id: spool.new_id(), entry: held_entry(targets), content: written(spool, content) }
}

/// Mail of its own that a release makes of held mail.
fn released(spool: &Spool, claim: &Claim) -> Submission {
    let content = claim.queued().content().expect("it is there");
    Submission { id: spool.new_id(), entry: entry(1), content }
}

async fn nothing_is_due(spool: &Spool) {
    let due = tokio::time::timeout(Duration::from_millis(30), spool.next_due()).await;
    assert!(due.is_err(), "nothing should be due: {due:?}");
}

fn ids(spool: &Spool) -> Vec<QueueId> {
    spool.held(None, 100).iter().map(|summary| summary.id).collect()
}

#[tokio::test]
async fn held_mail_is_due_for_nobody_and_survives_a_restart_as_it_was() {
    let sim = Sim::default();
    let spool = open(&sim);
    for size in [3000, 400_000] {
        let mail = held(&spool, 2, &bytes(1, size));
        spool.commit(vec![mail]).await.expect("committed");
    }
    nothing_is_due(&spool).await;
    assert!(spool.list().is_empty(), "the queue is about deliveries");
    let before = spool.held(None, 100);
    assert_eq!((before.len(), spool.held_len(), spool.len(), spool.stats().held), (2, 2, 2, 2));
    spool.close().await;
    let spool = open(&sim.after_kill());
    nothing_is_due(&spool).await;
    let after = spool.held(None, 100);
    assert_eq!(after, before);
    let large = spool.get(after[1].id).await.expect("it can be read").expect("it is there");
    assert_eq!(large.content().expect("it is there").bytes(), bytes(1, 400_000));
    assert_eq!(
        large.entry().held.as_ref().map(|held| &held.reasons),
        held_entry(1).held.as_ref().map(|h| &h.reasons)
    );
}

#[tokio::test]
async fn a_release_ends_the_holding_and_makes_the_mail_due_in_one_commit() {
    for size in [3000, 400_000] {
        let sim = Sim::default();
        let spool = open(&sim);
        let mail = held(&spool, 1, &bytes(1, size));
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        let claim = spool.claim(id).await.expect("it is held");
        let mail = released(&spool, &claim);
        let new = mail.id;
        claim.settle(vec![(0, Fate::Released)], vec![mail]).await.expect("released");
        assert!(
            matches!(spool.claim(id).await, Err(ClaimError::NotHeld(_))),
            "a second release finds nothing"
        );
        let due = tokio::time::timeout(Duration::from_secs(10), spool.next_due()).await.expect("it is due");
        assert_eq!(due.queued.id(), new);
        assert_eq!(due.queued.content().expect("it is there").bytes(), bytes(1, size));
        spool.close().await;
        let spool = open(&sim.after_kill());
        assert_eq!((ids(&spool), spool.len()), (vec![], 1));
        let mail = spool.get(new).await.expect("it can be read").expect("it is there");
        assert_eq!(mail.content().expect("it is there").bytes(), bytes(1, size));
    }
}

#[tokio::test]
async fn only_one_decides_at_a_time_and_who_lets_go_changes_nothing() {
    let sim = Sim::default();
    let spool = open(&sim);
    let mail = held(&spool, 3, b"mail");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    let mine = spool.claim(id).await.expect("it is held");
    assert_eq!(mine.targets(), [0, 1, 2]);
    assert!(matches!(spool.claim(id).await, Err(ClaimError::Busy(_))));
    assert!(spool.held(None, 1)[0].busy);
    drop(mine);
    let mine = spool.claim(id).await.expect("it is held as before");
    mine.settle(vec![(1, Fate::Failed)], vec![]).await.expect("one is denied");
    let rest = spool.claim(id).await.expect("two are left");
    assert_eq!(rest.targets(), [0, 2]);
    sim.set_read_only(true);
    assert!(rest.settle(vec![(0, Fate::Failed), (2, Fate::Failed)], vec![]).await.is_err());
    sim.set_read_only(false);
    let rest = spool.claim(id).await.expect("nothing happened");
    rest.settle(vec![(0, Fate::Failed), (2, Fate::Failed)], vec![]).await.expect("denied");
    assert!(spool.is_empty());
}

#[tokio::test]
async fn what_expires_first_is_known_and_can_be_put_off() {
    let sim = Sim::default();
    let spool = open(&sim);
    let now = Timestamp::now();
    let in_minutes = |minutes: u64| now + Duration::from_secs(60 * minutes);
    let mut mail: Vec<Submission> = (0..3).map(|_| held(&spool, 1, b"mail")).collect();
    for (mail, minutes) in mail.iter_mut().zip([30, 10, 20]) {
        let until = in_minutes(minutes);
        mail.entry.held = mail.entry.held.take().map(|held| Arc::new(Held { until, ..(*held).clone() }));
    }
    let names: Vec<QueueId> = mail.iter().map(|mail| mail.id).collect();
    spool.commit(mail).await.expect("committed");
    assert_eq!(spool.next_expiry(), Some(in_minutes(10)));
    assert_eq!(spool.expired(in_minutes(20), 10), [names[1], names[2]]);
    assert_eq!(spool.expired(in_minutes(20), 1), [names[1]]);
    let claim = spool.claim(names[1]).await.expect("it is held");
    claim.settle(vec![(0, Fate::Held(Holding { until: in_minutes(60) }))], vec![]).await.expect("extended");
    spool.close().await;
    let spool = open(&sim.after_kill());
    assert_eq!(spool.next_expiry(), Some(in_minutes(20)));
    assert_eq!(ids(&spool), names);
    let second: Vec<QueueId> = spool.held(Some(names[0]), 1).iter().map(|held| held.id).collect();
    assert_eq!(second, [names[1]], "a page begins behind the one before");
}

#[tokio::test]
async fn held_mail_is_carried_along_when_the_log_moves_on() {
    let sim = Sim::default();
    let spool = open(&sim);
    let (mut kept, until) = (Vec::new(), Timestamp::now() + Duration::from_secs(3600));
    for n in 0..400 {
        let mail = held(&spool, 2, &bytes(n, 4000));
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        let claim = spool.claim(id).await.expect("it is held");
        let fates = match n % 16 {
            0 => {
                kept.push((n, id));
                vec![(0, Fate::Failed), (1, Fate::Held(Holding { until }))]
            }
            _ => vec![(0, Fate::Failed), (1, Fate::Failed)],
        };
        claim.settle(fates, vec![]).await.expect("decided");
    }
    for _ in 0..1000 {
        if spool.stats().rewritten > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(spool.stats().rewritten > 0, "the log was swept");
    spool.close().await;
    let spool = open(&sim.after_kill());
    assert_eq!(ids(&spool), kept.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    assert_eq!(spool.next_expiry(), Some(until));
    for (n, id) in kept {
        let mail = spool.get(id).await.expect("it can be read").expect("it is there");
        assert_eq!(mail.content().expect("it is there").bytes(), bytes(n, 4000));
        assert_eq!((mail.state(0), mail.state(1)), (Fate::Failed, Fate::Held(Holding { until })));
    }
}

#[tokio::test]
async fn a_spool_of_the_format_before_is_refused_by_name() {
    let sim = Sim::default();
    open(&sim).close().await;
    let name = segment::name(1);
    let spool = open(&sim);
    spool.commit(vec![held(&spool, 1, b"mail")]).await.expect("committed");
    spool.close().await;
    let name = if sim.names().contains(&name) { name } else { sim.names()[0].clone() };
    sim.tamper(&name, |bytes| bytes[16] = 1);
    let refused = Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options());
    assert!(matches!(refused, Err(RecoverError::UnknownVersion { version: 1, .. })));
}
