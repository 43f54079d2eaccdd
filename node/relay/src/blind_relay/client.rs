//! The client: asks a relay for a link, and keeps the link by keeping the connection.

use std::net::SocketAddr;
use std::time::Duration;

use cumulet_protomux::{ChannelId, Event};

use super::control::{Control, ControlError, Peer};
use super::{PAIR, PROTOCOL, Pair};
use crate::Key;

/// How long the other side may take to come to the relay: as JavaScript.
const PAIR_WAIT: Duration = Duration::from_secs(15);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The connection to the relay broke.
    #[error("failed to talk to the relay")]
    Control(#[from] ControlError),
    /// The relay does not serve us.
    #[error("failed to pair: the relay refused")]
    Refused,
    /// The other side did not come in time, or the relay dropped the request.
    #[error("failed to pair: no answer in time")]
    Timeout,
}

/// A link at a relay. It lasts as long as this lives and is [held](Self::hold).
pub struct Pairing {
    control: Control,
    channel: ChannelId,
    remote_id: u32,
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairing")
            .field("remote_id", &self.remote_id)
            .finish_non_exhaustive()
    }
}

/// Asks the relay `peer` to join our stream `request.id` with that of whoever asks under the same token in the other role.
/// `identity` is our own public key on this connection.
///
/// # Errors
/// Any [`PairError`], after at most 15 s.
pub async fn pair(peer: Peer, identity: &Key, request: Pair) -> Result<Pairing, PairError> {
    let mut control = Control::new(peer)?;
    let channel = control.open(PROTOCOL, identity).ok_or(PairError::Refused)?;
    control.send(channel, PAIR, &request.encode());
    let answered = async {
        loop {
            match control.next().await? {
                Event::Message {
                    channel: heard,
                    kind: PAIR,
                    payload,
                } if heard == channel => {
                    let answer = Pair::decode(&payload).ok().filter(|answer| {
                        (answer.token, answer.is_initiator) == (request.token, request.is_initiator)
                    });
                    if let Some(id) = answer.and_then(|answer| u32::try_from(answer.id).ok()) {
                        return Ok(id);
                    }
                }
                Event::Closed { channel: closed, .. } if closed == channel => return Err(PairError::Refused),
                Event::Requested(request) => control.reject(&request),
                _ => {}
            }
        }
    };
    let remote_id = tokio::time::timeout(PAIR_WAIT, answered)
        .await
        .map_err(|_| PairError::Timeout)??;
    Ok(Pairing {
        control,
        channel,
        remote_id,
    })
}

impl Pairing {
    /// The id of the relay's stream: our stream's remote id.
    pub fn remote_id(&self) -> u32 {
        self.remote_id
    }

    /// Where the relay is: our stream sends to there, from the socket of this connection.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.control.stream().remote().map(|source| source.address)
    }

    /// Keeps the link until `release` completes (then says goodbye), or until the relay ends it.
    pub async fn hold(mut self, release: impl Future<Output = ()>) {
        tokio::pin!(release);
        loop {
            tokio::select! {
                () = &mut release => break,
                event = self.control.next() => match event {
                    Ok(Event::Closed { channel, .. }) if channel == self.channel => return,
                    Ok(Event::Requested(request)) => self.control.reject(&request),
                    Ok(_) => {}
                    Err(_) => return,
                },
            }
        }
        let channel = self.channel;
        self.control.end(Some(channel)).await;
    }
}
