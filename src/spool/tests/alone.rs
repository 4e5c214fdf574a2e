//! A session that is alone commits in its own thread; as soon as others are about to commit they share a sync.

use futures::FutureExt;

use super::sim::Sim;
use super::*;

/// A spool whose disk was seen to be fast, and whose committer sleeps.
async fn rested(sim: &Sim) -> Spool {
    let spool =
        Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options()).expect("it opens").0;
    for _ in 0..40 {
        spool.commit(vec![submission(&spool, 1, b"mail")]).await.expect("the disk works");
    }
    rest().await;
    spool
}

async fn rest() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Whether a commit is done without a wait.
async fn is_done_at_once(spool: &Spool) -> bool {
    let commit = spool.commit(vec![submission(spool, 1, b"mail")]);
    let mut commit = std::pin::pin!(commit);
    let at_once = commit.as_mut().now_or_never();
    let waited = at_once.is_none();
    let queued = match at_once {
        Some(done) => done,
        None => commit.await,
    };
    assert_eq!(queued.expect("the disk works").len(), 1);
    !waited
}

#[tokio::test]
async fn a_session_alone_waits_for_no_other_thread() {
    let spool = rested(&Sim::default()).await;
    assert!(is_done_at_once(&spool).await);
    assert_eq!(spool.stats().messages, 41);
    let other = spool.writer();
    assert!(!is_done_at_once(&spool).await, "another one collects its content: they can share");
    drop(other);
    rest().await;
    assert!(is_done_at_once(&spool).await);
    spool.close().await;
}

#[tokio::test]
async fn fates_that_nobody_waits_for_go_with_it() {
    let sim = Sim::default();
    let spool = rested(&sim).await;
    let mut gone = Vec::new();
    // The thread wakes for the first of them and then sleeps lightly for a moment; in that moment they wait.
    let together = async {
        loop {
            let due = spool.next_due().await;
            assert!(spool.settle_soon(due.queued.id(), &[(0, Fate::Delivered)]));
            gone.push(due.queued.id());
            if is_done_at_once(&spool).await {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), together).await.expect("a session is alone at some time");
    let (again, _) =
        Spool::open_on(Arc::new(sim.after_kill()), Path::new("/simulated"), &options()).expect("it opens");
    assert_eq!(again.list().len(), 40, "as many came as went");
    assert!(again.list().iter().all(|mail| !gone.contains(&mail.id)));
    again.close().await;
    spool.close().await;
}

/// Whoever finds that the disk fails leaves it to the thread to find out when it works again.
#[tokio::test]
async fn a_failure_in_its_place_is_taken_up_by_the_thread() {
    let sim = Sim::default();
    let spool = rested(&sim).await;
    sim.set_read_only(true);
    assert!(spool.commit(vec![submission(&spool, 1, b"mail")]).await.is_err());
    sim.set_read_only(false);
    // Nobody brings mail: the thread finds out by itself that the disk works again.
    let again = async {
        while !spool.disk_works() {
            rest().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("the thread looks again");
    spool.close().await;
}
