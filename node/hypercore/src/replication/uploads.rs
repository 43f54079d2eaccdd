//! Requests of one peer that wait for an answer.

use std::collections::{BTreeMap, HashMap};

use super::{MAX_QUEUED_REQUESTS, PeerFault};
use crate::messages::{Request, RequestBlock};

/// A request as it waits: a peer may have thousands on each of its connections, and nearly all ask for one block only.
#[derive(Debug)]
enum Waiting {
    Block { id: u64, fork: u64, block: RequestBlock },
    Other(Box<Request>),
}

impl Waiting {
    fn id(&self) -> u64 {
        match self {
            Self::Block { id, .. } => *id,
            Self::Other(request) => request.id,
        }
    }
}

impl From<Request> for Waiting {
    fn from(request: Request) -> Self {
        let plain = Request {
            id: request.id,
            fork: request.fork,
            block: request.block,
            ..Request::default()
        };
        match request.block {
            Some(block) if plain == request => Self::Block {
                id: request.id,
                fork: request.fork,
                block,
            },
            _ => Self::Other(Box::new(request)),
        }
    }
}

impl From<Waiting> for Request {
    fn from(waiting: Waiting) -> Self {
        match waiting {
            Waiting::Block { id, fork, block } => Self {
                id,
                fork,
                block: Some(block),
                ..Self::default()
            },
            Waiting::Other(request) => *request,
        }
    }
}

/// Those with a priority come first, the newest of them before the others; the rest in their order. A request replaces the one of
/// the same number. All that a peer can do to it takes logarithmic time.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    queue: BTreeMap<i64, Waiting>,
    places: HashMap<u64, i64>,
}

impl Uploads {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, request: Request) -> Result<(), PeerFault> {
        self.remove(request.id);
        if self.queue.len() >= MAX_QUEUED_REQUESTS {
            return Err(PeerFault::BadRequests);
        }
        let place = if request.priority > 0 {
            self.queue.first_key_value().map_or(0, |(first, _)| first - 1)
        } else {
            self.queue.last_key_value().map_or(0, |(last, _)| last + 1)
        };
        self.places.insert(request.id, place);
        self.queue.insert(place, request.into());
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Request> {
        let (_, waiting) = self.queue.pop_first()?;
        self.places.remove(&waiting.id());
        Some(waiting.into())
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(place) = self.places.remove(&id) {
            self.queue.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{RequestSeek, RequestUpgrade};

    fn request(id: u64, priority: u64) -> Request {
        Request {
            id,
            priority,
            ..Request::default()
        }
    }

    #[test]
    fn hurried_requests_come_first_and_one_of_the_same_number_replaces_the_older() {
        let mut uploads = Uploads::default();
        for (id, priority) in [(1, 0), (2, 0), (3, 1), (4, 1), (1, 0), (5, 0)] {
            uploads.push(request(id, priority)).unwrap();
        }
        uploads.remove(5);
        uploads.remove(77);
        let order: Vec<u64> = std::iter::from_fn(|| uploads.pop())
            .map(|request| request.id)
            .collect();
        assert_eq!(order, [4, 3, 2, 1]);
        assert!(uploads.is_empty() && uploads.places.is_empty());
    }

    #[test]
    fn every_request_comes_out_as_it_went_in() {
        let block = Some(RequestBlock { index: 7, nodes: 3 });
        let plain = Request {
            id: 1,
            fork: 2,
            block,
            ..Request::default()
        };
        let seek = Some(RequestSeek { bytes: 9, padding: 8 });
        let upgrade = Some(RequestUpgrade { start: 1, length: 4 });
        let all = [
            plain,
            Request { id: 2, seek, ..plain },
            Request {
                id: 3,
                upgrade,
                ..plain
            },
            Request {
                id: 4,
                manifest: true,
                ..plain
            },
            request(5, 0),
        ];
        let mut uploads = Uploads::default();
        for request in all {
            uploads.push(request).unwrap();
        }
        assert!(all.into_iter().eq(std::iter::from_fn(|| uploads.pop())));
    }
}
