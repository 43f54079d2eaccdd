//! The names of objects, as bytes in a bucket: bucket format v1, described in `docs/format/backup.md`.
//!
//! Names use a core's discovery key only, so that whoever sees the bucket learns no core key. A name holds a hash of what is
//! in the object, so two writers of one name write the same. An object that turned out damaged is not replaced: a good
//! copy goes beside it, with `.r1`, `.r2`, … at the end of the name, and a reader tries all of them.

/// Most good copies put beside damaged ones: a store that damages this many objects of one name needs a person.
pub const MAX_REPAIRS: u8 = 99;
/// Below this lie all cores.
pub const CORES: &str = "v1/cores/";
/// Below this lie all pins.
pub const PINS: &str = "v1/pins/";
/// Below it: what each blind peer keeps.
pub const BLIND_PEERS: &str = "v1/blind-peers/";

/// Where the objects of one core lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreNames {
    discovery_key: [u8; 32],
}

/// The name of a segment, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// Fork counter of the core when the segment was shipped.
    pub fork: u64,
    /// The segment holds `2^level` blocks.
    pub level: u32,
    /// It starts at block `index · 2^level`.
    pub index: u64,
    /// The first eight bytes of its subtree's Merkle hash.
    pub hash: [u8; 8],
}

/// The name of a head, taken apart. Newer heads sort after older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeadName {
    /// Fork counter; a higher fork replaces lower ones whatever their length.
    pub fork: u64,
    /// Signed length in blocks.
    pub length: u64,
    /// The first eight bytes of the BLAKE2b-256 hash of the object.
    pub hash: [u8; 8],
}

impl CoreNames {
    /// Names for the core with this discovery key.
    pub fn new(discovery_key: [u8; 32]) -> Self {
        Self { discovery_key }
    }

    /// The discovery key.
    pub fn discovery_key(&self) -> [u8; 32] {
        self.discovery_key
    }

    /// What all objects of the core start with.
    pub fn prefix(&self) -> String {
        format!("{CORES}{}/", hex::encode(self.discovery_key))
    }

    /// What all heads of the core start with.
    pub fn heads(&self) -> String {
        format!("{}heads/", self.prefix())
    }

    /// What all segments of the core start with.
    pub fn segments(&self) -> String {
        format!("{}segments/", self.prefix())
    }

    /// The object of a segment; `repair` 0 is the first copy.
    pub fn segment(&self, name: &SegmentName, repair: u8) -> String {
        let SegmentName {
            fork,
            level,
            index,
            hash,
        } = name;
        format!(
            "{}{fork}/{level}-{index}-{}{}",
            self.segments(),
            hex::encode(hash),
            suffix(repair)
        )
    }

    /// The object of a head; `repair` 0 is the first copy.
    pub fn head(&self, name: &HeadName, repair: u8) -> String {
        let HeadName { fork, length, hash } = name;
        format!(
            "{}{fork:016}-{length:016}-{}{}",
            self.heads(),
            hex::encode(hash),
            suffix(repair)
        )
    }

    /// Takes a segment object's name apart; `None` if it is not one of this core, written exactly as [`Self::segment`] does.
    pub fn parse_segment(&self, object: &str) -> Option<(SegmentName, u8)> {
        let (fork, rest) = object.strip_prefix(&self.segments())?.split_once('/')?;
        let (rest, repair) = split_suffix(rest)?;
        let mut parts = rest.splitn(3, '-');
        let name = SegmentName {
            fork: fork.parse().ok()?,
            level: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
            hash: parse_hash(parts.next()?)?,
        };
        (self.segment(&name, repair) == object).then_some((name, repair))
    }

    /// Takes a head object's name apart; `None` if it is not one of this core, written exactly as [`Self::head`] does.
    pub fn parse_head(&self, object: &str) -> Option<(HeadName, u8)> {
        let (rest, repair) = split_suffix(object.strip_prefix(&self.heads())?)?;
        let mut parts = rest.splitn(3, '-');
        let name = HeadName {
            fork: parts.next()?.parse().ok()?,
            length: parts.next()?.parse().ok()?,
            hash: parse_hash(parts.next()?)?,
        };
        (self.head(&name, repair) == object).then_some((name, repair))
    }
}

/// The discovery key in the name of any object of a core.
pub(crate) fn core_of(object: &str) -> Option<[u8; 32]> {
    let (core, _) = object.strip_prefix(CORES)?.split_once('/')?;
    let mut discovery_key = [0; 32];
    hex::decode_to_slice(core, &mut discovery_key).ok()?;
    (hex::encode(discovery_key) == core).then_some(discovery_key)
}

fn suffix(repair: u8) -> String {
    if repair == 0 {
        String::new()
    } else {
        format!(".r{repair}")
    }
}

fn split_suffix(name: &str) -> Option<(&str, u8)> {
    match name.split_once(".r") {
        None => Some((name, 0)),
        Some((name, repair)) => repair
            .parse()
            .ok()
            .filter(|r| (1..=MAX_REPAIRS).contains(r))
            .map(|r| (name, r)),
    }
}

fn parse_hash(text: &str) -> Option<[u8; 8]> {
    let mut hash = [0; 8];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentName = SegmentName {
        fork: 2,
        level: 7,
        index: 12,
        hash: [0xab; 8],
    };
    const HEAD: HeadName = HeadName {
        fork: 0,
        length: 1234,
        hash: [1; 8],
    };

    fn names() -> CoreNames {
        CoreNames::new([0x11; 32])
    }

    #[test]
    fn names_are_those_of_the_format_page() {
        let core = "v1/cores/1111111111111111111111111111111111111111111111111111111111111111";
        assert_eq!(
            names().segment(&SEGMENT, 0),
            format!("{core}/segments/2/7-12-abababababababab")
        );
        assert_eq!(
            names().segment(&SEGMENT, 3),
            format!("{core}/segments/2/7-12-abababababababab.r3")
        );
        let head = format!("{core}/heads/0000000000000000-0000000000001234-0101010101010101");
        assert_eq!(names().head(&HEAD, 0), head);
        assert_eq!(core_of(&head), Some([0x11; 32]));
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else_is() {
        for repair in [0, 1, MAX_REPAIRS] {
            assert_eq!(
                names().parse_segment(&names().segment(&SEGMENT, repair)),
                Some((SEGMENT, repair))
            );
            assert_eq!(
                names().parse_head(&names().head(&HEAD, repair)),
                Some((HEAD, repair))
            );
        }
        let segments = names().segments();
        for bad in [
            "2/7-12-abababababababab.r0",
            "2/7-12-abababababababab.r100",
            "02/7-12-abababababababab",
            "2/7-12-ABababababababab",
            "2/7-12-abab",
            "2/+7-12-abababababababab",
            "2/7-12",
            "2/7-12-abababababababab/x",
            "7-12-abababababababab",
            "",
        ] {
            assert_eq!(names().parse_segment(&format!("{segments}{bad}")), None, "{bad}");
        }
        assert_eq!(
            CoreNames::new([2; 32]).parse_segment(&names().segment(&SEGMENT, 0)),
            None
        );
        assert_eq!(
            names().parse_head(&format!("{}0-0000000000001234-0101010101010101", names().heads())),
            None
        );
    }

    #[test]
    fn newer_heads_sort_after_older_ones_as_names_and_as_values() {
        let order = [(0, 9), (0, 10), (0, 1_000_000), (1, 3), (10, 0)];
        let heads: Vec<HeadName> = order
            .iter()
            .map(|&(fork, length)| HeadName {
                fork,
                length,
                hash: [0xff - fork as u8; 8],
            })
            .collect();
        assert!(heads.is_sorted());
        assert!(heads.iter().map(|head| names().head(head, 0)).is_sorted());
    }
}
