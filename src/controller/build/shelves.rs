//! Where things go that many small objects hold together: bundle segments in ConfigMaps, copies of secrets
//! in Secrets. Pure. One promise matters: what a published manifest names is never overwritten or taken
//! away while a pod could still want to read it.

use std::collections::{BTreeMap, BTreeSet};

/// What fills one object: keys, and the bytes each takes.
pub type Contents = BTreeMap<String, usize>;

/// The objects of one gateway and what they hold, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shelves(pub BTreeMap<u8, Contents>);

/// How many objects there may be, and how much goes into each.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub shelves: u8,
    pub bytes: usize,
    /// Room on shelf 0, which is written at every publication and so is kept small.
    pub first: usize,
}

impl Room {
    fn of(&self, shelf: u8) -> usize {
        if shelf == 0 { self.first } else { self.bytes }
    }

    pub fn total(&self) -> usize {
        (0..self.shelves).map(|shelf| self.of(shelf)).sum()
    }
}

/// What to write so that everything wanted stands somewhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The shelf of each wanted key.
    pub places: BTreeMap<String, u8>,
    /// Keys to add, by shelf.
    pub add: BTreeMap<u8, Vec<String>>,
    /// Keys that may go when that shelf is written anyway, or when room is needed.
    pub remove: BTreeMap<u8, Vec<String>>,
}

/// It does not fit: `wanted` bytes are to be placed anew, the largest gap left is `gap`, all gaps `free`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    pub wanted: usize,
    pub free: usize,
    pub total: usize,
}

/// Finds a place for each of `wanted` (key → bytes). `keep` names what must stay although it is not wanted
/// any more: the keys of manifests that pods may still read.
pub fn place(
    shelves: &Shelves,
    wanted: &BTreeMap<String, usize>,
    keep: &BTreeSet<String>,
    room: Room,
) -> Result<Placement, Full> {
    let mut placement = Placement::default();
    let mut used: Vec<usize> = vec![0; room.shelves.into()];
    for (&shelf, contents) in &shelves.0 {
        for (key, bytes) in contents {
            let first_copy = wanted.contains_key(key) && !placement.places.contains_key(key);
            if first_copy && shelf < room.shelves {
                placement.places.insert(key.clone(), shelf);
            }
            if first_copy || keep.contains(key) {
                if let Some(used) = used.get_mut(usize::from(shelf)) {
                    *used += bytes;
                }
            } else {
                placement.remove.entry(shelf).or_default().push(key.clone());
            }
        }
    }
    // Largest first wastes least; then by name, so that equal input gives equal output.
    let mut missing: Vec<(&String, usize)> = wanted
        .iter()
        .filter(|(key, _)| !placement.places.contains_key(*key))
        .map(|(key, &bytes)| (key, bytes))
        .collect();
    missing.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    for &(key, bytes) in &missing {
        let fits = |shelf: &u8| used[usize::from(*shelf)] + bytes <= room.of(*shelf);
        let Some(shelf) = (0..room.shelves).find(fits) else {
            let free =
                (0..room.shelves).map(|s| room.of(s).saturating_sub(used[usize::from(s)])).sum::<usize>();
            let wanted = wanted.values().sum();
            return Err(Full { wanted, free, total: room.total() });
        };
        used[usize::from(shelf)] += bytes;
        placement.places.insert(key.clone(), shelf);
        placement.add.entry(shelf).or_default().push(key.clone());
    }
    Ok(placement)
}

impl Shelves {
    /// Books a write: keys added to and removed from one shelf.
    pub fn book(&mut self, shelf: u8, add: impl IntoIterator<Item = (String, usize)>, remove: &[String]) {
        let contents = self.0.entry(shelf).or_default();
        for key in remove {
            contents.remove(key);
        }
        contents.extend(add);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room { shelves: 4, bytes: 100, first: 30 };

    fn keys(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
        list.iter().map(|&(key, bytes)| (key.to_owned(), bytes)).collect()
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|&key| key.to_owned()).collect()
    }

    #[test]
    fn a_small_change_is_written_together_with_the_manifest() {
        let placement = place(&Shelves::default(), &keys(&[("a", 10)]), &names(&[]), ROOM).unwrap();
        assert_eq!(placement.add, BTreeMap::from([(0, vec!["a".to_owned()])]));
    }

    #[test]
    fn what_a_published_manifest_names_stays_and_the_rest_makes_room() {
        let shelves =
            Shelves(BTreeMap::from([(0, keys(&[("old", 30)])), (1, keys(&[("dead", 90), ("live", 10)]))]));
        let placement = place(&shelves, &keys(&[("live", 10), ("new", 80)]), &names(&["old"]), ROOM).unwrap();
        assert_eq!(placement.places, BTreeMap::from([("live".to_owned(), 1), ("new".to_owned(), 1)]));
        assert_eq!(placement.remove, BTreeMap::from([(1, vec!["dead".to_owned()])]));
    }

    #[test]
    fn too_much_is_refused_with_numbers() {
        let wanted = keys(&[("a", 90), ("b", 90), ("c", 90), ("d", 90)]);
        let full = place(&Shelves::default(), &wanted, &names(&[]), ROOM).unwrap_err();
        assert_eq!(full, Full { wanted: 360, free: 60, total: 330 });
    }

    fn some_keys() -> impl Strategy<Value = BTreeMap<String, usize>> {
        prop::collection::btree_map("[a-j]", 1..40usize, 0..8)
    }

    proptest! {
        /// Publications follow each other, some acknowledged and some not: at every moment everything the
        /// last manifest names stands where the manifest says, and no shelf is overfull.
        #[test]
        fn a_named_segment_is_never_overwritten(rounds in prop::collection::vec((some_keys(), any::<bool>()), 1..12)) {
            let mut shelves = Shelves::default();
            let mut published: BTreeMap<String, u8> = BTreeMap::new();
            for (wanted, acked) in rounds {
                // The size of a key is its content's; content and key never part.
                let wanted: BTreeMap<String, usize> =
                    wanted.into_keys().map(|key| { let bytes = usize::from(key.as_bytes()[0] - b'a') * 4 + 3; (key, bytes) }).collect();
                let mut keep: BTreeSet<String> = published.keys().cloned().collect();
                if !acked {
                    keep.extend(shelves.0.values().flat_map(|contents| contents.keys().cloned()));
                }
                let Ok(placement) = place(&shelves, &wanted, &keep, ROOM) else { continue };
                for (&shelf, add) in &placement.add {
                    let remove = placement.remove.get(&shelf).cloned().unwrap_or_default();
                    let before = shelves.0.get(&shelf).cloned().unwrap_or_default();
                    for key in add {
                        prop_assert!(!before.contains_key(key) || remove.contains(key));
                    }
                    shelves.book(shelf, add.iter().map(|key| (key.clone(), wanted[key])), &remove);
                    for (key, place) in &published {
                        prop_assert!(shelves.0[place].contains_key(key), "{key} left {place} before the manifest changed");
                    }
                    prop_assert!(shelves.0[&shelf].values().sum::<usize>() <= ROOM.of(shelf));
                }
                for (key, place) in &placement.places {
                    prop_assert!(shelves.0[place].contains_key(key));
                }
                published = placement.places;
            }
        }
    }
}
