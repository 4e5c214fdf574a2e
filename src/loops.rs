//! Event loops, a thread each. Sessions and deliveries are dealt to a loop and stay on it: their tasks wake
//! each other without waking a thread, which is what most of a small message's time would go into. Taking
//! mail and delivering it have loops of their own, so that the kernel shares the processors between them: a
//! flood of arrivals cannot keep deliveries from running.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// More than this many loops of a kind have more to tell each other than to do.
const MOST: usize = 16;
/// Threads of one loop for calls that block.
const BLOCKING: usize = 64;
/// Shorter than any time limit that is set often.
const BEAT: Duration = Duration::from_millis(500);

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The threads. They end with the value, after [`Loops::end`] in an orderly way.
pub struct Loops {
    dealer: Dealer,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// Deals work to loops. Cheap to clone. The default has none: work stays on the runtime it is dealt from.
#[derive(Clone, Default)]
pub struct Dealer(Arc<[Loop]>);

struct Loop {
    handle: Handle,
    busy: AtomicUsize,
}

/// Work that was dealt to a loop; dropping it tells the dealer that it is over.
pub struct Turn {
    dealer: Dealer,
    at: Option<usize>,
}

impl Loops {
    /// One loop for each processor.
    pub fn start(name: &str) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(2, usize::from).min(MOST);
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        let mut loops = Vec::new();
        for n in 0..count {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING)
                .thread_name(format!("{name}-blocking"))
                .build()?;
            loops.push(Loop { handle: runtime.handle().clone(), busy: AtomicUsize::new(0) });
            let stop = stop.clone();
            let thread = thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                HERE.set(n + 1);
                runtime.block_on(beat(&stop));
                // A call that still blocks is not waited for: what it does is safe to be cut off.
                runtime.shutdown_background();
            })?;
            threads.push(thread);
        }
        Ok(Self { dealer: Dealer(loops.into()), stop, threads })
    }

    pub fn dealer(&self) -> Dealer {
        self.dealer.clone()
    }

    /// Ends the threads; what still runs on them is dropped. Blocks for a moment.
    pub fn end(mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Runs until told to stop, with a timer that is never far away: a time limit that ends later than the next
/// timer is set without a system call, and nearly every read and write has a time limit.
async fn beat(stop: &CancellationToken) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {}
        }
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Dealer {
    /// The loop with the least to do, the first of several: a lone client has one loop for itself, which then
    /// never has to wake another.
    pub fn deal(&self) -> Turn {
        let least = self.0.iter().enumerate().min_by_key(|(_, one)| one.busy.load(Ordering::Relaxed));
        let at = least.map(|(at, one)| {
            one.busy.fetch_add(1, Ordering::Relaxed);
            at
        });
        Turn { dealer: self.clone(), at }
    }
}

impl std::fmt::Debug for Dealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dealer({})", self.0.len())
    }
}

impl Turn {
    /// Where to spawn it.
    pub fn handle(&self) -> Handle {
        match self.at {
            Some(at) => self.dealer.0[at].handle.clone(),
            None => Handle::current(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.dealer.0[at].busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The number of the loop that this thread is, 0 outside of all: what waits on a socket should run where the
/// socket is registered.
pub fn here() -> usize {
    HERE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_to_the_idlest_loop_and_a_lone_worker_stays_on_the_first() {
        let loops = Loops::start("test").unwrap();
        let dealer = loops.dealer();
        for _ in 0..3 {
            assert_eq!(dealer.deal().at, Some(0));
        }
        let turns: Vec<_> = (0..dealer.0.len() * 2).map(|_| dealer.deal()).collect();
        for at in 0..dealer.0.len() {
            assert_eq!(turns.iter().filter(|turn| turn.at == Some(at)).count(), 2);
        }
        loops.end();
    }

    #[test]
    fn work_runs_on_the_thread_it_was_dealt_to() {
        let loops = Loops::start("test").unwrap();
        let turn = loops.dealer().deal();
        let (tell, told) = std::sync::mpsc::channel();
        turn.handle().spawn(async move { tell.send((here(), thread::current().name().map(str::to_owned))) });
        assert_eq!(told.recv().unwrap(), (1, Some("test-0".to_owned())));
        loops.end();
    }
}
