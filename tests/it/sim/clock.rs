//! What would make two runs of one history differ is taken from the threads that run histories: the randomness of
//! the system (hash maps take their order from it) and the time of day. All other threads get the real ones.
//!
//! The whole test binary's `getrandom` and `clock_gettime` are those of this file; the C library's are only weak.

use std::cell::Cell;

use tokio::time::Instant;

/// Begins each history: 2026-11-22T08:00:00Z.
const EPOCH: i64 = 1_795_334_400;

thread_local! {
    /// `None`: not a thread of a simulation.
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    /// Nanoseconds since the beginning.
    static NOW: Cell<u64> = const { Cell::new(0) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From here on this thread is one of a simulation. To be called before anything asks for randomness.
pub fn simulate(seed: u64) {
    RANDOM.set(Some(seed));
    NOW.set(0);
    fastrand::seed(seed);
}

/// Inside the simulation's runtime: its time is the time of day from here on.
pub fn begin() {
    BEGAN.set(Some(Instant::now()));
}

/// Brings the time of day up to the runtime's. Called wherever the simulated world acts.
pub fn tick() {
    if let Some(began) = BEGAN.get() {
        NOW.set(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Seconds of the simulation so far.
pub fn seconds() -> f64 {
    BEGAN.get().map_or(0.0, |began| began.elapsed().as_secs_f64())
}

/// What comes after `state` in the sequence of splitmix64, and the number it stands for.
pub fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

// SAFETY: same contract as the C library's: `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let Some(mut state) = RANDOM.get() else {
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    };
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        let (after, number) = next(state);
        state = after;
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
    }
    RANDOM.set(Some(state));
    length as isize
}

// SAFETY: same contract as the C library's: `time` points to a timespec.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if clock != libc::CLOCK_REALTIME || RANDOM.get().is_none() {
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int;
    }
    let now = NOW.get();
    let seconds = EPOCH + i64::try_from(now / 1_000_000_000).unwrap_or(0);
    let nanoseconds = i64::try_from(now % 1_000_000_000).unwrap_or(0);
    unsafe { time.write(libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds }) };
    0
}
