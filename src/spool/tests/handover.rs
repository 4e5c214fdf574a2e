//! Messages that leave a spool and enter another.

use super::*;

fn tempfile(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("postern-spool-{name}-{}", QueueId::new()))
}

/// Moves everything free from one spool to the other, as two pods would.
async fn hand_over(from: &Spool, to: &Spool, instead: Option<QueueId>) -> (Vec<QueueId>, QueueId) {
    let (mut parcels, mut claims, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for id in from.open_page(None, 100).await {
        let Ok(claim) = from.lift(id).await else { continue };
        let queued = claim.queued();
        let fates = (0..queued.entry().targets.len()).map(|target| queued.state(target)).collect();
        let mut writer = to.writer();
        writer.write(queued.content().unwrap().bytes()).unwrap();
        let (entry, content) = (Entry::clone(queued.entry()), writer.finish().unwrap());
        parcels.push(Parcel { id, entry, fates, content });
        claims.push(claim);
        ids.push(id);
    }
    let note = Submission { content: Content::from(b"a note".to_vec()), ..submission(to, 1, b"") };
    let noted = note.id;
    to.adopt(parcels, note, instead).await.expect("there is room");
    for claim in claims {
        claim.give_away().await.expect("written");
    }
    (ids, noted)
}

#[tokio::test]
async fn a_message_moves_with_all_that_is_known_of_it_and_under_its_own_name() {
    let folders = [tempfile("move-from"), tempfile("move-to")];
    let [(from, _), (to, _)] = [0, 1].map(|n: usize| Spool::open(&folders[n], options()).expect("it opens"));
    let mail = submission(&from, 2, &bytes(1, 5000));
    let large = submission(&from, 1, &bytes(2, 300_000));
    let held = Submission { entry: held_entry(1), ..submission(&from, 1, b"held") };
    let ids = [mail.id, large.id, held.id];
    from.commit(vec![mail, large, held]).await.expect("committed");
    let later = in_an_hour();
    // One recipient is done, the other waits for its second attempt.
    let due = from.take_due(10, u64::MAX).await;
    assert_eq!(due.len(), 2);
    from.settle(ids[0], vec![(0, Fate::Delivered), (1, retry_at(1, later))], vec![]).await.expect("settled");
    from.release(ids[1], &[(0, later)]);
    let (moved, _) = hand_over(&from, &to, None).await;
    assert_eq!(moved.len(), 3);
    assert!(from.is_empty() && from.held_len() == 0);
    assert_eq!((to.len(), to.held_len()), (3, 1), "a note is no message");
    assert_eq!(to.list().len(), 2);
    let stats = (from.stats(), to.stats());
    assert_eq!((stats.0.handed_over, stats.0.recipients, stats.0.held_recipients), (3, 0, 0));
    assert_eq!((stats.1.entered, stats.1.recipients, stats.1.held_recipients), (3, 2, 1));
    let queued = to.get(ids[0]).await.unwrap().expect("it is there");
    assert_eq!(queued.content().unwrap().bytes(), bytes(1, 5000));
    assert_eq!(queued.state(0), Fate::Delivered);
    assert!(
        matches!(queued.state(1), Fate::Waiting(Waiting { attempts: 1, next_attempt, .. }) if next_attempt == later)
    );
    assert_eq!(
        to.get(ids[1]).await.unwrap().expect("it is there").content().unwrap().bytes(),
        bytes(2, 300_000)
    );
    // What both disks say is the same after a restart.
    from.close().await;
    to.close().await;
    let [(from, _), (to, recovery)] =
        [0, 1].map(|n: usize| Spool::open(&folders[n], options()).expect("it opens"));
    assert!(from.is_empty(), "nothing is in two spools");
    assert_eq!((recovery.messages, to.len(), to.held_len(), to.notes().len()), (3, 3, 1, 1));
    let note = to.get(to.notes()[0]).await.unwrap().expect("it is there");
    assert_eq!(note.content().unwrap().bytes(), b"a note");
    for folder in folders {
        let _ = std::fs::remove_dir_all(folder);
    }
}

#[tokio::test]
async fn a_note_outlives_what_it_speaks_of_until_the_next_one_takes_its_place() {
    let folders = [tempfile("note-from"), tempfile("note-to")];
    let [(from, _), (to, _)] = [0, 1].map(|n: usize| Spool::open(&folders[n], options()).expect("it opens"));
    from.commit(vec![submission(&from, 1, b"one")]).await.expect("committed");
    let (ids, first) = hand_over(&from, &to, None).await;
    to.take_due(1, u64::MAX).await;
    to.settle(ids[0], vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
    assert_eq!((to.is_empty(), to.notes()), (true, vec![first]));
    from.commit(vec![submission(&from, 1, b"two")]).await.expect("committed");
    let (_, second) = hand_over(&from, &to, Some(first)).await;
    assert_eq!(to.notes(), vec![second]);
    to.forget_note(second).await.expect("written");
    assert!(to.notes().is_empty());
    assert_eq!(to.stats().released, 0, "a note is nobody's recipient");
    for folder in folders {
        let _ = std::fs::remove_dir_all(folder);
    }
}

#[tokio::test]
async fn what_somebody_has_in_hand_is_not_moved_and_what_nobody_attempts_any_more_is() {
    let folder = tempfile("busy");
    let (spool, _) = Spool::open(&folder, options()).expect("it opens");
    let (a, b) = (submission(&spool, 1, b"a"), submission(&spool, 1, b"b"));
    let ids = [a.id, b.id];
    spool.commit(vec![a, b]).await.expect("committed");
    let dropped = spool.take(ids[0], &[0]).await.expect("it waits");
    assert_eq!(spool.take_due(10, u64::MAX).await.len(), 1);
    for id in ids {
        assert!(matches!(spool.lift(id).await, Err(ClaimError::Busy(_))));
    }
    assert_eq!(spool.end_attempts(), 1, "mail in the hands of people stays there");
    assert!(spool.lift(ids[1]).await.is_ok());
    assert!(matches!(spool.lift(ids[0]).await, Err(ClaimError::Busy(_))));
    drop(dropped);
    assert!(spool.lift(ids[0]).await.is_ok());
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn a_sealed_spool_takes_nothing_and_says_so_only_when_nothing_can_come() {
    let folder = tempfile("sealed");
    let (spool, _) = Spool::open(&folder, options()).expect("it opens");
    let mail = submission(&spool, 1, b"a");
    assert!(!spool.is_sealed_and_empty());
    spool.seal(true);
    assert!(spool.is_sealed_and_empty());
    assert!(spool.commit(vec![mail.clone()]).await.is_err());
    spool.seal(false);
    spool.commit(vec![mail]).await.expect("committed");
    spool.seal(true);
    assert!(!spool.is_sealed_and_empty(), "something is left");
    let _ = std::fs::remove_dir_all(folder);
}
