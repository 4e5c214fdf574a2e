//! A disk in memory that forgets what was not synced when its power is cut, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use super::super::shared::lock;
use super::super::store::{File, Mapping, Space, Store};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub struct Sim(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    files: Vec<Bytes>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    aside: Vec<(String, Vec<u8>)>,
    operations: u64,
    /// The operation before which the power goes.
    cut_at: Option<u64>,
    /// Syncs that will fail, by the number of the operation.
    failing: BTreeSet<u64>,
    read_only: bool,
    full: bool,
}

#[derive(Clone, Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

/// Chance that can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How likely it is that something unsynced is there after a power cut, in sixteenths.
#[derive(Clone, Copy)]
struct Luck(u64);

impl Luck {
    fn any(dice: &mut Dice) -> Luck {
        Luck([0, 1, 4, 8, 8, 12, 15, 16][dice.below(8) as usize])
    }

    fn holds(self, dice: &mut Dice) -> bool {
        dice.below(16) < self.0
    }
}

impl Sim {
    pub fn cut_power_at(&self, operation: u64) {
        let mut world = lock(&self.0);
        world.cut_at = Some(world.operations + operation);
    }

    pub fn do_not_cut_power(&self) {
        lock(&self.0).cut_at = None;
    }

    pub fn fail_syncs_at(&self, operations: impl IntoIterator<Item = u64>) {
        let mut world = lock(&self.0);
        let now = world.operations;
        world.failing.extend(operations.into_iter().map(|operation| now + operation));
    }

    pub fn set_read_only(&self, read_only: bool) {
        lock(&self.0).read_only = read_only;
    }

    pub fn set_full(&self, full: bool) {
        lock(&self.0).full = full;
    }

    pub fn set_aside_count(&self) -> usize {
        lock(&self.0).aside.len()
    }

    /// The disk after a power cut: of what was not synced, each sector and each name is there or not
    /// as chance will have it; at times almost all of it, at times almost nothing, as with disks that
    /// write back lazily or in another order.
    pub fn after_power_cut(&self, dice: &mut Dice) -> Sim {
        let world = lock(&self.0);
        let luck = Luck::any(dice);
        let mut next = World { aside: world.aside.clone(), ..World::default() };
        let names: BTreeSet<&String> = world.names.keys().chain(world.durable_names.keys()).collect();
        for name in names {
            let (now, durable) = (world.names.get(name), world.durable_names.get(name));
            let Some(&file) = (if luck.holds(dice) { now } else { durable }) else { continue };
            next.add(name, world.files[file].torn(luck, dice));
        }
        Sim(Arc::new(Mutex::new(next)))
    }

    /// The disk after a power cut that took all that was not synced.
    pub fn after_worst_power_cut(&self) -> Sim {
        let world = lock(&self.0);
        let mut next = World { aside: world.aside.clone(), ..World::default() };
        for (name, file) in &world.durable_names {
            next.add(name, world.files[*file].durable.clone());
        }
        Sim(Arc::new(Mutex::new(next)))
    }

    /// The disk after the process was killed: all that was written is there.
    pub fn after_kill(&self) -> Sim {
        let world = lock(&self.0);
        let mut next = World { aside: world.aside.clone(), ..World::default() };
        for (name, file) in &world.names {
            let bytes = world.files[*file].clone();
            next.names.insert(name.clone(), next.files.len());
            if world.durable_names.get(name) == Some(file) {
                next.durable_names.insert(name.clone(), next.files.len());
            }
            next.files.push(bytes);
        }
        Sim(Arc::new(Mutex::new(next)))
    }

    /// Files that were ever made.
    pub fn made(&self) -> usize {
        lock(&self.0).files.len()
    }

    pub fn names(&self) -> Vec<String> {
        lock(&self.0).names.keys().cloned().collect()
    }

    /// Changes a file behind the spool's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = lock(&self.0);
        let file = world.names[name];
        change(&mut world.files[file].now);
        world.files[file].settle();
    }
}

impl World {
    /// One more operation; None when there is no power any more.
    fn power(&mut self) -> io::Result<u64> {
        self.operations += 1;
        match self.cut_at {
            Some(cut) if self.operations >= cut => Err(io::Error::other("no power")),
            _ => Ok(self.operations),
        }
    }

    fn writable(&mut self) -> io::Result<u64> {
        let operation = self.power()?;
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(operation) }
    }

    fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.names.insert(name.to_owned(), self.files.len());
        self.durable_names.insert(name.to_owned(), self.files.len());
        self.files.push(Bytes { durable: bytes.clone(), now: bytes, dirty: BTreeSet::new() });
    }
}

impl Bytes {
    fn write(&mut self, piece: &[u8], at: usize) {
        if self.now.len() < at + piece.len() {
            self.now.resize(at + piece.len(), 0);
        }
        self.now[at..at + piece.len()].copy_from_slice(piece);
        self.dirty.extend(at / SECTOR..=(at + piece.len().max(1) - 1) / SECTOR);
    }

    fn settle(&mut self) {
        self.durable.clone_from(&self.now);
        self.dirty.clear();
    }

    fn torn(&self, luck: Luck, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if luck.holds(dice) {
            bytes.resize(self.now.len(), 0);
        }
        for sector in &self.dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.now.len());
            if luck.holds(dice) && !range.is_empty() {
                if bytes.len() < range.end {
                    bytes.resize(range.end, 0);
                }
                bytes[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
        bytes
    }
}

impl Store for Sim {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut world = lock(&self.0);
        world.writable()?;
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = world.files.len();
        world.files.push(Bytes::default());
        world.names.insert(name.to_owned(), file);
        Ok(Arc::new(SimFile { sim: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut world = lock(&self.0);
        world.power()?;
        let file = *world.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { sim: self.clone(), file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.writable()?;
        world.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.writable()?;
        let file = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let taken = world.names.insert(to.to_owned(), file);
        assert_eq!(taken, None, "{to} is another file's name");
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let world = lock(&self.0);
        let size = |file: usize| world.files[file].now.len() as u64;
        Ok(world.names.iter().map(|(name, file)| (name.clone(), size(*file))).collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.power()?;
        world.durable_names = world.names.clone();
        Ok(())
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).aside.push((name.to_owned(), bytes.to_vec()));
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let free = if lock(&self.0).full { 0 } else { 1 << 30 };
        Ok(Space { total: 1 << 30, free })
    }
}

struct SimFile {
    sim: Sim,
    file: usize,
}

impl File for SimFile {
    fn write_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut world = lock(&self.sim.0);
        world.writable()?;
        let mut at = offset as usize;
        for piece in pieces {
            world.files[self.file].write(piece, at);
            at += piece.len();
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = lock(&self.sim.0);
        world.power()?;
        let bytes = world.files[self.file].now.get(offset as usize..).unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = lock(&self.sim.0);
        let operation = world.writable()?;
        if world.failing.range(..=operation).next().is_some() {
            world.failing.retain(|at| *at > operation);
            // As Linux does: the pages count as clean and are not on disk.
            world.files[self.file].dirty.clear();
            return Err(io::Error::other("the sync failed"));
        }
        let file = &mut world.files[self.file];
        let mut durable = std::mem::take(&mut file.durable);
        durable.resize(file.now.len(), 0);
        for sector in std::mem::take(&mut file.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(file.now.len());
            if !range.is_empty() {
                durable[range.clone()].copy_from_slice(&file.now[range]);
            }
        }
        file.durable = durable;
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut world = lock(&self.sim.0);
        world.writable()?;
        if world.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.files[self.file].now.resize(len as usize, 0);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = lock(&self.sim.0);
        world.writable()?;
        world.files[self.file].now.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.sim.0).files[self.file].now.len() as u64)
    }

    fn map(&self) -> io::Result<Mapping> {
        let mut world = lock(&self.sim.0);
        world.power()?;
        Ok(Mapping::Copied(world.files[self.file].now.clone()))
    }
}
