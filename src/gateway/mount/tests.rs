use jiff::Timestamp;

use super::*;
use crate::bundle::document::FORMAT;
use crate::bundle::{Bundle, Revision};
use crate::gateway::listeners::Listeners;
use crate::loops::Dealer;
use crate::policy::testing;

/// A publication of a bundle without rules; `hostname` is what changes.
struct Publication {
    manifest: Manifest,
    pieces: BTreeMap<String, Vec<u8>>,
}

fn publication(sequence: u64, hostname: &str) -> Publication {
    let mut bundle: Bundle = testing::bundle(Vec::new());
    bundle.gateway.hostname = Some(hostname.to_owned());
    let segments = segment::cut(&bundle);
    let revision = Revision::of(FORMAT, &segments, &[]);
    let mut pieces = BTreeMap::new();
    let mut refs = Vec::new();
    for part in segments {
        let own = part.pieces();
        let places = vec![0; own.len()];
        for (number, piece) in own.into_iter().enumerate() {
            pieces.insert(segment::piece_key(&part.hash, number), piece);
        }
        refs.push(SegmentRef { name: part.name, hash: part.hash, places });
    }
    let manifest = Manifest {
        format: FORMAT,
        sequence: Sequence(sequence),
        revision,
        published_at: Timestamp::UNIX_EPOCH,
        segments: refs,
        materials: Vec::new(),
        leaving: Vec::new(),
        course: Default::default(),
    };
    Publication { manifest, pieces }
}

impl Publication {
    fn mount(&self, folder: &Path) {
        for (name, piece) in &self.pieces {
            fs::write(folder.join(name), piece).unwrap();
        }
        fs::write(folder.join(MANIFEST), serde_json::to_vec(&self.manifest).unwrap()).unwrap();
    }

    fn push(self) -> Push {
        Push { manifest: serde_json::to_vec(&self.manifest).unwrap(), pieces: self.pieces }
    }
}

fn running(live: &Live) -> (u64, String) {
    let running = live.current().expect("something runs");
    (running.sequence.0, running.bundle.gateway.hostname.clone().unwrap_or_default())
}

#[tokio::test]
async fn a_publication_that_is_handed_over_runs_before_the_mount_has_it_and_never_takes_a_pod_back() {
    let folder = std::env::temp_dir().join(format!("postern-mount-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mount = Arc::new(Mount::new(folder.clone(), folder.clone(), "gw-0".to_owned()));
    let live = Live::new(
        "gw-0".to_owned(),
        "i".to_owned(),
        Listeners::new(Vec::new(), "gw".to_owned(), Dealer::default()),
        None,
    );

    publication(1, "one").mount(&folder);
    mount.refresh(&live).await;
    assert_eq!(running(&live), (1, "one".to_owned()));

    assert!(mount.push(publication(2, "two").push(), &live).await);
    assert_eq!(running(&live), (2, "two".to_owned()));
    // The old mount does not bring the old policy back.
    mount.refresh(&live).await;
    assert_eq!(running(&live).0, 2);

    // A manifest alone: its pieces came with the push before.
    let again = publication(3, "two");
    assert!(mount.push(Push { pieces: BTreeMap::new(), ..again.push() }, &live).await);
    assert_eq!(running(&live), (3, "two".to_owned()));

    // Without its pieces a publication waits for the mount; what runs goes on.
    let unknown = publication(4, "four");
    assert!(mount.push(Push { pieces: BTreeMap::new(), ..unknown.push() }, &live).await);
    assert_eq!(running(&live).0, 3);
    publication(4, "four").mount(&folder);
    mount.refresh(&live).await;
    assert_eq!(running(&live), (4, "four".to_owned()));

    // Late and damaged deliveries change nothing.
    assert!(mount.push(publication(2, "two").push(), &live).await);
    assert!(!mount.push(Push { manifest: b"{".to_vec(), pieces: BTreeMap::new() }, &live).await);
    assert_eq!(running(&live), (4, "four".to_owned()));
    fs::remove_dir_all(&folder).unwrap();
}

/// A folder of its own, a mount on it, and a pod called gw-0 that remembers its sequence there.
struct Pod {
    folder: PathBuf,
    mount: Arc<Mount>,
    live: Live,
}

impl Pod {
    fn new() -> Self {
        Self::started(std::env::temp_dir().join(format!("postern-mount-{:016x}", rand::random::<u64>())))
    }

    fn started(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let listeners = Listeners::new(Vec::new(), "gw".to_owned(), Dealer::default());
        let memory = Some(folder.join("sequence"));
        Self {
            mount: Arc::new(Mount::new(folder.clone(), folder.clone(), "gw-0".to_owned())),
            live: Live::new("gw-0".to_owned(), "i".to_owned(), listeners, memory),
            folder,
        }
    }

    /// The process ends and begins again on the same volume and mount.
    fn restarted(self) -> Self {
        let folder = self.folder.clone();
        std::mem::forget(self);
        Self::started(folder)
    }

    async fn look(&self) {
        self.mount.refresh(&self.live).await;
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `named` are to run `second` beside `first`.
fn staged(sequence: u64, first: &str, second: &str, named: &[&str]) -> Publication {
    let (mut whole, trial) = (publication(sequence, first), publication(sequence, second));
    whole.pieces.extend(trial.pieces);
    let Manifest { format, revision, segments, materials, .. } = trial.manifest;
    whole.manifest.course = crate::bundle::Course::Staged(Box::new(crate::bundle::Staged {
        format,
        revision,
        segments,
        materials,
        pods: named.iter().map(|&name| name.to_owned()).collect(),
        step: 0,
        since: Timestamp::UNIX_EPOCH,
        started: Timestamp::UNIX_EPOCH,
        wish: String::new(),
    }));
    whole
}

#[tokio::test]
async fn r156_a_pod_runs_the_second_revision_only_if_it_is_named_and_goes_back_when_told() {
    let pod = Pod::new();
    publication(1, "one").mount(&pod.folder);
    pod.look().await;
    let loaded = pod.live.ack(0).running.unwrap().loaded_at;
    staged(2, "one", "two", &["gw-1"]).mount(&pod.folder);
    pod.look().await;
    assert_eq!(running(&pod.live), (2, "one".to_owned()));
    assert_eq!(pod.live.ack(0).running.unwrap().loaded_at, loaded, "the same revision is not loaded anew");
    staged(3, "one", "two", &["gw-0", "gw-1"]).mount(&pod.folder);
    pod.look().await;
    assert_eq!(running(&pod.live), (3, "two".to_owned()));
    // A rollback is a new sequence with old content.
    publication(4, "one").mount(&pod.folder);
    pod.look().await;
    assert_eq!(running(&pod.live), (4, "one".to_owned()));
    assert_eq!(pod.live.ack(0).highest, Sequence(4));
}

#[tokio::test]
async fn r154_a_new_pod_is_ready_only_with_the_sequence_that_a_controller_has_confirmed() {
    let pod = Pod::new();
    publication(4, "old").mount(&pod.folder);
    pod.look().await;
    assert!(!pod.live.is_ready(), "no controller has said anything yet");
    pod.live.confirm(Sequence(5));
    assert!(!pod.live.is_ready(), "its mount is behind");
    // What the controller says later is no lower, whatever somebody restored.
    pod.live.confirm(Sequence(3));
    assert!(!pod.live.is_ready());
    publication(5, "new").mount(&pod.folder);
    pod.look().await;
    assert!(pod.live.is_ready());
    // Ready stays ready while a newer one is on its way.
    pod.live.confirm(Sequence(6));
    assert!(pod.live.is_ready());
}

#[tokio::test]
async fn r154_a_restarted_pod_is_not_ready_with_an_older_revision_and_says_how_far_it_was() {
    let pod = Pod::new();
    publication(7, "seven").mount(&pod.folder);
    pod.look().await;
    let pod = pod.restarted();
    // Somebody restored an old manifest from a backup.
    publication(3, "three").mount(&pod.folder);
    pod.look().await;
    pod.live.confirm(Sequence(3));
    assert!(pod.live.current().is_none() && !pod.live.is_ready());
    let ack = pod.live.ack(0);
    assert_eq!((ack.running, ack.highest), (None, Sequence(7)), "or the controller would never go beyond");
    // A poll that knows less is answered at once.
    let known = crate::gateway::live::Known {
        highest: Some(Sequence(0)),
        refused: Sequence(u64::MAX),
        ..Default::default()
    };
    tokio::time::timeout(Duration::from_secs(5), pod.live.news_for(known)).await.expect("it has news");
    publication(8, "three").mount(&pod.folder);
    pod.look().await;
    pod.live.confirm(Sequence(8));
    assert!(pod.live.is_ready());
    assert_eq!(running(&pod.live), (8, "three".to_owned()));
}

#[tokio::test]
async fn r154_a_pod_that_lost_its_memory_is_held_by_what_the_controller_confirms() {
    let pod = Pod::new();
    publication(7, "seven").mount(&pod.folder);
    pod.look().await;
    fs::remove_file(pod.folder.join("sequence")).unwrap();
    let pod = pod.restarted();
    // Its kubelet still shows what was before.
    publication(6, "six").mount(&pod.folder);
    pod.look().await;
    pod.live.confirm(Sequence(7));
    assert!(!pod.live.is_ready());
}

#[tokio::test]
async fn e14_r154_a_restarted_pod_is_not_ready_with_a_revision_that_it_refuses() {
    let pod = Pod::new();
    publication(1, "one").mount(&pod.folder);
    pod.look().await;
    pod.live.confirm(Sequence(1));
    assert!(pod.live.is_ready());
    // Its pieces do not have the hash that the manifest names.
    let mut broken = publication(2, "two");
    for piece in broken.pieces.values_mut() {
        *piece = zstd::bulk::compress(b"[]", 3).unwrap();
    }
    broken.mount(&pod.folder);
    pod.look().await;
    assert!(pod.live.is_ready(), "mail goes on under the old revision");
    assert_eq!(pod.live.ack(0).refused.map(|nack| nack.sequence), Some(Sequence(2)));
    let pod = pod.restarted();
    pod.look().await;
    pod.live.confirm(Sequence(2));
    assert!(pod.live.current().is_none() && !pod.live.is_ready());
}

#[tokio::test]
async fn a_format_that_the_pod_does_not_read_is_refused_by_name_however_it_comes_and_the_pod_goes_on() {
    let pod = Pod::new();
    publication(1, "one").mount(&pod.folder);
    pod.look().await;
    let newer = |sequence: u64| {
        // Nothing but the head is as this release knows it.
        let head = serde_json::json!({"format": 99, "sequence": sequence, "revision": "00000000000000aa", "parts": {}});
        serde_json::to_vec(&head).unwrap()
    };
    fs::write(pod.folder.join(MANIFEST), newer(2)).unwrap();
    pod.look().await;
    let refused = pod.live.ack(0).refused.expect("a refusal");
    assert_eq!((refused.sequence, refused.reason), (Sequence(2), NackReason::FormatTooNew));
    assert!(refused.message.contains("99"), "{}", refused.message);
    assert!(pod.mount.push(Push { manifest: newer(3), pieces: BTreeMap::new() }, &pod.live).await);
    assert_eq!(pod.live.ack(0).refused.map(|nack| nack.sequence), Some(Sequence(3)));
    assert_eq!(running(&pod.live), (1, "one".to_owned()));
    // Of a staged rollout only those that are named have to read the second revision.
    let mut trial = staged(4, "one", "two", &["gw-0"]);
    if let crate::bundle::Course::Staged(staged) = &mut trial.manifest.course {
        staged.format = 99;
    }
    trial.mount(&pod.folder);
    pod.look().await;
    assert_eq!(pod.live.ack(0).refused.map(|nack| nack.sequence), Some(Sequence(4)));
    assert_eq!(running(&pod.live), (1, "one".to_owned()));
}
