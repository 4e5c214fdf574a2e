//! What a message costs while it waits: a million of them must fit into a small pod.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::*;
use crate::spool::due::Index;

/// Counts what each thread has taken and not given back.
struct Counting;

thread_local! {
    static TAKEN: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: i64) {
    // A thread that ends has no place to count in any more.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes));
}

// SAFETY: all is left to the system's allocator; counting takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The bound that docs/spool.md states.
const PER_MESSAGE: i64 = 220;

fn arrival(n: u64) -> Arrival {
    Arrival {
        id: QueueId::new(),
        place: Place { segment: 1 + n / 16_000, offset: 32 + n % 16_000 * 4096, len: 4096 },
        received_at: Timestamp::now(),
        size: 4000,
        body: None,
        fates: vec![recover::first_fate(Timestamp::now(), Timestamp::now())],
        warm: None,
    }
}

/// Bytes that this thread holds for each message after `work`.
fn each(messages: u64, work: impl FnOnce()) -> i64 {
    let before = TAKEN.get();
    work();
    (TAKEN.get() - before) / messages as i64
}

#[test]
fn r158_a_waiting_message_costs_at_most_220_bytes_of_memory() {
    // Sizes at which tables have just grown, and just not.
    for messages in [100_000, 115_000, 150_000, 200_000, 230_000] {
        let mut index = Index::new(0);
        let new = each(messages, || (0..messages).for_each(|n| index.insert(arrival(n))));
        assert!(new <= PER_MESSAGE, "{new} bytes for each of {messages} new messages");
        let waits = each(messages, || {
            let batch = index.take_due(Timestamp::now(), usize::MAX, u64::MAX);
            assert_eq!(batch.taken.len() as u64, messages);
            for (n, taken) in batch.taken.into_iter().enumerate() {
                // What next hops say is different each time: references, times, addresses.
                let at = in_an_hour() + Duration::from_millis(n as u64 * 7919 % 3_600_000);
                let said =
                    format!("mx{}.example.com said 451 4.7.1 Greylisted, try again (ref 5f-{n}-a)", n % 7);
                let waiting = Waiting { attempts: 3, next_attempt: at, last_error: Some(said), warned: true };
                index.settle(taken.id, vec![(0, Fate::Waiting(waiting))]);
            }
        });
        let total = new + waits;
        tell!("{messages} messages: {new} bytes each when new, {total} when put off with a reply");
        assert!(total <= PER_MESSAGE, "{total} bytes for each of {messages} messages that wait");
    }
}

#[test]
fn memory_comes_back_when_a_mountain_of_mail_has_gone() {
    let mut index = Index::new(0);
    let left = each(1, || {
        let mut ids = Vec::new();
        for n in 0..100_000 {
            let arrival = arrival(n);
            ids.push(arrival.id);
            index.insert(arrival);
        }
        for id in ids {
            let finished = index.settle(id, vec![(0, Fate::Delivered)]).expect("that was the last recipient");
            index.forget(&finished);
        }
    });
    assert_eq!(index.len(), 0);
    assert!(left < 1 << 20, "{left} bytes are still taken");
}

#[test]
fn a_message_with_many_recipients_costs_32_bytes_for_each() {
    let mut index = Index::new(0);
    let fates = vec![recover::first_fate(Timestamp::now(), Timestamp::now()); 1000];
    let each = each(100 * 1000, || {
        (0..100).for_each(|n| index.insert(Arrival { fates: fates.clone(), ..arrival(n) }));
    });
    assert!(each <= 32, "{each}");
}
