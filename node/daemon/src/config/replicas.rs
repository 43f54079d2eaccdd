//! Where the cloud's other replicas are.

use cumulet_hyperswarm::websocket::WebSocketUrl;

use super::{ConfigError, field, parse_public_key};

/// Another replica of the same cloud. At least one way to it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaPeer {
    /// Its public key on the swarm.
    pub public_key: [u8; 32],
    /// `host:port` for UDP and TCP, resolved again and again: pods change their address.
    pub addresses: Vec<String>,
    /// Where it takes secret streams in WebSockets.
    pub websockets: Vec<WebSocketUrl>,
}

/// Reads `<public key>@<place>`; places of the same replica are put together.
pub(super) fn parse(texts: &[String]) -> Result<Vec<ReplicaPeer>, ConfigError> {
    let mut replicas: Vec<ReplicaPeer> = Vec::new();
    for text in texts {
        let (public_key, place) = text
            .split_once('@')
            .and_then(|(key, place)| Some((parse_public_key(key)?, place)))
            .ok_or_else(|| wrong(text))?;
        let known = replicas
            .iter()
            .position(|replica| replica.public_key == public_key);
        let at = known.unwrap_or(replicas.len());
        if known.is_none() {
            replicas.push(ReplicaPeer {
                public_key,
                addresses: Vec::new(),
                websockets: Vec::new(),
            });
        }
        let replica = &mut replicas[at];
        if place.contains("://") {
            let url = place.parse::<WebSocketUrl>();
            let url = url.map_err(|error| field("replicas-peers", error.to_string()))?;
            replica.websockets.push(url);
        } else {
            let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong(text))?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(wrong(text));
            }
            replica.addresses.push(place.to_owned());
        }
    }
    Ok(replicas)
}

fn wrong(text: &str) -> ConfigError {
    field(
        "replicas-peers",
        format!(
            "{text:?} is not of the form <64 hex digits>@host:port, or with ws://host:port/ or wss://host/ behind the @"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(places: &[&str]) -> Result<Vec<ReplicaPeer>, String> {
        let texts: Vec<String> = places.iter().map(ToString::to_string).collect();
        parse(&texts).map_err(|error| error.to_string())
    }

    #[test]
    fn ways_to_the_same_replica_are_put_together() {
        let [a, b] = ["aa", "bb"].map(|digits| digits.repeat(32));
        let texts = [
            &format!("{a}@one:1"),
            &format!("{b}@wss://two.example/swarm"),
            &format!("{a}@ws://one:8090/"),
            &format!("{a}@[::1]:2"),
        ];
        let replicas = parsed(&texts.map(String::as_str)).unwrap();
        assert_eq!(replicas.len(), 2);
        assert_eq!(replicas[0].public_key, [0xaa; 32]);
        assert_eq!(replicas[0].addresses, ["one:1", "[::1]:2"]);
        let urls = |replica: &ReplicaPeer| -> Vec<String> {
            replica.websockets.iter().map(ToString::to_string).collect()
        };
        assert_eq!(urls(&replicas[0]), ["ws://one:8090/"]);
        assert!(replicas[1].addresses.is_empty());
        assert_eq!(urls(&replicas[1]), ["wss://two.example/swarm"]);
    }

    #[test]
    fn what_can_not_be_read_is_refused_with_what_would_fit() {
        let key = "0".repeat(64);
        for (text, hint) in [
            (format!("{key}@host"), "host:port"),
            (format!("{key}@:1"), "host:port"),
            (format!("{key}@host:port"), "host:port"),
            (key.clone(), "64 hex digits"),
            ("phone@host:1".to_owned(), "64 hex digits"),
            (format!("{key}@http://host/"), "wss://"),
            (format!("{key}@wss://"), "wss://host/path"),
        ] {
            let error = parsed(&[&text]).unwrap_err();
            assert!(
                error.starts_with("replicas-peers:") && error.contains(hint),
                "{error}"
            );
        }
    }
}
