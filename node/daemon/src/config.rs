//! The node's configuration: one TOML file, and every field also as flag and as environment variable.
//!
//! Precedence: flag, then `CUMULET_…` variable, then file, then the default. [`Options`] is what people
//! write; [`Config`] is what the node runs with, checked once, so that nothing else has to check again.
//! An unknown field in the file is an error that names it: a typo must not become a silent default.

mod replicas;

pub use self::replicas::ReplicaPeer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Default port of the swarm, for UDP and TCP: the one HyperDHT nodes use (hyperdht `lib/constants.js`).
pub const DEFAULT_SWARM_PORT: u16 = 49737;
/// Default recovery point objective: how long a verified block may wait for its backup.
pub const DEFAULT_MAX_LAG: Duration = Duration::from_secs(5);
/// Default number of links that a relay carries at a time. Each has two streams of some kilobytes.
pub const DEFAULT_RELAY_LINKS: u32 = 64;

/// What a person may set, all optional; see the module for where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Folder that holds everything the node keeps.
    #[arg(long, env = "CUMULET_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep the archive with this key; may be given more than once.
    #[arg(long = "pin", env = "CUMULET_PIN", value_name = "KEY", value_delimiter = ',')]
    pub pin: Vec<String>,
    /// Download only what is read, instead of everything (for the keys given with --pin).
    #[arg(long, env = "CUMULET_SPARSE", num_args = 0..=1, default_missing_value = "true")]
    pub sparse: Option<bool>,
    /// Announce the keys given with --pin on the DHT, so that others who know them find this node.
    #[arg(long, env = "CUMULET_ANNOUNCE", num_args = 0..=1, default_missing_value = "true")]
    pub announce: Option<bool>,
    /// Port of the swarm, for UDP and TCP; 0 takes any free one.
    #[arg(long, env = "CUMULET_SWARM_PORT", value_name = "PORT")]
    pub swarm_port: Option<u16>,
    /// DHT nodes to start from, host:port; none means the public DHT.
    #[arg(
        long,
        env = "CUMULET_BOOTSTRAP",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub bootstrap: Vec<String>,
    /// Be a lasting node of the DHT: answer others, store their records, and be one to start from.
    #[arg(long, env = "CUMULET_SERVE_DHT", num_args = 0..=1, default_missing_value = "true")]
    pub serve_dht: Option<bool>,
    /// IPv4 address by which everybody reaches the swarm port, where that is known beforehand; otherwise it is found out.
    #[arg(long, env = "CUMULET_PUBLIC_HOST", value_name = "ADDRESS")]
    pub public_host: Option<Ipv4Addr>,
    /// Public key (64 hex digits) of a device of the owner's: it may use the relay, the DHT for browsers and the blind peer,
    /// as this cloud's replicas may; may be given more than once.
    #[arg(long, env = "CUMULET_MEMBER", value_name = "KEY", value_delimiter = ',')]
    pub member: Vec<String>,
    /// Public key (64 hex digits) of a peer that the node never connects with, nor serves; may be given more than once.
    #[arg(long, env = "CUMULET_BAN", value_name = "KEY", value_delimiter = ',')]
    pub ban: Vec<String>,
    /// Forward the encrypted packets of peers that can't reach each other, as a blind relay.
    #[arg(long, env = "CUMULET_RELAY", num_args = 0..=1, default_missing_value = "true")]
    pub relay: Option<bool>,
    /// Let everybody use the relay, and not only members.
    #[arg(long, env = "CUMULET_RELAY_OPEN", num_args = 0..=1, default_missing_value = "true")]
    pub relay_open: Option<bool>,
    /// Bytes that the relay forwards per second at most, all links together; none means as many as the machine can.
    #[arg(long, env = "CUMULET_RELAY_MAX_BYTES_PER_SECOND", value_name = "BYTES")]
    pub relay_max_bytes_per_second: Option<u64>,
    /// Links that the relay carries at a time.
    #[arg(long, env = "CUMULET_RELAY_MAX_SESSIONS", value_name = "NUMBER")]
    pub relay_max_sessions: Option<u32>,
    /// Where browsers get a DHT over WebSockets, without TLS, and where other replicas come in that nothing else is let through
    /// to; absent means nowhere.
    #[arg(long, env = "CUMULET_WEBSOCKET_LISTEN", value_name = "ADDR")]
    pub websocket_listen: Option<SocketAddr>,
    /// Let every page use it, and not only members.
    #[arg(long, env = "CUMULET_WEBSOCKET_OPEN", num_args = 0..=1, default_missing_value = "true")]
    pub websocket_open: Option<bool>,
    /// Keep cores for members' apps, as a blind peer.
    #[arg(long, env = "CUMULET_BLIND_PEER", num_args = 0..=1, default_missing_value = "true")]
    pub blind_peer: Option<bool>,
    /// Keep cores for everybody's apps, within quotas.
    #[arg(long, env = "CUMULET_BLIND_PEER_OPEN", num_args = 0..=1, default_missing_value = "true")]
    pub blind_peer_open: Option<bool>,
    /// Where the REST API listens.
    #[arg(long, env = "CUMULET_API_LISTEN", value_name = "ADDR")]
    pub api_listen: Option<SocketAddr>,
    /// File with the bearer token of the REST API; made in the data folder when not given.
    #[arg(long, env = "CUMULET_API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// Certificate chain (PEM) of the REST API.
    #[arg(long, env = "CUMULET_API_TLS_CERT_FILE", value_name = "FILE")]
    pub api_tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the REST API.
    #[arg(long, env = "CUMULET_API_TLS_KEY_FILE", value_name = "FILE")]
    pub api_tls_key_file: Option<PathBuf>,
    /// Where the gateway listens.
    #[arg(long, env = "CUMULET_GATEWAY_LISTEN", value_name = "ADDR")]
    pub gateway_listen: Option<SocketAddr>,
    /// Where /livez, /readyz and /metrics listen.
    #[arg(long, env = "CUMULET_OPS_LISTEN", value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
    /// Folder with one device seed a replica: seed-0, seed-1, ….
    #[arg(
        long,
        env = "CUMULET_DEVICE_SEEDS_DIR",
        value_name = "DIR",
        requires = "replica_name"
    )]
    pub device_seeds_dir: Option<PathBuf>,
    /// Name of this replica; its number behind the last dash chooses the seed.
    #[arg(long, env = "CUMULET_REPLICA_NAME", value_name = "NAME")]
    pub replica_name: Option<String>,
    /// The cloud's other replicas: public-key-hex@host:port, for UDP and TCP; or public-key-hex@wss://host/path (or ws://) for
    /// WebSockets, where a network lets nothing else through. More than one way to the same replica may be given.
    #[arg(
        long,
        env = "CUMULET_REPLICAS_PEERS",
        value_name = "KEY@PLACE",
        value_delimiter = ','
    )]
    pub replicas_peers: Vec<String>,
    /// File with the 32-byte content key (hex or raw) under which backups are encrypted.
    #[arg(long, env = "CUMULET_CONTENT_KEY_FILE", value_name = "FILE")]
    pub content_key_file: Option<PathBuf>,
    /// Where backups go: s3://bucket/prefix or file:///folder; standalone default: backup/ in the data folder.
    #[arg(long, env = "CUMULET_BACKUP_URL", value_name = "URL")]
    pub backup_url: Option<String>,
    /// S3 endpoint, for stores other than AWS.
    #[arg(long, env = "CUMULET_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// S3 region.
    #[arg(long, env = "CUMULET_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Address buckets as paths instead of host names.
    #[arg(long, env = "CUMULET_S3_FORCE_PATH_STYLE", num_args = 0..=1, default_missing_value = "true")]
    pub s3_force_path_style: Option<bool>,
    /// How long a verified block may wait for its backup, e.g. 5s, 500ms, 1m.
    #[arg(long, env = "CUMULET_BACKUP_MAX_LAG", value_name = "TIME")]
    pub backup_max_lag: Option<String>,
}

/// Why a configuration can't be used. The text names the field and what would fit.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("failed to read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file isn't TOML, or has a field that doesn't exist or a value of the wrong type.
    #[error("failed to parse the configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        source: Box<toml::de::Error>,
    },
    /// A field is missing or its value doesn't fit.
    #[error("{field}: {problem}")]
    Field {
        /// The field, as it is written in the file.
        field: &'static str,
        /// What is wrong and what would fit.
        problem: String,
    },
}

fn field(field: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field {
        field,
        problem: problem.into(),
    }
}

/// Who may have a DHT over WebSockets, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// Where it listens, without TLS.
    pub listen: SocketAddr,
    /// Everybody is a member.
    pub open: bool,
}

/// For whom cores are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlindPeerConfig {
    /// For everybody, and not only for members.
    pub open: bool,
}

/// Who may use the node as a relay, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayConfig {
    /// Everybody is a member.
    pub open: bool,
    /// Bytes forwarded per second, all links and both directions together; `None`: as many as the machine can.
    pub max_bytes_per_second: Option<u64>,
    /// Links at a time.
    pub max_links: usize,
}

/// How the API proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Where the device key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSeed {
    /// A file that must exist.
    File(PathBuf),
    /// A file in the data folder, made at the first start.
    MadeOnce(PathBuf),
}

/// A configuration that was checked.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that a person may set"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder that holds everything the node keeps.
    pub data_dir: PathBuf,
    /// Keys to pin, as written.
    pub pin: Vec<String>,
    /// Whether those pins are sparse.
    pub sparse: bool,
    /// Whether those pins are announced.
    pub announce: bool,
    /// Port of the swarm, for UDP and TCP.
    pub swarm_port: u16,
    /// DHT nodes to start from; empty means the public DHT.
    pub bootstrap: Vec<String>,
    /// Whether the node is a lasting node of the DHT.
    pub serve_dht: bool,
    /// Where everybody reaches the swarm port, if that is known.
    pub public_host: Option<Ipv4Addr>,
    /// Public keys of the owner's devices.
    pub members: Vec<[u8; 32]>,
    /// Public keys of those who are kept out.
    pub bans: Vec<[u8; 32]>,
    /// How it relays, if it does.
    pub relay: Option<RelayConfig>,
    /// Where browsers get a DHT, if anywhere.
    pub websocket: Option<WebSocketConfig>,
    /// For whom cores are kept, if for anybody.
    pub blind_peer: Option<BlindPeerConfig>,
    /// Where the REST API listens.
    pub api_listen: SocketAddr,
    /// File with the API's bearer token.
    pub api_token_file: PathBuf,
    /// Whether a missing token file is made.
    pub make_api_token: bool,
    /// Certificate and key of the API; absent only on loopback.
    pub api_tls: Option<TlsFiles>,
    /// Where the gateway listens.
    pub gateway_listen: SocketAddr,
    /// Where health and metrics listen.
    pub ops_listen: SocketAddr,
    /// Where the device key comes from.
    pub device_seed: DeviceSeed,
    /// The cloud's other replicas.
    pub replicas: Vec<ReplicaPeer>,
    /// File with the content key.
    pub content_key_file: PathBuf,
    /// Whether a missing content key file is made.
    pub make_content_key: bool,
    /// Where backups go.
    pub backup_url: String,
    /// S3 endpoint.
    pub s3_endpoint: Option<String>,
    /// S3 region.
    pub s3_region: Option<String>,
    /// Address buckets as paths.
    pub s3_force_path_style: bool,
    /// How long a verified block may wait for its backup.
    pub backup_max_lag: Duration,
}

impl Options {
    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Fills what `self` leaves open from `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        fn list<T>(upper: Vec<T>, lower: Vec<T>) -> Vec<T> {
            if upper.is_empty() { lower } else { upper }
        }
        Self {
            data_dir: self.data_dir.or(lower.data_dir),
            pin: list(self.pin, lower.pin),
            sparse: self.sparse.or(lower.sparse),
            announce: self.announce.or(lower.announce),
            swarm_port: self.swarm_port.or(lower.swarm_port),
            bootstrap: list(self.bootstrap, lower.bootstrap),
            serve_dht: self.serve_dht.or(lower.serve_dht),
            public_host: self.public_host.or(lower.public_host),
            relay: self.relay.or(lower.relay),
            member: list(self.member, lower.member),
            ban: list(self.ban, lower.ban),
            relay_open: self.relay_open.or(lower.relay_open),
            relay_max_bytes_per_second: self
                .relay_max_bytes_per_second
                .or(lower.relay_max_bytes_per_second),
            relay_max_sessions: self.relay_max_sessions.or(lower.relay_max_sessions),
            websocket_listen: self.websocket_listen.or(lower.websocket_listen),
            websocket_open: self.websocket_open.or(lower.websocket_open),
            blind_peer: self.blind_peer.or(lower.blind_peer),
            blind_peer_open: self.blind_peer_open.or(lower.blind_peer_open),
            api_listen: self.api_listen.or(lower.api_listen),
            api_token_file: self.api_token_file.or(lower.api_token_file),
            api_tls_cert_file: self.api_tls_cert_file.or(lower.api_tls_cert_file),
            api_tls_key_file: self.api_tls_key_file.or(lower.api_tls_key_file),
            gateway_listen: self.gateway_listen.or(lower.gateway_listen),
            ops_listen: self.ops_listen.or(lower.ops_listen),
            device_seeds_dir: self.device_seeds_dir.or(lower.device_seeds_dir),
            replica_name: self.replica_name.or(lower.replica_name),
            replicas_peers: list(self.replicas_peers, lower.replicas_peers),
            content_key_file: self.content_key_file.or(lower.content_key_file),
            backup_url: self.backup_url.or(lower.backup_url),
            s3_endpoint: self.s3_endpoint.or(lower.s3_endpoint),
            s3_region: self.s3_region.or(lower.s3_region),
            s3_force_path_style: self.s3_force_path_style.or(lower.s3_force_path_style),
            backup_max_lag: self.backup_max_lag.or(lower.backup_max_lag),
        }
    }

    /// Checks everything and fills in the defaults.
    pub fn check(self) -> Result<Config, ConfigError> {
        let data_dir = self.data_dir.clone().ok_or_else(|| {
            field(
                "data-dir",
                "is missing; give a folder that this node may write, e.g. --data-dir ~/cumulet",
            )
        })?;
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let api_listen = self.api_listen.unwrap_or_else(|| loopback(8443));
        let api_tls = self.tls(api_listen)?;
        let device_seed = self.device_seed(&data_dir)?;
        let (members, relay) = (public_keys("member", &self.member)?, self.relay()?);
        let (websocket, blind_peer) = (self.websocket(), self.blind_peer());
        let replicas = replicas::parse(&self.replicas_peers)?;
        let bans = self.bans(&members, &replicas)?;
        let max_lag = match &self.backup_max_lag {
            None => DEFAULT_MAX_LAG,
            Some(text) => parse_duration(text).ok_or_else(|| {
                field(
                    "backup-max-lag",
                    format!("{text:?} is no time; write 500ms, 5s or 1m"),
                )
            })?,
        };
        let backup_url = match self.backup_url {
            Some(url) if url.starts_with("s3://") || url.starts_with("file:") => url,
            Some(url) => {
                return Err(field(
                    "backup-url",
                    format!("{url:?} starts neither with s3:// nor with file:"),
                ));
            }
            None => format!("file:{}", data_dir.join("backup").display()),
        };
        Ok(Config {
            pin: self.pin,
            sparse: self.sparse.unwrap_or(false),
            announce: self.announce.unwrap_or(false),
            swarm_port: self.swarm_port.unwrap_or(DEFAULT_SWARM_PORT),
            bootstrap: self
                .bootstrap
                .into_iter()
                .filter(|host| !host.is_empty())
                .collect(),
            serve_dht: self.serve_dht.unwrap_or(false),
            public_host: self.public_host,
            members,
            bans,
            relay,
            websocket,
            blind_peer,
            api_listen,
            make_api_token: self.api_token_file.is_none(),
            api_token_file: self.api_token_file.unwrap_or_else(|| data_dir.join("api.token")),
            api_tls,
            gateway_listen: self.gateway_listen.unwrap_or_else(|| loopback(8080)),
            ops_listen: self.ops_listen.unwrap_or_else(|| loopback(9090)),
            device_seed,
            replicas,
            make_content_key: self.content_key_file.is_none(),
            content_key_file: self
                .content_key_file
                .unwrap_or_else(|| data_dir.join("content.key")),
            backup_url,
            s3_endpoint: self.s3_endpoint.filter(|text| !text.is_empty()),
            s3_region: self.s3_region.filter(|text| !text.is_empty()),
            s3_force_path_style: self.s3_force_path_style.unwrap_or(false),
            backup_max_lag: max_lag,
            data_dir,
        })
    }

    fn bans(&self, members: &[[u8; 32]], replicas: &[ReplicaPeer]) -> Result<Vec<[u8; 32]>, ConfigError> {
        let bans = public_keys("ban", &self.ban)?;
        for key in &bans {
            let also = if members.contains(key) {
                "member"
            } else if replicas.iter().any(|replica| replica.public_key == *key) {
                "replicas-peers"
            } else {
                continue;
            };
            let key = hex::encode(key);
            return Err(field(
                "ban",
                format!("{key} is in {also} as well; take it from one of the two"),
            ));
        }
        Ok(bans)
    }

    fn websocket(&self) -> Option<WebSocketConfig> {
        let listen = self.websocket_listen?;
        let open = self.websocket_open.unwrap_or(false);
        Some(WebSocketConfig { listen, open })
    }

    fn blind_peer(&self) -> Option<BlindPeerConfig> {
        let open = self.blind_peer_open.unwrap_or(false);
        self.blind_peer
            .unwrap_or(false)
            .then_some(BlindPeerConfig { open })
    }

    fn relay(&self) -> Result<Option<RelayConfig>, ConfigError> {
        if !self.relay.unwrap_or(false) {
            return Ok(None);
        }
        for (name, limit) in [
            ("relay-max-bytes-per-second", self.relay_max_bytes_per_second),
            ("relay-max-sessions", self.relay_max_sessions.map(u64::from)),
        ] {
            if limit == Some(0) {
                return Err(field(name, "is 0; leave out `relay` to relay nothing"));
            }
        }
        Ok(Some(RelayConfig {
            open: self.relay_open.unwrap_or(false),
            max_bytes_per_second: self.relay_max_bytes_per_second,
            max_links: self.relay_max_sessions.unwrap_or(DEFAULT_RELAY_LINKS) as usize,
        }))
    }

    fn tls(&self, listen: SocketAddr) -> Result<Option<TlsFiles>, ConfigError> {
        match (&self.api_tls_cert_file, &self.api_tls_key_file) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
            })),
            (None, None) if listen.ip().is_loopback() => Ok(None),
            (None, None) => Err(field(
                "api-listen",
                format!(
                    "{listen} is open to others, so the API needs api-tls-cert-file and api-tls-key-file; \
                     or listen on 127.0.0.1"
                ),
            )),
            (Some(_), None) => Err(field("api-tls-key-file", "is missing beside api-tls-cert-file")),
            (None, Some(_)) => Err(field("api-tls-cert-file", "is missing beside api-tls-key-file")),
        }
    }

    fn device_seed(&self, data_dir: &Path) -> Result<DeviceSeed, ConfigError> {
        let Some(dir) = &self.device_seeds_dir else {
            return Ok(DeviceSeed::MadeOnce(data_dir.join("device.seed")));
        };
        let name = self.replica_name.as_deref().unwrap_or_default();
        let number = name
            .rsplit('-')
            .next()
            .and_then(|digits| digits.parse::<u32>().ok())
            .ok_or_else(|| {
                field(
                    "replica-name",
                    format!("{name:?} doesn't end in a dash and a number, as in ada-0"),
                )
            })?;
        Ok(DeviceSeed::File(dir.join(format!("seed-{number}"))))
    }
}

fn public_keys(name: &'static str, texts: &[String]) -> Result<Vec<[u8; 32]>, ConfigError> {
    let parse = |text: &String| {
        let problem = || format!("{text:?} is no public key: write 64 hex digits");
        parse_public_key(text).ok_or_else(|| field(name, problem()))
    };
    let given = texts.iter().filter(|text| !text.is_empty());
    given.map(parse).collect()
}

fn parse_public_key(text: &str) -> Option<[u8; 32]> {
    let mut public_key = [0; 32];
    hex::decode_to_slice(text, &mut public_key).ok()?;
    Some(public_key)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Options {
        Options {
            data_dir: Some("/tmp/x".into()),
            ..Options::default()
        }
    }

    #[test]
    fn a_data_folder_is_all_that_is_needed() {
        let config = minimal().check().unwrap();
        assert_eq!(config.swarm_port, DEFAULT_SWARM_PORT);
        assert!(config.api_listen.ip().is_loopback() && config.api_tls.is_none());
        assert_eq!(config.backup_url, "file:/tmp/x/backup");
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "data-dir = \"/tmp/x\"\nswarm-prot = 1\n").unwrap();
        let error = Options::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("swarm-prot"), "{error}");
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file: Options = toml::from_str("data-dir = \"/tmp/file\"\nswarm-port = 7").unwrap();
        let merged = Options {
            swarm_port: Some(9),
            ..Options::default()
        }
        .over(file);
        assert_eq!(
            (merged.swarm_port, merged.data_dir),
            (Some(9), Some("/tmp/file".into()))
        );
    }

    #[test]
    fn an_api_open_to_others_needs_a_certificate() {
        let options = Options {
            api_listen: Some("0.0.0.0:8443".parse().unwrap()),
            ..minimal()
        };
        let error = options.check().unwrap_err().to_string();
        assert!(
            error.starts_with("api-listen:") && error.contains("api-tls-cert-file"),
            "{error}"
        );
    }

    #[test]
    fn the_replica_number_chooses_the_seed() {
        let options = Options {
            device_seeds_dir: Some("/seeds".into()),
            replica_name: Some("ada-12".into()),
            ..minimal()
        };
        assert_eq!(
            options.check().unwrap().device_seed,
            DeviceSeed::File("/seeds/seed-12".into())
        );
    }

    #[test]
    fn members_are_keys_and_a_limit_of_nothing_is_refused() {
        let config = minimal().check().unwrap();
        assert!(config.relay.is_none() && config.websocket.is_none() && config.blind_peer.is_none());
        let options = |member: &str| Options {
            relay: Some(true),
            blind_peer: Some(true),
            member: vec![member.to_owned()],
            relay_max_bytes_per_second: Some(1 << 20),
            ..minimal()
        };
        let config = options(&"ab".repeat(32)).check().unwrap();
        let relay = config.relay.unwrap();
        assert_eq!((config.members, relay.open), (vec![[0xab; 32]], false));
        assert_eq!((relay.max_bytes_per_second, relay.max_links), (Some(1 << 20), 64));
        assert_eq!(config.blind_peer, Some(BlindPeerConfig { open: false }));
        let error = options("phone").check().unwrap_err().to_string();
        assert!(
            error.starts_with("member:") && error.contains("64 hex"),
            "{error}"
        );
        let nothing = Options {
            relay_max_sessions: Some(0),
            ..options(&"ab".repeat(32))
        };
        let error = nothing.check().unwrap_err().to_string();
        assert!(error.starts_with("relay-max-sessions:"), "{error}");
    }

    #[test]
    fn bans_are_keys_and_nobody_is_banned_and_served() {
        let key = |byte: u8| hex::encode([byte; 32]);
        let options = |ban: String| Options {
            ban: vec![ban],
            member: vec![key(1)],
            replicas_peers: vec![format!("{}@ada-1.example:49737", key(2))],
            ..minimal()
        };
        assert_eq!(options(key(3)).check().unwrap().bans, [[3; 32]]);
        for (ban, wrong) in [
            ("spammer".to_owned(), "64 hex"),
            (key(1), "is in member as well"),
            (key(2), "is in replicas-peers as well"),
        ] {
            let error = options(ban).check().unwrap_err().to_string();
            assert!(error.starts_with("ban: ") && error.contains(wrong), "{error}");
        }
        let file: Options = toml::from_str(&format!("ban = [{:?}, {:?}]", key(4), key(5))).unwrap();
        assert_eq!(minimal().over(file).check().unwrap().bans, [[4; 32], [5; 32]]);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_mins(2)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration(&format!("{}m", u64::MAX)), None);
    }
}
