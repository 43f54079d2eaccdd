//! A victim, an honest peer, and what is measured of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cumulet_hypercore::corestore::{CoreHandle, Corestore};
use cumulet_hypercore::messages::Message;
use cumulet_protomux::ChannelId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::hand::Hand;
use crate::pair::{PATIENCE, Wires, append, memory, until, writer};

/// Most that an attack may cost the process at any time.
pub(crate) const MAX_GROWTH_BYTES: usize = 32 << 20;
/// The honest peer is done when the process has worked this many times as long as for it alone. Four share it with an attacker that
/// never rests: that one, the victim's work for it, the victim's work for the honest peer, and the honest peer. Processor time does not
/// depend on what else the machine does.
const MORE_WORK: u32 = 5;
/// What the attacker has said before the honest peer comes.
const FIRST_WORK: Duration = Duration::from_millis(300);
/// What an attack does to a victim it does each time; in one of so many the scheduler must not have been against the honest peer.
const TRIES: usize = 3;
/// Time passes while the honest peer waits as well, which may take so many times as long as alone, and so much longer: the machine has
/// other things to do.
const SLOWER: u32 = 8;
const SLACK: Duration = Duration::from_secs(4);
/// How long an attack goes on at least.
const ATTACK: Duration = Duration::from_millis(700);
const BLOCKS: usize = 1200;
const BLOCK_BYTES: usize = 4096;

/// Memory is measured for the process, so one attack at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What the victim does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// It serves the core.
    Serves,
    /// It reads the core, from the honest peer if it can.
    Reads,
}

/// What becomes of the attacker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is bounded, whether or not it is dropped.
    Bounded,
    /// It loses the core's channel, though it does not listen.
    NoChannel,
    /// It loses its channel or the connection, and notices: the attack returns.
    Dropped,
}

/// What an attacker works with.
pub(crate) struct Scene {
    pub(crate) victim: Corestore,
    /// The core at its writer.
    pub(crate) source: CoreHandle,
    pub(crate) wires: Wires,
}

impl Scene {
    pub(crate) async fn connect(&self) -> Hand {
        Hand::connect(&self.wires, &self.victim).await
    }

    /// A connection with the core's channel open.
    pub(crate) async fn open(&self) -> (Hand, ChannelId) {
        let mut hand = self.connect().await;
        let channel = hand.open_core(self.source.key()).await;
        (hand, channel)
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// How long the process' threads have worked so far (Documentation/scheduler/sched-stats.rst: the first number of `schedstat`).
fn worked() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// What a download took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    time: Duration,
    work: Duration,
}

/// Watches the process' memory while it lives.
struct Watch {
    peak: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn new() -> Self {
        let (peak, over) = (Arc::new(AtomicUsize::new(resident_bytes())), Arc::default());
        let watched: (Arc<AtomicUsize>, Arc<AtomicBool>) = (peak.clone(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !watched.1.load(Ordering::Relaxed) {
                watched.0.fetch_max(resident_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        Self {
            peak,
            over,
            thread: Some(thread),
        }
    }

    fn peak(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.peak.load(Ordering::Relaxed)
    }
}

/// Downloads the core from `from` into a new store, or into `into`.
async fn download(wires: &Wires, from: &Corestore, into: Corestore, source: &CoreHandle) -> Taken {
    let (start, before) = (Instant::now(), worked());
    let core = into.get(*source.key()).await.unwrap();
    let wanted = core.download(0..u64::MAX).await;
    let wire = wires.connect(&into, from);
    until(&core, "the honest peer", |state| {
        state.contiguous_length == BLOCKS as u64
    })
    .await;
    let taken = Taken {
        time: start.elapsed(),
        work: worked().saturating_sub(before),
    };
    drop((wanted, core));
    into.close().await.unwrap();
    for side in wire {
        side.abort();
    }
    taken
}

/// Runs `attack` while an honest peer works, and judges. The attack returns when it is dropped.
#[allow(clippy::needless_pass_by_value)] // each attack is a closure at the place where it is named
pub(crate) fn withstand(victim: Victim, fate: Fate, attack: impl AsyncFn(&Scene)) {
    withstand_many(victim, fate, MORE_WORK, &attack);
}

/// As [`withstand`], of many attackers: the honest peer is done when the process has worked `more` times as long as for it alone.
pub(crate) fn withstand_many(victim: Victim, fate: Fate, more: u32, attack: &impl AsyncFn(&Scene)) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let keeps_its_speed = (0..TRIES).any(|_| {
        let (alone, attacked) = runtime.block_on(judge(victim, fate, attack));
        attacked.time < alone.time * SLOWER + SLACK && attacked.work < alone.work * more + FIRST_WORK
    });
    assert!(
        keeps_its_speed,
        "the honest peer was slowed down in each of {TRIES} attacks"
    );
}

/// What the honest peer took alone and beside the attack, which the process must have survived as `fate` says.
async fn judge(victim: Victim, fate: Fate, attack: &impl AsyncFn(&Scene)) -> (Taken, Taken) {
    let honest = memory();
    let source = writer(&honest, 1).await;
    append(&source, &[BLOCK_BYTES; BLOCKS]).await;
    let before = Wires::default();
    let alone = download(&before, &honest, memory(), &source).await;
    before.end().await;

    let reader = memory();
    let (attacked, into) = match victim {
        Victim::Serves => (honest.clone(), reader),
        Victim::Reads => (reader.clone(), reader),
    };
    let victim_core = attacked.get(*source.key()).await.unwrap();
    let scene = Scene {
        victim: attacked.clone(),
        source: source.clone(),
        wires: Wires::default(),
    };
    let (base, watch) = (resident_bytes(), Watch::new());
    let stop = CancellationToken::new();
    let honest_wires = Wires::default();
    let attacking = async {
        tokio::select! {
            () = attack(&scene) => true,
            () = stop.cancelled() => false,
        }
    };
    let working = async {
        let start = Instant::now();
        // The attacker is there first.
        tokio::time::sleep(ATTACK / 7).await;
        let taken = download(&honest_wires, &honest, into, &source).await;
        tokio::time::sleep(ATTACK.saturating_sub(start.elapsed())).await;
        if victim == Victim::Serves && fate == Fate::NoChannel {
            let gone = async {
                while victim_core.stats().await.peers > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, gone)
                .await
                .expect("the attacker's channel is closed");
        }
        if fate == Fate::Dropped {
            // Until the attack notices.
            let _ = tokio::time::timeout(PATIENCE, stop.cancelled()).await;
        }
        stop.cancel();
        taken
    };
    let (dropped, taken) = tokio::join!(
        async {
            let dropped = attacking.await;
            if dropped {
                stop.cancel();
            }
            dropped
        },
        working
    );
    let grown = watch.peak().saturating_sub(base);
    tell(alone, taken, grown, dropped);
    assert!(grown < MAX_GROWTH_BYTES, "{grown} bytes more");
    if fate == Fate::Dropped {
        assert!(dropped, "the attacker is still there");
    }
    scene.wires.end().await;
    honest_wires.end().await;
    (alone, taken)
}

fn tell(alone: Taken, attacked: Taken, grown: usize, dropped: bool) {
    let times = |attacked: Duration, alone: Duration| attacked.as_secs_f64() / alone.as_secs_f64();
    println!(
        "alone {:.2?}, attacked {:.2?}: {:.1} times, with {:.1} times the work; {} KiB more, dropped: {dropped}",
        alone.time,
        attacked.time,
        times(attacked.time, alone.time),
        times(attacked.work, alone.work),
        grown >> 10
    );
}

/// Writes bytes and throws away what comes back, if `listens`. False when the connection is over.
pub(crate) async fn pour(hand: &mut Hand, bytes: &[u8], listens: bool) -> bool {
    let (mut reader, mut writer) = tokio::io::split(&mut hand.io);
    let (mut rubbish, mut at) = (vec![0; 16 * 1024], 0);
    while at < bytes.len() {
        tokio::select! {
            written = writer.write(&bytes[at..]) => match written {
                Ok(written) if written > 0 => at += written,
                _ => return false,
            },
            read = reader.read(&mut rubbish), if listens => if !matches!(read, Ok(read) if read > 0) {
                return false;
            },
        }
    }
    true
}

/// Writes what the mux has to say.
pub(crate) async fn pour_messages(hand: &mut Hand, listens: bool) -> bool {
    hand.mux.flush();
    while let Some(frame) = hand.mux.poll_transmit() {
        hand.stream.send(&frame).unwrap();
    }
    let output = hand.stream.take_output();
    pour(hand, &output, listens).await
}

/// Says the messages of `next` in batches, for ever or until the connection is over.
pub(crate) async fn flood(
    hand: &mut Hand,
    channel: ChannelId,
    listens: bool,
    mut next: impl FnMut(u64) -> Message,
) {
    let mut number = 0;
    loop {
        hand.mux.cork();
        while hand.mux.queued_bytes() < 32 * 1024 {
            hand.say(channel, &next(number));
            number += 1;
        }
        hand.mux.uncork();
        if !pour_messages(hand, listens).await {
            return;
        }
    }
}
