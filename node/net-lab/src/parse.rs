//! Topologies as text: `port-restricted:symmetric`, `open+loss=2%:campus+satellite`, `campus`.
//!
//! Sites are separated by `:`, each is a kind of NAT and the impairments of its link. One site alone has two hosts.

use std::time::Duration;

use crate::impairment::Link;
use crate::topology::{MAX_SITES, Nat, Site, Topology};

/// Longest delay or jitter: beyond, every protocol has given up.
const MAX_DELAY: Duration = Duration::from_mins(1);
const UNITS: &str = "use s, ms, bit, kbit, Mbit or %";

/// A link with a name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name in a topology's text.
    pub name: &'static str,
    /// What it stands for.
    pub means: &'static str,
}

/// Links that have a name.
pub const PRESETS: [Preset; 3] = [
    Preset {
        name: "lossy",
        means: "loss=2%",
    },
    Preset {
        name: "satellite",
        means: "delay=300ms",
    },
    Preset {
        name: "narrow",
        means: "rate=256kbit",
    },
];

/// Why a text is no topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No such kind of site.
    #[error(
        "failed to read topology: there is no kind of network {name:?}; there are {}",
        names()
    )]
    Nat {
        /// What was said.
        name: String,
    },
    /// No such impairment.
    #[error(
        "failed to read topology: there is no impairment {name:?}; there are loss=2%, delay=300ms (one way), jitter=20ms, \
         rate=256kbit, queue=40ms, lossy, satellite and narrow"
    )]
    Impairment {
        /// What was said.
        name: String,
    },
    /// A number is missing, out of range, or has another unit.
    #[error(
        "failed to read topology: {text:?} is not a value that {name} can have; {}",
        UNITS
    )]
    Value {
        /// Of which impairment.
        name: String,
        /// What was said.
        text: String,
    },
    /// Nobody would be alone on the internet.
    #[error("failed to read topology: an open site has one host; name two sites, such as open:open")]
    OpenAlone,
    /// Too many sites.
    #[error("failed to read topology: at most {} sites", MAX_SITES)]
    TooManySites,
    /// Peers where no UDP gets through.
    #[error("failed to read topology: there are no peers behind udp-blocked, for the DHT is UDP alone")]
    NoUdp,
}

fn names() -> String {
    Nat::ALL.map(Nat::name).join(", ")
}

impl Topology {
    /// Reads a topology's text; impairments are drawn from `seed`.
    ///
    /// Campus sites that come one after the other are one campus: `campus:campus` has two hosts at one site, as `campus` has.
    pub fn parse(text: &str, seed: u64) -> Result<Self, ParseError> {
        let mut sites: Vec<Site> = Vec::new();
        for part in text.split(':') {
            let site = site(part)?;
            match sites.last_mut() {
                Some(last)
                    if site.nat == Nat::Campus && last.nat == Nat::Campus && last.link == site.link =>
                {
                    last.hosts += 1;
                }
                _ => sites.push(site),
            }
            if sites.len() > MAX_SITES {
                return Err(ParseError::TooManySites);
            }
        }
        if let [only] = sites.as_mut_slice()
            && only.hosts < 2
        {
            if only.nat == Nat::Open {
                return Err(ParseError::OpenAlone);
            }
            only.hosts = 2;
        }
        Ok(Self { sites, seed })
    }

    /// Reads kinds of sites, separated by `:`, each with one host: for [`Topology::add_peers`].
    pub fn parse_kinds(text: &str) -> Result<Vec<Site>, ParseError> {
        text.split(':').map(site).collect()
    }
}

fn site(text: &str) -> Result<Site, ParseError> {
    let mut parts = text.split('+').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let nat = Nat::ALL
        .into_iter()
        .find(|nat| nat.name() == name)
        .ok_or_else(|| ParseError::Nat {
            name: name.to_owned(),
        })?;
    let mut link = Link::default();
    for part in parts {
        let preset = PRESETS.iter().find(|preset| preset.name == part);
        impair(&mut link, preset.map_or(part, |preset| preset.means))?;
    }
    Ok(Site::new(nat, link))
}

fn impair(link: &mut Link, text: &str) -> Result<(), ParseError> {
    let unknown = || ParseError::Impairment {
        name: text.to_owned(),
    };
    let (name, value) = text.split_once('=').ok_or_else(unknown)?;
    let bad = || ParseError::Value {
        name: name.to_owned(),
        text: value.to_owned(),
    };
    match name {
        "loss" => link.loss_ppm = percent(value).ok_or_else(bad)?,
        "delay" => link.delay = duration(value).ok_or_else(bad)?,
        "jitter" => link.jitter = duration(value).ok_or_else(bad)?,
        "queue" => link.queue = Some(duration(value).ok_or_else(bad)?),
        "rate" => link.rate = Some(rate(value).ok_or_else(bad)?),
        _ => return Err(unknown()),
    }
    Ok(())
}

/// Parts of a million.
fn percent(text: &str) -> Option<u32> {
    let number: f64 = text.strip_suffix('%')?.parse().ok()?;
    if !(0.0..=100.0).contains(&number) {
        return None;
    }
    #[expect(clippy::cast_sign_loss, reason = "checked to be between 0 and 100")]
    let parts = (number * 10_000.0).round() as u32;
    Some(parts)
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    (duration <= MAX_DELAY).then_some(duration)
}

/// Bits per second.
fn rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "bit" => 1,
        "kbit" => 1_000,
        "Mbit" => 1_000_000,
        _ => return None,
    };
    number.checked_mul(factor).filter(|rate| *rate > 0)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_is_read_with_its_impairments() {
        let topology = Topology::parse(
            "port-restricted+lossy:symmetric+delay=300ms+jitter=1s+rate=256kbit+queue=40ms",
            7,
        );
        let sites = topology.unwrap().sites;
        assert_eq!(sites.len(), 2);
        assert_eq!(
            (sites[0].nat, sites[0].link.loss_ppm),
            (Nat::PortRestricted, 20_000)
        );
        let link = Link {
            loss_ppm: 0,
            delay: Duration::from_millis(300),
            jitter: Duration::from_secs(1),
            rate: Some(256_000),
            queue: Some(Duration::from_millis(40)),
        };
        assert_eq!((sites[1].nat, sites[1].link), (Nat::Symmetric, link));
        let half = Topology::parse("open+loss=0.5%:open", 7).unwrap();
        assert_eq!(half.sites[0].link.loss_ppm, 5_000);
    }

    #[test]
    fn one_site_alone_and_a_campus_named_twice_have_two_hosts() {
        for text in ["campus", "campus:campus"] {
            let sites = Topology::parse(text, 0).unwrap().sites;
            assert_eq!((sites.len(), sites[0].hosts), (1, 2), "{text}");
        }
        assert_eq!(Topology::parse("full-cone:full-cone", 0).unwrap().sites.len(), 2);
        assert_eq!(Topology::parse("open", 0), Err(ParseError::OpenAlone));
    }

    #[test]
    fn every_preset_is_an_impairment_and_what_is_none_is_refused_by_its_name() {
        for preset in PRESETS {
            let text = format!("open+{}:open", preset.name);
            assert!(
                !Topology::parse(&text, 0).unwrap().sites[0].link.is_perfect(),
                "{text}"
            );
        }
        for text in [
            "",
            "opne:open",
            "open:",
            "open+fast:open",
            "open+loss=2:open",
            "open+loss=101%:open",
            "open+delay=61s:open",
            "open+rate=0kbit:open",
            "open+rate=99999999999999999999bit:open",
            "open+jitter=ms:open",
            "open+queue=2packets:open",
            "open+loss=NaN%:open",
        ] {
            let error = Topology::parse(text, 0).unwrap_err().to_string();
            assert!(error.starts_with("failed to read topology"), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z+=:0-9%.é-]{0,60}") {
            let _ = Topology::parse(&text, 0);
        }
    }
}
