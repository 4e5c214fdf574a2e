//! The next publication of a bundle: which ConfigMap gets which segment, and the manifest that makes the
//! set valid. Pure.
//!
//! The API server holds one complete set at every moment: segments are written first, and never over one
//! that the published manifest names; the manifest is written last. A small change fits beside the manifest
//! and is one single write.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::bundle::manifest::{Halted, SegmentRef};
use crate::bundle::material::MaterialVersion;
use crate::bundle::segment::{Segment, piece_key};
use crate::bundle::{Course, Manifest, Revision, Sequence, Staged};

use super::BUNDLE_MAPS;
use super::shelves::{Full, Room, Shelves, place};

/// Segments per ConfigMap: below the 1 MiB that the API server allows, two whole pieces.
pub const ROOM: Room = Room { shelves: BUNDLE_MAPS, bytes: 980 << 10, first: 256 << 10 };

/// What is published now.
#[derive(Debug, Clone, Default)]
pub struct Published {
    pub manifest: Option<Manifest>,
    /// What stands in each ConfigMap, named by the manifest or not.
    pub shelves: Shelves,
    /// No sequence up to this one may be used again, whatever the manifest says.
    pub floor: Sequence,
    /// A pod runs another revision under the manifest's sequence ([`rollout::contested`](super::super::rollout)).
    pub contested: bool,
    /// Every pod has acknowledged the published manifest, so nothing else needs to stay.
    pub settled: bool,
    /// Pods that are to leave: the next manifest names them.
    pub leaving: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub struct Plan {
    pub manifest: Manifest,
    /// In the order of writing: the map with the manifest, number 0, comes last and is always there.
    pub writes: Vec<Write>,
}

/// What changes in one ConfigMap.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub number: u8,
    pub add: BTreeMap<String, Vec<u8>>,
    pub remove: Vec<String>,
}

/// What is to be published.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What the segments are written in.
    pub format: u32,
    pub segments: Vec<Segment>,
    /// Sorted.
    pub materials: Vec<MaterialVersion>,
    /// Some pods only, beside what is published; `None`: all pods.
    pub stage: Option<Stage>,
}

/// Which pods get a revision first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub pods: Vec<String>,
    pub step: u32,
    pub since: Timestamp,
    pub started: Timestamp,
    pub wish: String,
}

impl Wanted {
    pub fn revision(&self) -> Revision {
        Revision::of(self.format, &self.segments, &self.materials)
    }
}

/// Plans a publication. `None`: just this is published already.
pub fn plan(published: &Published, wanted: Wanted, now: Timestamp) -> Result<Option<Plan>, Full> {
    let revision = wanted.revision();
    let Wanted { format, segments, materials, stage } = wanted;
    let leaving = published.leaving.clone();
    let last = published.manifest.as_ref();
    let same = |manifest: &Manifest| {
        manifest.leaving == leaving
            && match (&stage, manifest.staged()) {
                (None, _) => manifest.publishes(&revision),
                (Some(stage), Some(staged)) => {
                    staged.revision == revision && (&staged.pods, staged.step) == (&stage.pods, stage.step)
                }
                (Some(_), None) => false,
            }
    };
    if last.is_some_and(same) && stands(published) {
        return Ok(None);
    }
    // What all pods run stays where it is, beside what some are to try.
    let former = last.filter(|_| stage.is_some());
    let pieces = pieces(published, segments);
    let named = named(published);
    let placement = if published.settled {
        place(&published.shelves, &pieces.sizes, &named, ROOM)?
    } else {
        // A pod may still be reading an older set: leave it all, as long as there is room.
        let everything = published.shelves.0.values().flat_map(|contents| contents.keys().cloned()).collect();
        place(&published.shelves, &pieces.sizes, &everything, ROOM)
            .or_else(|_| place(&published.shelves, &pieces.sizes, &named, ROOM))?
    };
    let refs = pieces.segments.into_iter().map(|(name, hash, keys)| {
        let places = keys.iter().map(|key| placement.places[key]).collect();
        SegmentRef { name, hash, places }
    });
    let refs: Vec<SegmentRef> = refs.collect();
    let (sequence, published_at) = (next_sequence(published), now);
    let manifest = match (former, stage) {
        (Some(former), Some(stage)) => {
            let Stage { pods, step, since, started, wish } = stage;
            let segments = refs;
            let staged = Staged { format, revision, segments, materials, pods, step, since, started, wish };
            let course = Course::Staged(Box::new(staged));
            Manifest { sequence, published_at, leaving, course, ..former.clone() }
        }
        _ => Manifest {
            format,
            sequence,
            revision,
            published_at,
            segments: refs,
            materials,
            leaving,
            course: Course::Whole,
        },
    };
    let mut content = pieces.content;
    let mut writes: Vec<Write> = placement
        .add
        .into_iter()
        .map(|(number, keys)| Write {
            number,
            add: keys.into_iter().filter_map(|key| content.remove_entry(&key)).collect(),
            remove: placement.remove.get(&number).cloned().unwrap_or_default(),
        })
        .collect();
    if !writes.iter().any(|write| write.number == 0) {
        let remove = placement.remove.get(&0).cloned().unwrap_or_default();
        writes.push(Write { number: 0, remove, ..Write::default() });
    }
    writes.sort_by_key(|write| u8::MAX - write.number);
    Ok(Some(Plan { manifest, writes }))
}

/// Takes the second revision of a staged rollout back: one write. `None`: there is nothing to take back.
pub fn withdraw(published: &Published, halted: Halted, now: Timestamp) -> Option<Plan> {
    let last = published.manifest.as_ref().filter(|manifest| manifest.staged().is_some())?;
    let manifest = Manifest {
        sequence: next_sequence(published),
        published_at: now,
        leaving: published.leaving.clone(),
        course: Course::Halted(halted),
        ..last.clone()
    };
    Some(Plan { manifest, writes: vec![Write::default()] })
}

struct Pieces {
    /// Name, hash and keys of each segment.
    segments: Vec<(String, String, Vec<String>)>,
    sizes: BTreeMap<String, usize>,
    content: BTreeMap<String, Vec<u8>>,
}

/// A segment whose content is published already keeps its stored pieces: another version of the compressor
/// could cut it differently.
fn pieces(published: &Published, segments: Vec<Segment>) -> Pieces {
    let stored: BTreeMap<&str, &SegmentRef> =
        published.manifest.iter().flat_map(Manifest::all_segments).map(|s| (s.hash.as_str(), s)).collect();
    let mut all = Pieces { segments: Vec::new(), sizes: BTreeMap::new(), content: BTreeMap::new() };
    for segment in segments {
        let (name, hash) = (segment.name.clone(), segment.hash.clone());
        let sizes: Option<BTreeMap<String, usize>> = stored.get(hash.as_str()).and_then(|segment| {
            segment
                .keys()
                .zip(&segment.places)
                .map(|(key, place)| published.size(*place, &key).map(|s| (key, s)))
                .collect()
        });
        let keys = match sizes {
            Some(sizes) => {
                let count = sizes.len();
                all.sizes.extend(sizes);
                (0..count).map(|piece| piece_key(&hash, piece)).collect()
            }
            None => {
                let pieces = segment.pieces();
                let keys: Vec<String> = (0..pieces.len()).map(|piece| piece_key(&hash, piece)).collect();
                for (key, bytes) in keys.iter().zip(pieces) {
                    all.sizes.insert(key.clone(), bytes.len());
                    all.content.insert(key.clone(), bytes);
                }
                keys
            }
        };
        all.segments.push((name, hash, keys));
    }
    all
}

impl Published {
    /// Whether what pods say of their sequences can be about the published manifest.
    pub fn is_newest(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.sequence >= self.floor) && !self.contested
    }

    fn size(&self, place: u8, key: &str) -> Option<usize> {
        self.shelves.0.get(&place)?.get(key).copied()
    }
}

/// Whether what is published is whole and the newest that there was.
pub fn stands(published: &Published) -> bool {
    published.is_newest() && is_complete(published)
}

/// Everything the manifest names is where it says; somebody may have edited or deleted a ConfigMap.
fn is_complete(published: &Published) -> bool {
    published.manifest.iter().flat_map(Manifest::all_segments).all(|segment| {
        segment.keys().zip(&segment.places).all(|(key, place)| published.size(*place, &key).is_some())
    })
}

/// Keys that the published manifest names: they must stay until the next one is written.
fn named(published: &Published) -> BTreeSet<String> {
    published
        .manifest
        .iter()
        .flat_map(Manifest::all_segments)
        .flat_map(|segment| segment.keys().collect::<Vec<_>>())
        .collect()
}

/// One more than ever before.
fn next_sequence(published: &Published) -> Sequence {
    let last = published.manifest.as_ref().map_or(Sequence(0), |manifest| manifest.sequence);
    last.max(published.floor).next()
}

impl Plan {
    /// Books a write that was done.
    pub fn book(shelves: &mut Shelves, write: &Write) {
        let add = write.add.iter().map(|(key, bytes)| (key.clone(), bytes.len()));
        shelves.book(write.number, add, &write.remove);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::document::FORMAT;
    use crate::bundle::manifest::HaltCause;

    fn segment(name: &str, content: &str, size: usize) -> Segment {
        // Bytes that no compressor makes smaller.
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(content.as_bytes()).finalize_xof().fill(&mut bytes);
        Segment::of_bytes(name.to_owned(), bytes)
    }

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    /// For all pods.
    fn all(segments: Vec<Segment>) -> Wanted {
        Wanted { format: FORMAT, segments, ..Wanted::default() }
    }

    /// Carries a plan out.
    fn publish(published: &mut Published, segments: Vec<Segment>) -> Plan {
        let plan = plan(published, all(segments), now()).unwrap().expect("something new");
        for write in &plan.writes {
            Plan::book(&mut published.shelves, write);
        }
        published.manifest = Some(plan.manifest.clone());
        plan
    }

    #[test]
    fn one_changed_segment_is_one_write_beside_the_manifest() {
        let mut published = Published::default();
        publish(&mut published, vec![segment("gateway", "g", 10), segment("rules-0", "a", 10)]);
        let plan = publish(&mut published, vec![segment("gateway", "g", 10), segment("rules-0", "b", 10)]);
        assert_eq!(plan.writes.len(), 1);
        assert_eq!((plan.writes[0].number, plan.writes[0].add.len()), (0, 1));
    }

    #[test]
    fn the_manifest_is_written_after_every_segment() {
        let mut published = Published::default();
        let big = segment("rules-0", "a", 400 << 10);
        let plan = publish(&mut published, vec![segment("gateway", "g", 10), big]);
        let order: Vec<u8> = plan.writes.iter().map(|write| write.number).collect();
        assert_eq!(order, [1, 0]);
    }

    #[test]
    fn equal_content_is_published_once() {
        let mut published = Published::default();
        publish(&mut published, vec![segment("gateway", "g", 10)]);
        assert_eq!(plan(&published, all(vec![segment("gateway", "g", 10)]), now()), Ok(None));
    }

    #[test]
    fn a_pod_that_is_to_leave_is_told_by_a_publication_of_the_same_revision() {
        let mut published = Published::default();
        let first = publish(&mut published, vec![segment("gateway", "g", 10)]);
        published.leaving = vec!["default-2".to_owned()];
        let told = publish(&mut published, vec![segment("gateway", "g", 10)]);
        assert_eq!(
            (&told.manifest.leaving, &told.manifest.revision),
            (&published.leaving, &first.manifest.revision)
        );
        assert_eq!(told.manifest.sequence, first.manifest.sequence.next());
        assert_eq!(plan(&published, all(vec![segment("gateway", "g", 10)]), now()), Ok(None));
    }

    #[test]
    fn what_somebody_deleted_is_published_again_under_a_new_sequence() {
        let mut published = Published::default();
        let first = publish(&mut published, vec![segment("gateway", "g", 10)]);
        published.shelves.0.clear();
        let again = publish(&mut published, vec![segment("gateway", "g", 10)]);
        assert_eq!(again.writes[0].add.len(), 1);
        assert_eq!(again.manifest.revision, first.manifest.revision);
        assert!(again.manifest.sequence > first.manifest.sequence);
    }

    #[test]
    fn the_sequence_rises_above_everything_pods_have_seen() {
        let mut published = Published::default();
        let first = publish(&mut published, vec![segment("gateway", "a", 10)]).manifest.sequence;
        assert_eq!(
            publish(&mut published, vec![segment("gateway", "b", 10)]).manifest.sequence,
            first.next()
        );
        // The manifest was restored from a backup: same content, but pods are further.
        published.floor = Sequence(first.0 + 100);
        assert_eq!(
            publish(&mut published, vec![segment("gateway", "b", 10)]).manifest.sequence.0,
            first.0 + 101
        );
    }

    #[test]
    fn a_sequence_that_a_pod_knows_for_something_else_is_given_up() {
        let mut published = Published::default();
        let first = publish(&mut published, vec![segment("gateway", "a", 10)]);
        published.contested = true;
        let again = publish(&mut published, vec![segment("gateway", "a", 10)]);
        assert_eq!(again.manifest.revision, first.manifest.revision);
        assert_eq!(again.manifest.sequence, first.manifest.sequence.next());
    }

    #[test]
    fn old_segments_leave_only_when_every_pod_has_the_new_ones() {
        let mut published = Published::default();
        publish(&mut published, vec![segment("gateway", "a", 10)]);
        let unsettled = publish(&mut published, vec![segment("gateway", "b", 10)]);
        assert!(unsettled.writes[0].remove.is_empty());
        published.settled = true;
        let settled = publish(&mut published, vec![segment("gateway", "c", 10)]);
        assert_eq!(settled.writes[0].remove.len(), 1, "a goes, b is what the published manifest names");
    }

    #[test]
    fn too_large_a_bundle_is_refused_with_numbers_and_changes_nothing() {
        let mut published = Published::default();
        publish(&mut published, vec![segment("gateway", "a", 10)]);
        let before = published.shelves.clone();
        let piece = |n: u8| segment(&format!("rules-{n}"), &char::from(n).to_string(), 480 << 10);
        let full = plan(&published, all((1..65).map(piece).collect()), now()).expect_err("too large");
        assert!(full.wanted > full.free && full.total == ROOM.total());
        assert_eq!(published.shelves, before);
    }

    fn stage(pods: &[&str], step: u32) -> Stage {
        let pods = pods.iter().map(|&pod| pod.to_owned()).collect();
        Stage { pods, step, since: now(), started: now(), wish: "w".to_owned() }
    }

    fn carry_out(published: &mut Published, plan: Plan) -> Manifest {
        for write in &plan.writes {
            Plan::book(&mut published.shelves, write);
        }
        published.manifest = Some(plan.manifest.clone());
        plan.manifest
    }

    #[test]
    fn a_stage_names_two_revisions_and_both_are_complete_until_one_is_left() {
        let mut published = Published::default();
        let first = publish(&mut published, vec![segment("gateway", "g", 10), segment("rules-0", "a", 10)]);
        published.settled = true;
        let wanted =
            |stage| Wanted { stage, ..all(vec![segment("gateway", "g", 10), segment("rules-0", "b", 10)]) };
        let plan_of = |published: &Published, stage| plan(published, wanted(stage), now()).unwrap();
        let plan1 = plan_of(&published, Some(stage(&["gw-0"], 0))).expect("new");
        assert_eq!(plan1.writes.len(), 1, "one changed segment and the manifest");
        let staged = carry_out(&mut published, plan1);
        assert_eq!(staged.revision, first.manifest.revision);
        assert_eq!(staged.share("gw-1").revision, &first.manifest.revision);
        assert_eq!(staged.share("gw-0").revision, &wanted(None).revision());
        assert!(is_complete(&published));
        assert_eq!(plan_of(&published, Some(stage(&["gw-0"], 0))), None, "it is published");
        published.settled = true;
        let next = plan_of(&published, Some(stage(&["gw-0", "gw-1"], 1))).expect("a further step");
        assert!(next.writes[0].add.is_empty() && next.writes[0].remove.is_empty());
        let next = carry_out(&mut published, next);
        assert_eq!(next.sequence, staged.sequence.next());

        // Taken back: every pod runs the former one, under a sequence of its own.
        let mut back = published.clone();
        let halted = Halted {
            revision: wanted(None).revision(),
            wish: "w".to_owned(),
            at: now(),
            cause: HaltCause::Refused,
            message: "why".to_owned(),
        };
        let plan3 = withdraw(&back, halted.clone(), now()).expect("there is a stage");
        let manifest = carry_out(&mut back, plan3);
        assert_eq!(manifest.share("gw-0").revision, &first.manifest.revision);
        assert_eq!((manifest.sequence, manifest.halted()), (next.sequence.next(), Some(&halted)));
        assert_eq!(withdraw(&back, halted, now()), None);
        let again = plan(&back, all(vec![segment("gateway", "g", 10), segment("rules-0", "a", 10)]), now());
        let again = again.unwrap().expect("the halt is over when its author wants what runs");
        assert_eq!(again.manifest.course, Course::Whole);

        // Or it goes to all.
        published.settled = true;
        let whole = plan_of(&published, None).expect("the last step");
        assert!(whole.writes[0].add.is_empty(), "its pieces are there");
        let whole = carry_out(&mut published, whole);
        assert_eq!((whole.revision, whole.course), (wanted(None).revision(), Course::Whole));
        assert!(is_complete(&published));
    }
}
