//! A spool in a real folder.

use std::collections::HashSet;
use std::fs;

use super::*;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let dir = std::env::temp_dir().join(format!("postern-spool-{}", QueueId::new()));
        fs::create_dir(&dir).expect("the temporary folder can be written");
        Folder(dir)
    }

    fn open(&self) -> Spool {
        Spool::open(&self.0, options()).expect("it opens").0
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).expect("it is there");
        names.map(|file| file.expect("it is listed").file_name().into_string().expect("ASCII")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
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

async fn next(spool: &Spool) -> Due {
    tokio::time::timeout(Duration::from_secs(10), spool.next_due()).await.expect("something is due")
}

async fn nothing_is_due(spool: &Spool) {
    let due = tokio::time::timeout(Duration::from_millis(30), spool.next_due()).await;
    assert!(due.is_err(), "nothing should be due: {due:?}");
}

#[tokio::test]
async fn committed_mail_is_due_at_once_and_gone_when_delivered() {
    let folder = Folder::new();
    let spool = folder.open();
    let mail = submission(&spool, 2, b"Subject: hi\r\n\r\nhello\r\n");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    let due = next(&spool).await;
    assert_eq!((due.queued.id(), &due.targets[..]), (id, &[0, 1][..]));
    assert_eq!(due.queued.content().expect("it is there").bytes(), b"Subject: hi\r\n\r\nhello\r\n");
    assert_eq!(**due.queued.entry(), entry(2));
    nothing_is_due(&spool).await;
    spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
    assert_eq!(spool.len(), 1);
    spool.settle(id, vec![(1, Fate::Failed)], vec![]).await.expect("settled");
    assert_eq!(spool.len(), 0);
    spool.close().await;
    assert_eq!(folder.open().len(), 0);
}

#[tokio::test]
async fn what_waits_is_there_after_a_restart_as_it_stood() {
    let folder = Folder::new();
    let spool = folder.open();
    let (small, large) = (bytes(1, 5000), bytes(2, 700_000));
    let small_mail = submission(&spool, 2, &small);
    let large_mail = submission(&spool, 1, &large);
    let (small_id, large_id) = (small_mail.id, large_mail.id);
    spool.commit(vec![small_mail, large_mail]).await.expect("committed");
    let (mine, later) = (next(&spool).await, in_an_hour());
    assert_eq!(mine.queued.id(), small_id);
    let fates = vec![(0, Fate::Delivered), (1, retry_at(1, later))];
    spool.settle(small_id, fates, vec![]).await.expect("settled");
    spool.close().await;

    let (spool, recovery) = Spool::open(&folder.0, options()).expect("it opens");
    assert_eq!(recovery, Recovery { messages: 2, damaged: 0 });
    let due = next(&spool).await;
    assert_eq!(due.queued.id(), large_id);
    assert_eq!(due.queued.content().expect("it is there").bytes(), large);
    assert_eq!(due.queued.size(), 700_000);
    nothing_is_due(&spool).await;
    let waiting = spool.get(small_id).await.expect("it can be read").expect("it is there");
    assert_eq!(waiting.content().expect("it is there").bytes(), small);
    assert_eq!(waiting.state(0), Fate::Delivered);
    assert_eq!(waiting.state(1), retry_at(1, later));
    let summary = &spool.list().into_iter().find(|summary| summary.id == small_id).expect("it is listed");
    assert_eq!((summary.waiting, summary.attempts, summary.next_attempt), (1, 1, Some(later)));
    assert_eq!(summary.last_error.as_deref(), Some("451 later"));
}

#[tokio::test]
async fn a_report_and_the_end_of_its_original_are_one() {
    let folder = Folder::new();
    let spool = folder.open();
    let mail = submission(&spool, 1, b"original");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    next(&spool).await;
    let report = Submission { entry: Entry { own: true, ..entry(1) }, ..submission(&spool, 1, b"report") };
    let report_id = report.id;
    let queued = spool.settle(id, vec![(0, Fate::Failed)], vec![report]).await.expect("settled");
    assert_eq!(queued[0].id(), report_id);
    assert_eq!(next(&spool).await.queued.id(), report_id);
    drop(spool);
    let spool = folder.open();
    assert_eq!(spool.list().iter().map(|summary| summary.id).collect::<Vec<_>>(), [report_id]);
}

#[tokio::test]
async fn large_content_leaves_nothing_when_it_is_not_committed_or_finished() {
    let folder = Folder::new();
    let spool = folder.open();
    let bodies = || folder.names().iter().filter(|name| name.ends_with(".body")).count();
    let mut writer = spool.writer();
    writer.write(&bytes(1, 400_000)).expect("there is room");
    assert_eq!(bodies(), 1);
    drop(writer);
    drop(written(&spool, &bytes(2, 400_000)));
    until("uncommitted content is removed", || bodies() == 0).await;

    let mail = submission(&spool, 1, &bytes(3, 400_000));
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    let due = next(&spool).await;
    assert_eq!(bodies(), 1);
    spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
    until("delivered content is removed", || bodies() == 0).await;
    assert_eq!(due.queued.content().expect("it is mapped").bytes(), bytes(3, 400_000));
    spool.close().await;

    fs::write(folder.0.join(format!("{}.body", QueueId::new())), b"left by a crash").expect("written");
    let _spool = folder.open();
    until("a file of a crash is removed", || bodies() == 0).await;
}

#[tokio::test]
async fn content_is_the_same_however_much_may_be_held_and_whatever_pieces_it_came_in() {
    const KIB: usize = 1024;
    let folder = Folder::new();
    let (spool, _) = Spool::open(&folder.0, Options::default()).expect("it opens");
    for (held, pieces, in_the_log) in [
        (0, &[256 * KIB][..], true),
        (0, &[256 * KIB, 1], false),
        (0, &[300 * KIB], false),
        (0, &[255 * KIB, 64 * KIB, 0, 5], false),
        (10, &[300 * KIB], false),
        (300 * KIB, &[300 * KIB], true),
        (300 * KIB, &[300 * KIB, 1], false),
        (2048 * KIB, &[1024 * KIB; 2], true),
        (2048 * KIB + 1, &[257 * KIB], false),
    ] {
        let content = bytes(7, pieces.iter().sum());
        let mut writer = spool.writer();
        writer.hold(held as u64);
        let mut at = 0;
        for piece in pieces {
            writer.write(&content[at..at + piece]).expect("there is room");
            at += piece;
            assert_eq!(writer.len(), at as u64);
        }
        let written = writer.finish().expect("it was written");
        assert_eq!(written.body().is_none(), in_the_log, "{held} held, pieces of {pieces:?}");
        assert!(written.bytes() == content, "{held} held, pieces of {pieces:?}");
        let mail = Submission { id: spool.new_id(), entry: entry(1), content: written };
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        // What is read back is what its checksum is of.
        let found = spool.get(id).await.expect("it can be read").expect("it is there");
        assert!(found.content().expect("it is there").bytes() == content, "pieces of {pieces:?}");
    }
}

#[tokio::test]
async fn retries_come_when_their_time_comes_and_take_turns_with_new_mail() {
    let folder = Folder::new();
    let spool = folder.open();
    let mut tried = Vec::new();
    for n in 0..3 {
        let mail = submission(&spool, 1, &bytes(n, 100));
        tried.push(mail.id);
        spool.commit(vec![mail]).await.expect("committed");
    }
    for _ in 0..3 {
        next(&spool).await;
    }
    for id in tried {
        spool.settle(id, vec![(0, retry_at(1, long_ago()))], vec![]).await.expect("settled");
    }
    let mut fresh = Vec::new();
    for n in 0..3 {
        let mail = submission(&spool, 1, &bytes(n, 100));
        fresh.push(mail.id);
        spool.commit(vec![mail]).await.expect("committed");
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(next(&spool).await.queued.id());
    }
    assert_eq!(order.iter().filter(|id| fresh.contains(id)).count(), 2, "{order:?}");

    let released = order[0];
    let soon = Timestamp::now() + Duration::from_millis(50);
    spool.release(released, &[(0, soon)]);
    let mut rest = HashSet::from([next(&spool).await.queued.id(), next(&spool).await.queued.id()]);
    rest.insert(next(&spool).await.queued.id());
    assert!(rest.contains(&released) && Timestamp::now() >= soon);
}

#[tokio::test]
async fn recipients_of_one_message_are_handed_out_apart() {
    let folder = Folder::new();
    let spool = folder.open();
    let mail = submission(&spool, 3, b"x");
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    assert_eq!(next(&spool).await.targets, [0, 1, 2]);
    spool.settle(id, vec![(1, retry_at(1, long_ago()))], vec![]).await.expect("settled");
    let due = next(&spool).await;
    assert_eq!(due.targets, [1]);
    assert_eq!(due.queued.state(1), retry_at(1, long_ago()));
    spool.settle(id, vec![(1, Fate::Delivered)], vec![]).await.expect("settled");
    // A final outcome stays, whatever comes late.
    spool.settle(id, vec![(1, retry_at(2, long_ago()))], vec![]).await.expect("settled");
    nothing_is_due(&spool).await;
}

#[test]
fn a_reader_that_goes_away_takes_no_mail_with_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .expect("built");
    let folder = Folder::new();
    runtime.block_on(async {
        let spool = folder.open();
        let mail = submission(&spool, 1, b"x");
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        spool.close().await;
        let spool = folder.open();
        // The only thread that could read is busy when the reader gives up.
        let (go, busy) = mpsc::channel::<()>();
        let blocker = task::spawn_blocking(move || busy.recv());
        tokio::select! {
            biased;
            due = spool.next_due() => panic!("nobody could have read it: {due:?}"),
            () = tokio::task::yield_now() => {}
        }
        drop(go);
        blocker.await.expect("it ended").expect_err("nothing was sent");
        assert_eq!(next(&spool).await.queued.id(), id);
    });
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let folder = Folder::new();
    let spool = folder.open();
    assert!(matches!(Spool::open(&folder.0, options()), Err(OpenError::Locked(_))));
    spool.close().await;
    folder.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_use_follows_what_is_alive() {
    let folder = Folder::new();
    let spool = folder.open();
    // One message that waits for long must not keep all that came after it.
    let stuck = submission(&spool, 2, &bytes(9, 1000));
    let stuck_id = stuck.id;
    spool.commit(vec![stuck]).await.expect("committed");
    for n in 0..1500u64 {
        let mail = submission(&spool, 1, &bytes(n, 4000));
        let id = mail.id;
        spool.commit(vec![mail]).await.expect("committed");
        spool.settle(id, vec![(0, Fate::Delivered)], vec![]).await.expect("settled");
        if n % 100 == 0 {
            spool
                .settle(stuck_id, vec![(0, retry_at(n as u32, in_an_hour()))], vec![])
                .await
                .expect("settled");
        }
    }
    until("dead segments are gone", || spool.stats().bytes_on_disk <= 6 * SEGMENT).await;
    let logs: u64 = fs::read_dir(&folder.0)
        .expect("it is there")
        .map(|file| file.expect("it is listed").metadata().expect("it is there").len())
        .sum();
    assert!(logs <= 9 * SEGMENT, "{logs}");
    spool.settle(stuck_id, vec![(1, Fate::Delivered)], vec![]).await.expect("settled");
    spool.close().await;
    let spool = folder.open();
    let stuck = spool.get(stuck_id).await.expect("it can be read").expect("it is there");
    assert_eq!(stuck.content().expect("it is there").bytes(), bytes(9, 1000));
    assert_eq!(stuck.state(1), Fate::Delivered);
    assert!(matches!(stuck.state(0), Fate::Waiting(Waiting { attempts: 1400, .. })), "{:?}", stuck.state(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_share_syncs() {
    let folder = Folder::new();
    let (spool, _) = Spool::open(&folder.0, Options::default()).expect("it opens");
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..50u64 {
        let spool = spool.clone();
        sessions.spawn(async move {
            for n in 0..20 {
                let mail = submission(&spool, 1, &bytes(session << 32 | n, 4096));
                spool.commit(vec![mail]).await.expect("committed");
            }
        });
    }
    sessions.join_all().await;
    let stats = spool.stats();
    assert_eq!(stats.messages, 1000);
    assert!(stats.syncs < 700, "{stats:?}");
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        assert!(seen.insert(next(&spool).await.queued.id()));
    }
}

#[tokio::test]
async fn more_mail_than_the_memory_budget_is_read_back_from_disk() {
    let folder = Folder::new();
    let cold = Options { warm_bytes: Some(10_000), ..options() };
    let (spool, _) = Spool::open(&folder.0, cold).expect("it opens");
    for n in 0..20 {
        spool.commit(vec![submission(&spool, 1, &bytes(n, 4000))]).await.expect("committed");
    }
    for _ in 0..20 {
        let due = next(&spool).await;
        assert_eq!(due.queued.size(), 4000);
        assert_eq!(**due.queued.entry(), entry(1));
    }
}

/// `POSTERN_MESSAGES`: that many instead of 20,000. docs/spool.md has the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r158_a_backlog_is_found_again_at_start_up_and_read_in_batches() {
    let count = std::env::var("POSTERN_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let folder = Folder::new();
    let (spool, _) = Spool::open(&folder.0, Options::default()).expect("it opens");
    for start in (0..count).step_by(500) {
        let mail = (start..count.min(start + 500)).map(|n| submission(&spool, 1, &bytes(n, 4096)));
        spool.commit(mail.collect()).await.expect("committed");
    }
    spool.close().await;
    let began = std::time::Instant::now();
    let (spool, recovery) = Spool::open(&folder.0, Options::default()).expect("it opens");
    let opened = began.elapsed();
    assert_eq!(recovery, Recovery { messages: count as usize, damaged: 0 });
    let began = std::time::Instant::now();
    let mut seen = HashSet::new();
    while (seen.len() as u64) < count {
        let batch = spool.take_due(100, 1 << 20).await;
        assert!(!batch.is_empty() && batch.len() <= 100);
        for due in batch {
            assert_eq!(due.queued.content().expect("it is there").len(), 4096);
            assert!(seen.insert(due.queued.id()), "handed out twice");
        }
    }
    let read = began.elapsed();
    nothing_is_due(&spool).await;
    tell!("{count} messages of 4 KiB: found in {opened:?}, read in {read:?}");
}

#[tokio::test]
async fn a_batch_is_no_larger_than_asked_for_and_never_empty() {
    let folder = Folder::new();
    let spool = folder.open();
    let mail = (0..10).map(|n| submission(&spool, 1, &bytes(n, 5000))).collect();
    spool.commit(mail).await.expect("committed");
    assert_eq!(spool.take_due(3, u64::MAX).await.len(), 3);
    // Each counts with its content and a little more.
    assert_eq!(spool.take_due(100, 13_000).await.len(), 2);
    assert_eq!(spool.take_due(100, 1).await.len(), 1);
    assert_eq!(spool.take_due(0, u64::MAX).await.len(), 1);
    assert_eq!(spool.take_due(100, u64::MAX).await.len(), 3);
    nothing_is_due(&spool).await;
}
