//! Who may come in: not the banned, not too many, nobody during a pause, and then the application decides.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cumulet_hyperdht::{FirewallHook, NoisePayload};

use crate::direct::Admits;

struct State {
    banned: Mutex<HashSet<[u8; 32]>>,
    accepted_now: AtomicUsize,
    max_accepted: usize,
    is_suspended: AtomicBool,
    application: Option<FirewallHook>,
}

/// What the listeners ask. Clones share it.
#[derive(Clone)]
pub(super) struct Gate {
    state: Arc<State>,
}

impl Gate {
    pub(super) fn new(application: Option<FirewallHook>, max_accepted: usize) -> Self {
        Self {
            state: Arc::new(State {
                banned: Mutex::default(),
                accepted_now: AtomicUsize::new(0),
                max_accepted,
                is_suspended: AtomicBool::new(false),
                application,
            }),
        }
    }

    fn admits(&self, public_key: &[u8; 32], payload: &NoisePayload, address: SocketAddrV4) -> bool {
        let State {
            banned,
            accepted_now,
            max_accepted,
            is_suspended,
            application,
        } = &*self.state;
        let banned = banned.lock().unwrap_or_else(PoisonError::into_inner);
        if banned.contains(public_key) {
            return false;
        }
        drop(banned);
        !is_suspended.load(Ordering::Relaxed)
            && accepted_now.load(Ordering::Relaxed) < *max_accepted
            && application
                .as_ref()
                .is_none_or(|application| application(public_key, payload, address))
    }

    /// For who comes over UDP.
    pub(super) fn over_udp(&self) -> FirewallHook {
        let gate = self.clone();
        Arc::new(move |public_key, payload, address| gate.admits(public_key, payload, address))
    }

    /// For who comes otherwise: without a payload.
    pub(super) fn over_tcp(&self) -> Admits {
        let gate = self.clone();
        Arc::new(move |public_key, address| {
            let address = match address {
                SocketAddr::V4(address) => address,
                // As far as it is known: the hook's addresses are IPv4, as the DHT's are.
                SocketAddr::V6(address) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port()),
            };
            gate.admits(public_key, &NoisePayload::default(), address)
        })
    }

    pub(super) fn ban(&self, public_key: [u8; 32], banned: bool) {
        let mut list = self.state.banned.lock().unwrap_or_else(PoisonError::into_inner);
        if banned {
            list.insert(public_key)
        } else {
            list.remove(&public_key)
        };
    }

    /// So many are in that others opened.
    pub(super) fn set_accepted(&self, number: usize) {
        self.state.accepted_now.store(number, Ordering::Relaxed);
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.state.is_suspended.load(Ordering::Relaxed)
    }

    /// Returns whether it was.
    pub(super) fn set_suspended(&self, is_suspended: bool) -> bool {
        self.state.is_suspended.swap(is_suspended, Ordering::Relaxed)
    }
}
