//! How streams are made, what can be known about them, and why operations fail.

use std::{fmt, net::SocketAddr, time::Duration};

use super::Socket;

/// Where a packet of a stream came from, or where a stream sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The socket of ours that received it.
    pub socket: Socket,
    /// The remote address.
    pub address: SocketAddr,
}

/// What to do with packets that arrive on another socket than the one a stream is connected over;
/// before `connect` that is every packet.
#[derive(Default)]
pub enum Firewall {
    /// Take them. The sender must know the stream's random id.
    #[default]
    Accept,
    /// Drop them silently.
    Reject,
    /// Ask for every such packet; `false` drops it. Called with the stream locked: it must return at once
    /// and must not call into the stream.
    Ask(Box<dyn FnMut(&Source) -> bool + Send>),
}

impl fmt::Debug for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "Accept",
            Self::Reject => "Reject",
            Self::Ask(_) => "Ask",
        })
    }
}

/// How a stream is made.
#[derive(Debug, Default)]
pub struct StreamOptions {
    /// Our id; `None` draws a random one that no stream of the endpoint has.
    pub local_id: Option<u32>,
    /// Packets from other sockets than the connected one.
    pub firewall: Firewall,
    /// Our first sequence number (hyperdht uses 0).
    pub initial_seq: u32,
    /// The first sequence number we expect.
    pub initial_ack: u32,
    /// Most received bytes we hold, and so the window we advertise; 0 means the default, 4 MiB.
    pub receive_window: u32,
    /// Send a HEARTBEAT after this much silence; `None` (hyperdht's choice) never.
    pub keep_alive: Option<Duration>,
}

/// Counters and estimates of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Smoothed round trip time; zero before the first sample.
    pub rtt: Duration,
    /// Smallest round trip time seen lately; zero before the first sample.
    pub min_rtt: Duration,
    /// Congestion window, packets.
    pub congestion_window: u32,
    /// Packets in flight.
    pub in_flight: u32,
    /// Pacing rate, bytes per second.
    pub pacing_rate: u64,
    /// Largest IP packet in use, bytes.
    pub mtu: u16,
    /// UDP payload bytes sent, headers and retransmissions included.
    pub bytes_sent: u64,
    /// UDP payload bytes received, headers included.
    pub bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent again.
    pub retransmits: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Packets forwarded to another stream (`relay_to`).
    pub relayed_packets: u64,
    /// Bytes forwarded to another stream (`relay_to`).
    pub relayed_bytes: u64,
}

/// Why a stream could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateStreamError {
    /// Another stream of the endpoint has this id.
    #[error("failed to create stream: id {0} is in use")]
    IdInUse(u32),
    /// The endpoint is closed.
    #[error("failed to create stream: the endpoint is closed")]
    Closed,
    /// The endpoint has as many streams as it may.
    #[error("failed to create stream: the endpoint is full")]
    Full,
}

/// Why a stream could not be connected or moved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Port 0 or an unspecified address.
    #[error("failed to connect stream: {0} can not be sent to")]
    InvalidAddress(SocketAddr),
    /// `connect` was called before; use `change_remote`.
    #[error("failed to connect stream: it is connected already")]
    AlreadyConnected,
    /// `change_remote` needs a connected stream.
    #[error("failed to move stream: it is not connected")]
    NotConnected,
    /// The stream is closed.
    #[error("failed to connect stream: it is closed")]
    Closed,
}

/// Why an unreliable message was not sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than one packet holds.
    #[error("failed to send message: {length} bytes, at most {limit} fit")]
    TooLong {
        /// Its length, bytes.
        length: usize,
        /// The most that fits, bytes.
        limit: usize,
    },
    /// The queue of messages to send is full.
    #[error("failed to send message: the queue is full")]
    QueueFull,
    /// The stream is not connected.
    #[error("failed to send message: the stream is not connected")]
    NotConnected,
    /// The stream is closed.
    #[error("failed to send message: the stream is closed")]
    Closed,
}
