//! Messages as the index keeps them: a million of them must fit into a small pod, so nothing is kept
//! that the disk knows as well, and no table ever has to be copied as a whole while a lock is held.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use jiff::Timestamp;

use super::due::{Place, Warm};
use super::entry::{Fate, Holding, Waiting};
use super::id::QueueId;
use super::record::{ALIGN, BodyRef};
use super::texts::{Text, Texts};

/// One message. Times are nanoseconds since 1970, which reach to the year 2262.
pub(super) struct Item {
    pub id: QueueId,
    place: PackedPlace,
    received_at: i64,
    pub size: u64,
    pub body: Option<Box<BodyRef>>,
    states: States,
    pub warm: Option<Box<Warm>>,
}

#[derive(Clone, Copy)]
struct PackedPlace {
    segment: u64,
    /// In units of [`ALIGN`], at which records begin and end.
    offset: u32,
    len: u32,
}

/// Most messages have one recipient.
enum States {
    One(State),
    Many(Box<[State]>),
}

/// How one recipient stands.
pub(super) struct State {
    /// The next attempt, or the end of the holding.
    at: i64,
    error: Option<Text>,
    attempts: u32,
    stand: Stand,
    pub in_flight: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Waiting,
    /// Waiting, and the sender was told of the delay.
    Warned,
    Held,
    Delivered,
    Failed,
    Released,
    HandedOver,
    Noted,
}

/// Which queue a message stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Never attempted.
    New,
    Retry,
}

/// Where a message stands in the queues of the index, as its recipients ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub due: Option<(Lane, i64)>,
    /// When the first of its held recipients expires.
    pub until: Option<i64>,
    /// It is a note, not mail.
    pub noted: bool,
}

pub(super) fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time < Timestamp::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    })
}

pub(super) fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos))
        .expect("a timestamp reaches further than 64 bits of nanoseconds")
}

impl PackedPlace {
    fn new(place: Place) -> Self {
        let units = |bytes: u64| u32::try_from(bytes / ALIGN).expect("a segment is shorter than 32 GiB");
        Self { segment: place.segment, offset: units(place.offset), len: units(place.len) }
    }
}

impl State {
    pub fn new(fate: &Fate, texts: &mut Texts) -> State {
        let plain = |stand, at| State { at, error: None, attempts: 0, stand, in_flight: false };
        match fate {
            Fate::Waiting(Waiting { attempts, next_attempt, last_error, warned }) => State {
                error: last_error.as_deref().map(|text| texts.share(text)),
                attempts: *attempts,
                ..plain(if *warned { Stand::Warned } else { Stand::Waiting }, nanos(*next_attempt))
            },
            Fate::Held(Holding { until }) => plain(Stand::Held, nanos(*until)),
            Fate::Delivered => plain(Stand::Delivered, 0),
            Fate::Failed => plain(Stand::Failed, 0),
            Fate::Released => plain(Stand::Released, 0),
            Fate::HandedOver => plain(Stand::HandedOver, 0),
            Fate::Noted => plain(Stand::Noted, 0),
        }
    }

    pub fn fate(&self) -> Fate {
        match self.stand {
            Stand::Waiting | Stand::Warned => Fate::Waiting(Waiting {
                attempts: self.attempts,
                next_attempt: time(self.at),
                last_error: self.last_error().map(str::to_owned),
                warned: self.stand == Stand::Warned,
            }),
            Stand::Held => Fate::Held(Holding { until: time(self.at) }),
            Stand::Delivered => Fate::Delivered,
            Stand::Failed => Fate::Failed,
            Stand::Released => Fate::Released,
            Stand::HandedOver => Fate::HandedOver,
            Stand::Noted => Fate::Noted,
        }
    }

    pub fn is_final(&self) -> bool {
        match self.stand {
            Stand::Waiting | Stand::Warned | Stand::Held | Stand::Noted => false,
            Stand::Delivered | Stand::Failed | Stand::Released | Stand::HandedOver => true,
        }
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.stand, Stand::Waiting | Stand::Warned)
    }

    pub fn is_held(&self) -> bool {
        self.stand == Stand::Held
    }

    pub fn is_note(&self) -> bool {
        self.stand == Stand::Noted
    }

    /// A recipient of mail who has no final outcome.
    pub fn is_open(&self) -> bool {
        self.is_waiting() || self.is_held()
    }

    pub fn last_error(&self) -> Option<&str> {
        self.error.as_ref().map(Text::as_str)
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next attempt, or the end of the holding.
    pub fn at(&self) -> i64 {
        self.at
    }

    pub fn postpone(&mut self, to: Timestamp) {
        if self.is_waiting() {
            self.at = nanos(to);
        }
    }
}

impl Item {
    pub fn new(
        id: QueueId,
        place: Place,
        received_at: Timestamp,
        size: u64,
        body: Option<BodyRef>,
        fates: &[Fate],
        texts: &mut Texts,
    ) -> Item {
        let mut states = fates.iter().map(|fate| State::new(fate, texts));
        let states = match fates {
            [_] => States::One(states.next().expect("there is one")),
            _ => States::Many(states.collect()),
        };
        Item {
            id,
            place: PackedPlace::new(place),
            received_at: nanos(received_at),
            size,
            body: body.map(Box::new),
            states,
            warm: None,
        }
    }

    pub fn place(&self) -> Place {
        let PackedPlace { segment, offset, len } = self.place;
        Place { segment, offset: u64::from(offset) * ALIGN, len: u64::from(len) * ALIGN }
    }

    pub fn set_place(&mut self, place: Place) {
        self.place = PackedPlace::new(place);
    }

    pub fn received_at(&self) -> Timestamp {
        time(self.received_at)
    }

    pub fn states(&self) -> &[State] {
        match &self.states {
            States::One(state) => std::slice::from_ref(state),
            States::Many(states) => states,
        }
    }

    pub fn states_mut(&mut self) -> &mut [State] {
        match &mut self.states {
            States::One(state) => std::slice::from_mut(state),
            States::Many(states) => states,
        }
    }

    pub fn fates<C: FromIterator<Fate>>(&self) -> C {
        self.states().iter().map(State::fate).collect()
    }

    /// Recipients without a final outcome.
    pub fn open(&self) -> usize {
        self.states().iter().filter(|state| !state.is_final()).count()
    }

    pub fn in_flight(&self) -> bool {
        self.states().iter().any(|state| state.in_flight)
    }

    pub fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        for state in self.states() {
            keys.noted |= state.is_note();
            if state.is_held() {
                keys.until = Some(keys.until.map_or(state.at, |until| until.min(state.at)));
            } else if state.is_waiting() && !state.in_flight && keys.due.is_none_or(|(_, at)| state.at < at) {
                keys.due = Some((if state.attempts == 0 { Lane::New } else { Lane::Retry }, state.at));
            }
        }
        keys
    }
}

/// Where an item lies; another's after it is gone.
pub(super) type Slot = u32;

/// Items of one allocation.
const CHUNK: usize = 1024;
const SHARDS: usize = 64;

/// All messages, by place and by id. Grows and shrinks in small steps.
pub(super) struct Items {
    chunks: Vec<Chunk>,
    /// Chunks with a free place: the first of them is used, so that the last ones become empty.
    open: BTreeSet<usize>,
    ids: [HashMap<Key, Slot, BuildHasherDefault<Low>>; SHARDS],
    len: usize,
}

#[derive(Default)]
struct Chunk {
    slots: Vec<Option<Item>>,
    free: Vec<u16>,
}

impl Chunk {
    fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// An id in the least room: half of it is chance, which is as good as a hash.
#[derive(PartialEq, Eq)]
struct Key([u8; 16]);

impl Key {
    fn new(id: QueueId) -> Key {
        Key(id.to_bytes())
    }

    fn chance(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// By other bits than those that a table goes by.
    fn shard(&self) -> usize {
        (self.chance() >> 40) as usize % SHARDS
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.chance());
    }
}

/// Takes the only number it is given.
#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl Default for Items {
    fn default() -> Self {
        let ids = std::array::from_fn(|_| HashMap::default());
        Self { chunks: Vec::new(), open: BTreeSet::new(), ids, len: 0 }
    }
}

impl Items {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn find(&self, id: QueueId) -> Option<Slot> {
        let key = Key::new(id);
        self.ids[key.shard()].get(&key).copied()
    }

    pub fn by_id(&self, id: QueueId) -> Option<&Item> {
        self.find(id).map(|slot| self.at(slot))
    }

    pub fn at(&self, slot: Slot) -> &Item {
        let (chunk, place) = split(slot);
        self.chunks[chunk].slots[place].as_ref().expect("whoever knows a slot knows an item")
    }

    pub fn at_mut(&mut self, slot: Slot) -> &mut Item {
        let (chunk, place) = split(slot);
        self.chunks[chunk].slots[place].as_mut().expect("whoever knows a slot knows an item")
    }

    /// The id must be new.
    pub fn insert(&mut self, item: Item) -> Slot {
        let number = match self.open.first() {
            Some(number) => *number,
            None => {
                self.chunks.push(Chunk::default());
                self.open.insert(self.chunks.len() - 1);
                self.chunks.len() - 1
            }
        };
        let key = Key::new(item.id);
        let chunk = &mut self.chunks[number];
        let place = match chunk.free.pop() {
            Some(place) => {
                chunk.slots[usize::from(place)] = Some(item);
                usize::from(place)
            }
            None => {
                if chunk.slots.is_empty() {
                    chunk.slots.reserve_exact(CHUNK);
                }
                chunk.slots.push(Some(item));
                chunk.slots.len() - 1
            }
        };
        if chunk.used() == CHUNK {
            self.open.remove(&number);
        }
        let slot =
            Slot::try_from(number * CHUNK + place).expect("memory holds fewer than four billion messages");
        self.ids[key.shard()].insert(key, slot);
        self.len += 1;
        slot
    }

    pub fn remove(&mut self, slot: Slot) -> Item {
        let (number, place) = split(slot);
        let chunk = &mut self.chunks[number];
        let item = chunk.slots[place].take().expect("whoever knows a slot knows an item");
        chunk.free.push(u16::try_from(place).expect("a chunk is short"));
        if chunk.used() == 0 && number > 0 {
            *chunk = Chunk::default();
        }
        self.open.insert(number);
        let key = Key::new(item.id);
        let ids = &mut self.ids[key.shard()];
        ids.remove(&key);
        if ids.capacity() > 256 && ids.len() < ids.capacity() / 8 {
            ids.shrink_to(ids.len() * 2);
        }
        self.len -= 1;
        item
    }

    /// The items of one chunk; `None` behind the last. Looking through all of them chunk by chunk
    /// lets others have the lock in between.
    pub fn chunk(&self, number: usize) -> Option<impl Iterator<Item = &Item>> {
        self.chunks.get(number).map(|chunk| chunk.slots.iter().flatten())
    }
}

fn split(slot: Slot) -> (usize, usize) {
    (slot as usize / CHUNK, slot as usize % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(texts: &mut Texts) -> Item {
        let place = Place { segment: 1, offset: 32, len: 64 };
        Item::new(QueueId::new(), place, Timestamp::now(), 7, None, &[Fate::Delivered], texts)
    }

    #[test]
    fn an_item_is_small() {
        assert!(size_of::<State>() <= 24, "{}", size_of::<State>());
        assert!(size_of::<Option<Item>>() <= 96, "{}", size_of::<Option<Item>>());
    }

    #[test]
    fn items_come_and_go_and_leave_no_room_behind() {
        let (mut items, mut texts) = (Items::default(), Texts::default());
        let slots: Vec<Slot> = (0..10 * CHUNK).map(|_| items.insert(item(&mut texts))).collect();
        let ids: Vec<QueueId> = slots.iter().map(|slot| items.at(*slot).id).collect();
        assert!(ids.iter().zip(&slots).all(|(id, slot)| items.find(*id) == Some(*slot)));
        for slot in slots.iter().skip(1).step_by(2) {
            items.remove(*slot);
        }
        let all = |items: &Items| -> Vec<QueueId> {
            (0..).map_while(|number| items.chunk(number)).flatten().map(|item| item.id).collect()
        };
        assert_eq!((items.len(), all(&items).len()), (5 * CHUNK, 5 * CHUNK));
        // What comes now goes to the front.
        assert!((0..CHUNK / 2).all(|_| items.insert(item(&mut texts)) < CHUNK as u32));
        for id in all(&items) {
            let slot = items.find(id).expect("it is there");
            items.remove(slot);
        }
        assert_eq!(items.chunks.iter().filter(|chunk| chunk.slots.capacity() > 0).count(), 1);
        assert!(items.ids.iter().all(|ids| ids.capacity() <= 256));
        assert!(ids.iter().all(|id| items.find(*id).is_none()));
    }

    #[test]
    fn times_out_of_range_are_the_last_there_is() {
        assert_eq!(nanos(Timestamp::MAX), i64::MAX);
        assert_eq!(nanos(Timestamp::MIN), i64::MIN);
        let now = Timestamp::now();
        assert_eq!(time(nanos(now)), now);
    }
}
