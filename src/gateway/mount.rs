//! The mounted bundle: reads a complete, consistent set from the folders that kubelet keeps, offers it to
//! [`Live`], and watches for the next.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use notify::Watcher;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use crate::bundle::document::READS;
use crate::bundle::manifest::{MANIFEST, SegmentRef, Share};
use crate::bundle::segment::{self, LoadError};
use crate::bundle::{Bundle, Manifest, Materials, Nack, NackReason, Push, Revision, Sequence};
use crate::gateway::live::{Found, Live, Running};

/// Without any event we look this often: the watch may have missed one, and `Live` wants a heartbeat.
const TICK: Duration = Duration::from_millis(500);
/// A set that stays incomplete this long is reported (kubelet writes bundle and secrets one after the other).
const INCOMPLETE: Duration = Duration::from_secs(3);
/// A refusal that the world around us may have cured is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The two folders, and what was found incomplete in them.
pub struct Mount {
    bundle: PathBuf,
    secrets: PathBuf,
    pod: String,
    notes: Mutex<Notes>,
    /// What the controller handed over, until the mount has it too.
    pushed: ArcSwapOption<Pushed>,
    /// Large lists that were read before.
    shelf: segment::Shelf,
}

/// A publication that came directly.
struct Pushed {
    manifest: Manifest,
    bytes: Vec<u8>,
    pieces: BTreeMap<String, Vec<u8>>,
}

/// What earlier looks found, so that the next one neither repeats itself nor gives up.
#[derive(Default)]
struct Notes {
    /// Since when which sequence has been incomplete.
    incomplete: Option<(Sequence, Instant)>,
    /// Which sequence was refused for what, and when.
    refused: Option<(Sequence, NackReason, Instant)>,
}

impl Notes {
    /// Whether offering this sequence once more could end otherwise: a port may be free by now, a bundle that
    /// does not compile stays as it is.
    fn worth_offering(&self, sequence: Sequence) -> bool {
        match self.refused {
            Some((refused, reason, at)) if refused == sequence => {
                reason.may_pass() && at.elapsed() >= TRY_AGAIN
            }
            _ => true,
        }
    }
}

impl Mount {
    pub fn new(bundle: PathBuf, secrets: PathBuf, pod: String) -> Self {
        Self {
            bundle,
            secrets,
            pod,
            notes: Mutex::default(),
            pushed: ArcSwapOption::empty(),
            shelf: segment::Shelf::default(),
        }
    }

    /// Looks once and offers what it finds. Also called by a session that cannot trust the watcher.
    pub async fn refresh(self: &Arc<Self>, live: &Live) {
        let mut notes = self.notes.lock().await;
        let began = Instant::now();
        let this = Arc::clone(self);
        let running = live.current();
        let read = tokio::task::spawn_blocking(move || this.read(running)).await;
        match read.unwrap_or_else(|_| Err(Trouble::Io("the reader panicked".to_owned()))) {
            Ok(Look::New(found)) => {
                notes.incomplete = None;
                let sequence = found.sequence;
                if notes.worth_offering(sequence) {
                    // The refusal is part of the Ack already; we only note when to try again.
                    let refusal = live.offer(*found).await.err();
                    notes.refused = refusal.map(|nack| (sequence, nack.reason, Instant::now()));
                }
            }
            Ok(Look::Renewed { about: About { sequence, revision }, leaving }) => {
                notes.incomplete = None;
                if notes.worth_offering(sequence) {
                    let refusal = live.renew(sequence, &revision, leaving).await.err();
                    notes.refused = refusal.map(|nack| (sequence, nack.reason, Instant::now()));
                }
            }
            Ok(Look::Known) => *notes = Notes::default(),
            Err(Trouble::Missing { about, what, secret }) => {
                let sequence = about.sequence;
                let since = match notes.incomplete {
                    Some((known, since)) if known == sequence => since,
                    _ => notes.incomplete.insert((sequence, Instant::now())).1,
                };
                if since.elapsed() >= INCOMPLETE {
                    let reason = if secret { NackReason::SecretMissing } else { NackReason::CompileFailed };
                    live.refuse(nack(&about, reason, format!("{what} has not arrived in the mount")));
                }
            }
            Err(Trouble::TooNew { about, message }) => {
                live.refuse(nack(&about, NackReason::FormatTooNew, message));
            }
            Err(Trouble::Damaged { about, message }) => {
                live.refuse(nack(&about, NackReason::CompileFailed, message));
            }
            Err(Trouble::Nothing) => {}
            Err(Trouble::Io(message)) => tracing::warn!(%message, "cannot read the mounted bundle"),
        }
        live.beat(began);
    }

    /// Takes what the controller hands over and offers it at once. `false`: these bytes are no publication.
    pub async fn push(self: &Arc<Self>, push: Push, live: &Live) -> bool {
        let Push { manifest: bytes, mut pieces } = push;
        let read = |_: &str| Ok(Some(bytes.clone()));
        let manifest = match segment::read_manifest(&read) {
            Ok(manifest) => manifest,
            Err(LoadError::FormatTooNew { found, sequence, revision }) => {
                let about = About { sequence, revision };
                live.refuse(nack(&about, NackReason::FormatTooNew, too_new(found)));
                return true;
            }
            Err(_) => return false,
        };
        // What came before and is still named may not be in the mount either.
        if let Some(before) = self.pushed.load_full() {
            if before.manifest.sequence > manifest.sequence {
                return true;
            }
            let named = manifest.all_segments().flat_map(SegmentRef::keys);
            for key in named.filter(|key| !pieces.contains_key(key)).collect::<Vec<_>>() {
                if let Some(piece) = before.pieces.get(&key) {
                    pieces.insert(key, piece.clone());
                }
            }
        }
        self.pushed.store(Some(Arc::new(Pushed { manifest, bytes, pieces })));
        self.refresh(live).await;
        true
    }

    /// What was handed over, as long as it is newer than what the mount holds.
    fn ahead(&self) -> Option<Arc<Pushed>> {
        let pushed = self.pushed.load_full()?;
        let mounted = segment::read_manifest(&|name: &str| read_file(&self.bundle, name)).ok();
        if mounted.is_some_and(|mounted| mounted.sequence >= pushed.manifest.sequence) {
            self.pushed.compare_and_swap(&pushed, None);
            return None;
        }
        Some(pushed)
    }

    /// Reads what was handed over or what the folders hold now, as far as it is for this pod.
    fn read(&self, running: Option<Arc<Running>>) -> Result<Look, Trouble> {
        let ahead = self.ahead();
        let file = |name: &str| match &ahead {
            Some(pushed) if name == MANIFEST => Ok(Some(pushed.bytes.clone())),
            Some(pushed) if pushed.pieces.contains_key(name) => Ok(pushed.pieces.get(name).cloned()),
            _ => read_file(&self.bundle, name),
        };
        let manifest = match segment::read_manifest(&file) {
            Ok(manifest) => manifest,
            Err(LoadError::Incomplete(_)) => return Err(Trouble::Nothing),
            Err(LoadError::FormatTooNew { found, sequence, revision }) => {
                return Err(Trouble::TooNew { about: About { sequence, revision }, message: too_new(found) });
            }
            Err(error) => return Err(Trouble::Io(error.to_string())),
        };
        let Share { format, revision, segments, materials: versions } = manifest.share(&self.pod);
        let about = About { sequence: manifest.sequence, revision: revision.clone() };
        let leaving = manifest.leaving.contains(&self.pod);
        if running.as_ref().is_some_and(|running| running.sequence == manifest.sequence) {
            return Ok(Look::Known);
        }
        if !READS.contains(&format) {
            return Err(Trouble::TooNew { about, message: too_new(format) });
        }
        let mut materials = Materials::default();
        for version in versions {
            match read_file(&self.secrets, &version.file_name()) {
                Ok(Some(bytes)) => materials.insert(version.material.clone(), bytes),
                Ok(None) => {
                    let material = &version.material;
                    let what = format!("{:?} {}/{}", material.kind, material.namespace, material.name);
                    return Err(Trouble::Missing { about, what, secret: true });
                }
                Err(error) => return Err(Trouble::Io(error.to_string())),
            }
        }
        let runs = |bundle: &Bundle| {
            running.as_ref().is_some_and(|now| now.revision == about.revision && *now.bundle == *bundle)
        };
        match segment::assemble_segments(&self.shelf, segments, &file) {
            Ok(bundle) if runs(&bundle) => Ok(Look::Renewed { about, leaving }),
            Ok(bundle) => Ok(Look::New(Box::new(Found {
                leaving,
                sequence: about.sequence,
                revision: about.revision,
                bundle: Arc::new(bundle),
                materials: Arc::new(materials),
            }))),
            Err(LoadError::Incomplete(what)) => Err(Trouble::Missing { about, what, secret: false }),
            Err(LoadError::Io { what, source }) => Err(Trouble::Io(format!("{what}: {source}"))),
            Err(error) => Err(Trouble::Damaged { message: error.to_string(), about }),
        }
    }

    /// Looks whenever something changed, and every [`TICK`], until `stop`.
    pub async fn watch(self: Arc<Self>, live: Arc<Live>, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        // Watching begins before the first look, so that no change falls between the two.
        let _watcher = self.watcher(Arc::clone(&changed));
        loop {
            self.refresh(&live).await;
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(TICK) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Without one (no inotify instances left, say) the ticks alone keep us up to date.
    fn watcher(&self, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let told = move |_| changed.notify_one();
        let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
            // kubelet swaps the `..data` link in the folder itself, so its entries are enough.
            watcher.watch(&self.bundle, notify::RecursiveMode::NonRecursive)?;
            watcher.watch(&self.secrets, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        watcher.inspect_err(|error| tracing::warn!(%error, "no file events: looking every 500 ms")).ok()
    }
}

/// Which publication, as far as this pod is concerned.
struct About {
    sequence: Sequence,
    revision: Revision,
}

/// What a look found.
enum Look {
    /// It runs already.
    Known,
    /// What runs, under a further sequence.
    Renewed {
        about: About,
        leaving: bool,
    },
    New(Box<Found>),
}

/// Why there is no bundle to offer.
enum Trouble {
    /// No manifest at all: nothing was published yet.
    Nothing,
    Missing {
        about: About,
        what: String,
        secret: bool,
    },
    TooNew {
        about: About,
        message: String,
    },
    Damaged {
        about: About,
        message: String,
    },
    Io(String),
}

fn too_new(found: u32) -> String {
    format!("the bundle has format {found}; this gateway reads {READS:?}: upgrade its image")
}

fn nack(about: &About, reason: NackReason, message: String) -> Nack {
    let About { sequence, revision } = about;
    Nack { sequence: *sequence, revision: revision.clone(), reason, message, object: None }
}

fn read_file(folder: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(folder.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
