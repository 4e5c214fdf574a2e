//! Disks that give back something else than was written.

use proptest::prelude::*;

use super::sim::{Dice, Sim};
use super::*;
use crate::spool::record::Header;
use crate::spool::scan::Scan;

fn open(sim: &Sim) -> Result<(Spool, Recovery), RecoverError> {
    Spool::open_on(Arc::new(sim.clone()), Path::new("/simulated"), &options())
}

fn logs(sim: &Sim) -> Vec<String> {
    sim.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

/// A closed spool with this many messages, one commit each.
async fn filled(messages: u64) -> (Sim, Vec<QueueId>) {
    let sim = Sim::default();
    let (spool, _) = open(&sim).expect("it opens");
    let mut ids = Vec::new();
    for n in 0..messages {
        let mail = submission(&spool, 1, &bytes(n, 3000));
        ids.push(mail.id);
        spool.commit(vec![mail]).await.expect("committed");
    }
    spool.close().await;
    (sim, ids)
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_the_rest_lives() {
    for seed in 0..50 {
        let (sim, ids) = filled(60).await;
        let names = logs(&sim);
        let mut dice = Dice::new(seed);
        let name = &names[dice.below(names.len() as u64 - 1) as usize];
        sim.tamper(name, |bytes| {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] ^= 0x40;
        });
        let (spool, recovery) = open(&sim).expect("damage is not fatal");
        assert!(recovery.damaged <= 1, "seed {seed}: {recovery:?}");
        assert!(recovery.messages >= 59, "seed {seed}: {recovery:?}");
        assert!(recovery.messages == 60 || recovery.damaged == 1, "seed {seed}: lost in silence");
        assert_eq!(sim.set_aside_count(), recovery.damaged, "seed {seed}");
        let known: Vec<QueueId> = spool.list().iter().map(|summary| summary.id).collect();
        for id in &known {
            assert!(ids.contains(id));
            assert!(spool.get(*id).await.expect("it can be read").is_some());
        }
        spool.close().await;
        let (_, again) = open(&sim).expect("it opens");
        assert_eq!(again, Recovery { damaged: 0, ..recovery }, "seed {seed}: damage is counted once");
    }
}

/// Records in the spool's files: of this kind, as (file, segment, offset, header).
fn records(sim: &Sim, kind: u8) -> Vec<(String, u64, u64, Header)> {
    let mut found = Vec::new();
    for name in logs(sim) {
        let number = segment::number(&name).expect("it is a segment");
        let mut scan = Scan::new(sim.open(&name).expect("it is there"), number, u64::MAX).expect("made");
        while let Some((stretch, _)) = scan.next().expect("read") {
            match stretch {
                crate::spool::scan::Found::Record { at, header } if header.kind == kind => {
                    found.push((name.clone(), number, at, header));
                }
                _ => {}
            }
        }
    }
    found
}

/// A closed spool with messages that wait, news of each of them, and room closed by an earlier recovery.
async fn with_every_kind() -> Sim {
    let (sim, ids) = filled(40).await;
    let (spool, _) = open(&sim).expect("it opens");
    for id in ids {
        spool.settle(id, vec![(0, retry_at(1, in_an_hour()))], vec![]).await.expect("settled");
    }
    // Later records witness that those before them were durable: only then is what cannot be read damage,
    // and not the torn end of a log.
    for n in 0..3 {
        spool.commit(vec![submission(&spool, 1, &bytes(n, 300))]).await.expect("committed");
    }
    spool.close().await;
    let (name, _, at, _) = records(&sim, record::FATES).swap_remove(3);
    sim.tamper(&name, |bytes| bytes[at as usize + 50] ^= 1);
    let (spool, recovery) = open(&sim).expect("it opens");
    assert_eq!(recovery, Recovery { messages: 43, damaged: 1 });
    spool.close().await;
    sim
}

#[tokio::test]
async fn damage_to_any_kind_of_record_costs_no_more_than_that_record() {
    let sound = with_every_kind().await;
    for kind in [record::OPENING, record::MESSAGE, record::FATES, record::GAP] {
        let places = records(&sound, kind);
        assert!(!places.is_empty(), "kind {kind}");
        for (name, number, at, header) in places.into_iter().take(3) {
            for garbage in [false, true] {
                let sim = sound.after_kill();
                sim.tamper(&name, |bytes| {
                    let record = &mut bytes[at as usize..(at + header.len()) as usize];
                    if !garbage {
                        record[record::HEADER + 2] ^= 0x10;
                        return;
                    }
                    // Sound in all its checksums, and without any sense.
                    let meta = record::HEADER + header.meta_len as usize;
                    record[record::HEADER..meta].fill(0xFF);
                    let crc = crc32fast::hash(&record[record::HEADER..meta + header.body_len as usize]);
                    record[20..24].copy_from_slice(&crc.to_le_bytes());
                    let place = [number.to_le_bytes(), at.to_le_bytes()].concat();
                    let check = crc32fast::hash(&[&record[..40], &place[..]].concat());
                    record[40..44].copy_from_slice(&check.to_le_bytes());
                });
                let (spool, recovery) = open(&sim).expect("damage is not fatal");
                let what = format!("kind {kind} at {at}, garbage {garbage}: {recovery:?}");
                // Lost news means that a delivery is tried again; only a message's own record is the message.
                let left = if kind == record::MESSAGE { 42 } else { 43 };
                assert_eq!(recovery.messages, left, "{what}");
                assert!(recovery.damaged <= 1, "{what}");
                assert!(kind != record::MESSAGE || recovery.damaged == 1, "lost in silence: {what}");
                assert_eq!(sim.set_aside_count(), sound.set_aside_count() + recovery.damaged, "{what}");
                spool.close().await;
                let (spool, again) = open(&sim).expect("it opens");
                assert_eq!(again, Recovery { damaged: 0, ..recovery }, "counted once: {what}");
                spool.close().await;
            }
        }
    }
}

#[tokio::test]
async fn a_segment_cut_short_loses_its_tail_alone() {
    let (sim, _) = filled(60).await;
    let name = logs(&sim)[1].clone();
    sim.tamper(&name, |bytes| bytes.truncate(bytes.len() / 2 + 3));
    let (spool, recovery) = open(&sim).expect("damage is not fatal");
    assert_eq!(recovery.damaged, 1);
    assert!((40..60).contains(&recovery.messages), "{recovery:?}");
    spool.close().await;
    assert_eq!(open(&sim).expect("it opens").1, Recovery { damaged: 0, ..recovery });
}

#[tokio::test]
async fn a_torn_tail_is_no_damage() {
    let (sim, _) = filled(10).await;
    let name = logs(&sim).pop().expect("there is one");
    let before = open(&sim.after_kill()).expect("it opens").1;
    assert_eq!(before, Recovery { messages: 10, damaged: 0 });
    for cut in 1..200 {
        let sim = sim.after_kill();
        sim.tamper(&name, |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).expect("it is not empty");
            bytes.truncate(end - cut * 13);
        });
        let (_, recovery) = open(&sim).expect("it opens");
        assert_eq!(recovery, Recovery { messages: 9, damaged: 0 }, "{cut}");
    }
}

#[tokio::test]
async fn a_format_from_the_future_stops_the_start() {
    let (sim, _) = filled(3).await;
    let name = logs(&sim)[0].clone();
    sim.tamper(&name, |bytes| bytes[16] = 9);
    let Err(error) = open(&sim).map(|_| ()) else { panic!("it must not open") };
    assert!(
        matches!(&error, RecoverError::UnknownVersion { file, version: 9, .. } if *file == name),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_damaged_content_file_is_not_delivered() {
    let sim = Sim::default();
    let (spool, _) = open(&sim).expect("it opens");
    let mail = submission(&spool, 1, &bytes(1, 400_000));
    let id = mail.id;
    spool.commit(vec![mail]).await.expect("committed");
    spool.close().await;
    let body = sim.names().into_iter().find(|name| name.ends_with(".body")).expect("it is there");
    sim.tamper(&body, |bytes| bytes[300_000] ^= 1);
    let (spool, _) = open(&sim).expect("it opens");
    let due = tokio::time::timeout(Duration::from_millis(100), spool.next_due()).await;
    assert!(due.is_err(), "{due:?}");
    assert!(spool.get(id).await.is_err());
    assert_eq!(spool.len(), 1);
}

/// Spools outlive the program that wrote them. If this fails, the bytes on disk have changed: keep
/// the old form, or raise `segment::VERSION` and read both.
#[test]
fn the_bytes_on_disk_stay_as_they_are() {
    let id = QueueId::from_bytes([7; 16]);
    let head = Head {
        id,
        received_at: entry(2).received_at,
        targets: 2,
        body: Some(record::BodyRef { file: id, len: 300_000, crc: 0xDEAD_BEEF }),
        fates: Some(vec![retry_at(3, long_ago()), Fate::Delivered]),
    };
    let mut message = Record::message(&head, &entry(2), Some(b"content".to_vec().into()));
    message.place((3, 4096), (0, 2), 2, 1024);
    let until = Holding { until: long_ago() };
    let held_head = Head { fates: Some(vec![Fate::Held(until), Fate::Released]), ..head };
    let mut entry = held_entry(2);
    entry.held = entry.held.map(|held| Arc::new(Held { until: long_ago(), ..(*held).clone() }));
    let mut held = Record::message(&held_head, &entry, None);
    held.place((3, 4096), (0, 2), 2, 1024);
    let mut news = record::Record::news(&record::News { id, fates: vec![(1, Fate::Failed)] });
    news.place((3, 8192), (1, 2), 2, 1024);
    let mut opening = Record::opening(vec![(1, 4096), (2, 32)]);
    opening.place((3, 32), (0, 1), 0, 0);
    let hash = |record: &Record| {
        let bytes: Vec<u8> = record.pieces().iter().flat_map(|piece| piece.to_vec()).collect();
        blake3::hash(&bytes).to_hex()[..16].to_owned()
    };
    let front = blake3::hash(&segment::front(3)).to_hex()[..16].to_owned();
    assert_eq!(
        [front, hash(&opening), hash(&message), hash(&held), hash(&news)],
        ["5ebc399d145c6b43", "e4ac794bc1c4e244", "a21bd6414b80b685", "b0bdfd54fda05fc5", "2cf94727bbcbcd95"]
    );
    let mut before = segment::front(3);
    before[16] = 3;
    assert_eq!(
        segment::read_front(&before, 3),
        segment::Front::Good,
        "segments of the version before are read"
    );
}

proptest! {
    #[test]
    fn any_bytes_can_be_scanned(bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in 0usize..4096) {
        let sim = Sim::default();
        let file = sim.create("x").expect("created");
        let mut bytes = bytes;
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&record::MAGIC);
        }
        file.write_at(&mut [io::IoSlice::new(&bytes)], 0).expect("written");
        let mut scan = Scan::new(file, 1, u64::MAX).expect("made");
        while scan.next().expect("read").is_some() {}
    }

    #[test]
    fn records_come_back_as_they_were(
        content in proptest::collection::vec(any::<u8>(), 0..5000),
        targets in 0usize..5,
        at in 0u64..1000,
    ) {
        let head = Head {
            id: QueueId::new(),
            received_at: Timestamp::now(),
            targets: targets as u32,
            body: None,
            fates: Some(vec![Fate::Failed; targets]),
        };
        let mut record = Record::message(&head, &entry(targets), Some(content.clone().into()));
        record.place((7, at * 8), (1, 3), 5, 64);
        let bytes = record.pieces().iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>();
        prop_assert_eq!(bytes.len() as u64, record.len());
        let header = Header::read(&bytes, (7, at * 8)).expect("it is a record");
        prop_assert!(header.verify(&bytes) && header.len() == record.len());
        prop_assert_eq!((header.part, header.parts, header.home, header.synced), (1, 3, 5, 64));
        let (found, rest) = record::decode::<Head>(header.meta(&bytes)).expect("it decodes");
        prop_assert_eq!(found, head);
        prop_assert_eq!(record::decode::<Entry>(rest).expect("it decodes").0, entry(targets));
        prop_assert_eq!(&bytes[header.body()], &content[..]);
        prop_assert_eq!(Header::read(&bytes, (8, at * 8)), None);
    }
}
