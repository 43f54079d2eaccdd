//! The two ends of an impaired link, joined in user space: a thread reads Ethernet frames from each and writes them to the
//! other when their time has come.
//!
//! Only IPv4 packets are impaired. ARP passes at once, so that a lost question about an address does not look like a second of
//! delay.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, send, socket,
};
use nix::sys::time::TimeSpec;

use crate::checksum;
use crate::impairment::{Fate, Lane, Link, mix};
use crate::namespace::Namespace;

/// Frames under way at a time, both directions: at most 25 MB. Beyond, newcomers are lost, as in a full router.
const MAX_FRAMES: usize = 16_384;
/// The largest frame: an Ethernet header, a tag, and 1500 bytes. Longer ones would be a segmentation left to the card.
const MAX_FRAME: usize = 2_048;
/// Frames read at a time from one end before the other gets its turn.
const BATCH: usize = 64;

/// A running thread; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Joins the interfaces `near` and `far` of a namespace.
    pub(crate) fn start(namespace: &Namespace, link: Link, seed: u64) -> io::Result<Self> {
        let ends = namespace.call(|| Ok([open("near")?, open("far")?]))?;
        let (stop, stopped) = UnixStream::pair()?;
        let lanes = [Lane::new(link, mix(seed)), Lane::new(link, mix(seed ^ 1))];
        let wire = Running {
            ends,
            lanes,
            stopped,
            waiting: BinaryHeap::new(),
            admitted: 0,
            begun: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || wire.run())?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Some(mut stop) = self.stop.take() {
            // Closing it says the same.
            let _ = stop.write_all(b".");
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet socket that sends and receives whole frames of one interface of the calling thread's namespace.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let address: SockaddrStorage = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address.filter(|address| address.as_link_addr().is_some()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}")))?;
    let end = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?;
    bind(end.as_raw_fd(), &address)?;
    Ok(end)
}

/// A frame on its way. Ordered by time, then by arrival, so that equal times keep the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Duration,
    number: u64,
    to: usize,
    frame: Vec<u8>,
}

struct Running {
    ends: [OwnedFd; 2],
    /// From each end.
    lanes: [Lane; 2],
    stopped: UnixStream,
    waiting: BinaryHeap<Reverse<Waiting>>,
    admitted: u64,
    begun: Instant,
}

impl Running {
    fn run(mut self) {
        // It ends when the interfaces are gone, too.
        while self.turn().unwrap_or(false) {}
    }

    /// Waits for something to do and does it; `false` at the end.
    fn turn(&mut self) -> io::Result<bool> {
        let timeout = self
            .waiting
            .peek()
            .map(|Reverse(next)| TimeSpec::from_duration(next.at.saturating_sub(self.begun.elapsed())));
        let mut polled = [
            PollFd::new(self.ends[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ends[1].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut polled, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [first, second, stopped] = polled.map(|end| end.any().unwrap_or(false));
        if stopped {
            return Ok(false);
        }
        for (from, readable) in [first, second].into_iter().enumerate() {
            if readable {
                self.read(from)?;
            }
        }
        self.write_due()?;
        Ok(true)
    }

    fn read(&mut self, from: usize) -> io::Result<()> {
        let mut buffer = [0; MAX_FRAME];
        for _ in 0..BATCH {
            let length = match recv(self.ends[from].as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR | Errno::ENOBUFS) => continue,
                Err(error) => return Err(error.into()),
            };
            // Longer than the buffer: it came apart, and no card of this kind carries it.
            let Some(frame) = buffer.get_mut(..length) else {
                continue;
            };
            let now = self.begun.elapsed();
            let is_ipv4 = frame.get(12..14) == Some(&[0x08, 0x00]);
            let fate = if is_ipv4 {
                checksum::complete(frame);
                self.lanes[from].admit(now, length)
            } else {
                Fate::Arrives(now)
            };
            if let Fate::Arrives(at) = fate
                && self.waiting.len() < MAX_FRAMES
            {
                self.admitted += 1;
                self.waiting.push(Reverse(Waiting {
                    at,
                    number: self.admitted,
                    to: 1 - from,
                    frame: frame.to_vec(),
                }));
            }
        }
        Ok(())
    }

    fn write_due(&mut self) -> io::Result<()> {
        let now = self.begun.elapsed();
        while self.waiting.peek().is_some_and(|Reverse(next)| next.at <= now) {
            let Some(Reverse(due)) = self.waiting.pop() else {
                break;
            };
            match send(self.ends[due.to].as_raw_fd(), &due.frame, MsgFlags::empty()) {
                // What the interface does not take now is lost, as on any line; so is what is too long for it.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR | Errno::EMSGSIZE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
