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
