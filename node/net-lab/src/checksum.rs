//! Checksums of IPv4 packets that the kernel left to a network card that does not exist: a frame read from a packet socket may
//! hold only the beginning of one.

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Computes the TCP or UDP checksum of an Ethernet frame anew. Anything else, and fragments, stay as they are.
pub(crate) fn complete(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&[0x08, 0x00]) {
        return;
    }
    let Some(packet) = frame.get_mut(ETHERNET..) else {
        return;
    };
    let (Some(&first), Some(&protocol)) = (packet.first(), packet.get(9)) else {
        return;
    };
    let header = usize::from(first & 0x0f) * 4;
    let total = match packet.get(2..4) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => return,
    };
    // More fragments, or not the first one.
    let fragment = packet
        .get(6..8)
        .is_none_or(|flags| flags[0] & 0x3f != 0 || flags[1] != 0);
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    if fragment || header < 20 || total < header + place + 2 || total > packet.len() {
        return;
    }
    let length = total - header;
    let mut sum = u32::from(protocol) + u32::try_from(length).unwrap_or(u32::MAX);
    sum += words(&packet[12..20]);
    let segment = &mut packet[header..total];
    segment[place..place + 2].fill(0);
    sum += words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let mut checksum = !u16::try_from(sum).unwrap_or(u16::MAX);
    if checksum == 0 && protocol == UDP {
        checksum = 0xffff;
    }
    segment[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum of big-endian 16-bit words; at most 32 Ki of them.
fn words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DNS-sized UDP packet from 10.0.0.1:1024 to 10.0.0.2:53 with payload "abc".
    fn frame() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([4, 0, 0, 53, 0, 11, 0xde, 0xad]);
        frame.extend(b"abc");
        frame
    }

    #[test]
    fn a_udp_checksum_is_the_one_that_rfc_768_says() {
        let mut bytes = frame();
        complete(&mut bytes);
        // 0x0a00+0x0001+0x0a00+0x0002 + 17 + 11 + 0x0400+0x0035+0x000b + 0x6162+0x6300 = 0xdcc1
        assert_eq!(bytes[40..42], (!0xdcc1_u16).to_be_bytes());
    }

    #[test]
    fn what_is_no_whole_tcp_or_udp_packet_stays_as_it_is() {
        for (place, value) in [(12, 0x86), (23, 1), (20, 0x20), (17, 200), (14, 0x41)] {
            let mut bytes = frame();
            bytes[place] = value;
            let before = bytes.clone();
            complete(&mut bytes);
            assert_eq!(bytes, before, "byte {place}");
        }
        for length in 0..frame().len() {
            complete(&mut frame()[..length]);
        }
    }
}
