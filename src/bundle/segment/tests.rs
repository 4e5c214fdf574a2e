use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::bundle::document::{AccountKind, ListEntry, ObjectKind, Origin, UnitPath, UnknownSenders};
use crate::bundle::manifest::{SegmentRef, Sequence};

fn origin(kind: ObjectKind, name: &str) -> Origin {
    let object = ObjectId { kind, namespace: "d".to_owned(), name: name.to_owned() };
    Origin { object, uid: "u".to_owned(), generation: 1 }
}

fn domain(number: usize) -> String {
    format!("d{:07x}.partner-{}.example", number.wrapping_mul(2_654_435_761) % 0x0fff_ffff, number % 97)
}

fn list(name: &str, domains: impl Iterator<Item = String>) -> AddressList {
    let entries = domains.map(|domain| (ListEntry::Domain(domain.parse().unwrap()), true));
    AddressList { origin: origin(ObjectKind::AddressList, name), entries: ListEntries::build(entries) }
}

fn bundle(lists: Vec<AddressList>) -> Bundle {
    let gateway = Gateway::new(origin(ObjectKind::OutboundGateway, "default"));
    Bundle { lists, ..Bundle::new(gateway) }
}

fn published(segments: &[Segment]) -> (Manifest, BTreeMap<String, Vec<u8>>) {
    let mut pieces = BTreeMap::new();
    let mut refs = Vec::new();
    for segment in segments {
        let own = segment.pieces();
        refs.push(SegmentRef {
            name: segment.name.clone(),
            hash: segment.hash.clone(),
            places: vec![0; own.len()],
        });
        pieces.extend(own.into_iter().enumerate().map(|(n, piece)| (piece_key(&segment.hash, n), piece)));
    }
    let manifest = Manifest {
        format: document::FORMAT,
        sequence: Sequence(1),
        revision: Revision::of(document::FORMAT, segments, &[]),
        published_at: Timestamp::UNIX_EPOCH,
        segments: refs,
        materials: Vec::new(),
        leaving: Vec::new(),
    };
    (manifest, pieces)
}

#[test]
fn lists_and_directories_come_together_again_as_they_were_cut() {
    let mut whole = bundle(vec![
        list("large", (0..20_000).map(domain)),
        list("none", std::iter::empty()),
        list("small", (0..3).map(domain)),
    ]);
    let accounts = (0..5000).map(|number| Account {
        address: format!("user{number:05}@solarmora.com"),
        kind: AccountKind::User(UnitPath("/sales".to_owned())),
        groups: Vec::new(),
    });
    whole.directory = Some(Directory {
        origin: origin(ObjectKind::Directory, "main"),
        units: Vec::new(),
        unknown_senders: UnknownSenders::Refuse,
        accounts: accounts.collect(),
        broken: None,
    });
    let segments = cut(&whole);
    assert!(segments.iter().filter(|segment| segment.name.starts_with(ACCOUNTS)).count() > 4);
    let (manifest, pieces) = published(&segments);
    let shelf = Shelf::default();
    let read = |name: &str| Ok(pieces.get(name).cloned());
    assert_eq!(assemble_with(&shelf, &manifest, &read).unwrap(), whole);
    // What is on the shelf is not read again.
    let shards: Vec<String> = manifest
        .segments
        .iter()
        .filter(|segment| segment.name.starts_with(SHARD))
        .flat_map(SegmentRef::keys)
        .collect();
    let without = |name: &str| {
        let there = !shards.iter().any(|key| key == name);
        Ok(pieces.get(name).filter(|_| there).cloned())
    };
    assert_eq!(assemble_with(&shelf, &manifest, &without).unwrap(), whole);
    assert!(matches!(assemble(&manifest, &without), Err(LoadError::Incomplete(_))));
    // A manifest that leaves one out is no bundle: an exemption or a restriction would be lost.
    let mut torn = manifest.clone();
    let at = torn.segments.iter().position(|segment| segment.name.starts_with(SHARD)).unwrap();
    torn.segments.remove(at);
    assert!(matches!(assemble(&torn, &read), Err(LoadError::Damaged { .. })));
}

#[test]
fn r114_a_million_entries_fit_beside_their_successor_and_one_change_rewrites_one_segment() {
    const MILLION: usize = 1_000_000;
    let before = cut(&bundle(vec![list("large", (0..MILLION).map(domain))]));
    let bytes: usize = before.iter().flat_map(Segment::pieces).map(|piece| piece.len()).sum();
    let largest = before.iter().map(|segment| segment.len()).max().unwrap();
    assert!(largest < 480 << 10, "{} segments, {bytes} bytes compressed, largest {largest}", before.len());
    // 32 ConfigMaps of 980 KiB, and a wholly new revision must find room beside the published one.
    assert!(bytes < 32 * (980 << 10) / 2, "{bytes}");
    let entries = (0..MILLION).map(|n| if n == 123_456 { "changed.example".to_owned() } else { domain(n) });
    let after = cut(&bundle(vec![list("large", entries)]));
    let new = after.iter().filter(|segment| !before.contains(segment)).count();
    assert!((1..=2).contains(&new), "{new} segments changed: at most one lost and one gained an entry");
}

#[test]
fn one_changed_account_rewrites_one_segment() {
    let directory = |unit: &str| Directory {
        origin: origin(ObjectKind::Directory, "main"),
        units: Vec::new(),
        unknown_senders: UnknownSenders::RootUnit,
        accounts: (0..10_000)
            .map(|number| Account {
                address: format!("user{number:05}@solarmora.com"),
                kind: AccountKind::User(UnitPath(if number == 77 {
                    unit.to_owned()
                } else {
                    "/".to_owned()
                })),
                groups: Vec::new(),
            })
            .collect(),
        broken: None,
    };
    let cut_of = |unit| cut(&Bundle { directory: Some(directory(unit)), ..bundle(Vec::new()) });
    let (before, after) = (cut_of("/a"), cut_of("/b"));
    assert_eq!(after.iter().filter(|segment| !before.contains(segment)).count(), 1);
}
