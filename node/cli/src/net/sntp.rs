//! How far this machine's clock is from another's, asked with SNTP (RFC 4330): one datagram each way.

use std::io;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

/// Seconds from 1900, which SNTP counts from, to 1970.
const EPOCH: u64 = 2_208_988_800;
const PACKET: usize = 48;
/// Version 4, client.
const CLIENT: u8 = 0x23;
/// As long as a far server takes at most; a lost datagram is not repeated.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads a time server's name, `host:port`, as [`offset_ms`] takes it.
pub(crate) fn parse_server(text: &str) -> Result<String, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("there is no port; hint: {text}:123"));
    };
    if host.is_empty() || host.contains(|c: char| c == ':' || c == '/' || c.is_whitespace()) {
        return Err(
            "the part before the port is neither a name nor an IPv4 address; hint: pool.ntp.org:123"
                .to_owned(),
        );
    }
    match port.parse::<NonZeroU16>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{port:?} is no port from 1 to 65535; hint: {host}:123")),
    }
}

/// Asks `server` (`host:port`). Returns how many milliseconds its clock is ahead of ours; `now` is ours, milliseconds since 1970.
pub(crate) async fn offset_ms(server: &str, now: impl Fn() -> i64) -> io::Result<i64> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    let sent = now();
    let asked = Instant::now();
    let mut question = [0; PACKET];
    question[0] = CLIENT;
    question[40..].copy_from_slice(&to_ntp(sent));
    socket.send(&question).await?;
    let mut answer = [0; PACKET + 20];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in 3 s"))??;
    let round_trip = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    let theirs = read(&question, answer.get(..length).unwrap_or_default()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is not one of a time server",
        )
    })?;
    // Its answer left half a round trip before it arrived, as far as anybody can know.
    Ok(theirs.saturating_sub(sent.saturating_add(round_trip / 2)))
}

/// When the answer left, milliseconds since 1970, if it is one to this question.
fn read(question: &[u8; PACKET], answer: &[u8]) -> Option<i64> {
    let answer = answer.get(..PACKET)?;
    let is_server = answer[0] & 0x07 == 4;
    let is_synchronised = answer[0] >> 6 != 3 && (1..16).contains(&answer[1]);
    let is_ours = answer[24..32] == question[40..];
    if !(is_server && is_synchronised && is_ours) {
        return None;
    }
    let seconds = u32::from_be_bytes(answer[40..44].try_into().ok()?);
    let fraction = u32::from_be_bytes(answer[44..48].try_into().ok()?);
    let millis = (u64::from(fraction) * 1_000) >> 32;
    // Counts below the middle belong to the era that begins in 2036.
    let era = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    let unix = (u64::from(seconds) + era).checked_sub(EPOCH)?;
    i64::try_from(unix * 1_000 + millis).ok()
}

fn to_ntp(unix_ms: i64) -> [u8; 8] {
    let ms = u64::try_from(unix_ms).unwrap_or(0);
    let seconds = ((ms / 1_000 + EPOCH) & 0xffff_ffff) << 32;
    let fraction = ((ms % 1_000) << 32) / 1_000;
    (seconds | fraction).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_250;

    /// Answers one question with a clock that is `ahead`, after changing the answer.
    async fn server(ahead: i64, change: impl Fn(&mut [u8; PACKET]) + Send + 'static) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut question = [0; PACKET];
            let (_, from) = socket.recv_from(&mut question).await.unwrap();
            let mut answer = [0; PACKET];
            answer[0] = 0x24;
            answer[1] = 2;
            answer[24..32].copy_from_slice(&question[40..]);
            answer[40..].copy_from_slice(&to_ntp(NOW + ahead));
            change(&mut answer);
            socket.send_to(&answer, from).await.unwrap();
        });
        tasks.detach_all();
        address
    }

    #[tokio::test]
    async fn a_clock_that_is_off_is_told_by_how_much() {
        for ahead in [0, 90_000, -7_500] {
            let address = server(ahead, |_| {}).await;
            let offset = offset_ms(&address, || NOW).await.unwrap();
            assert!((offset - ahead).abs() < 500, "{offset} for {ahead}");
        }
    }

    #[tokio::test]
    async fn an_answer_to_another_question_or_of_a_clock_that_is_not_set_is_refused() {
        let changes: [fn(&mut [u8; PACKET]); 3] = [|a| a[24] ^= 1, |a| a[1] = 0, |a| a[0] = 0xe4];
        for change in changes {
            let address = server(0, change).await;
            assert!(offset_ms(&address, || NOW).await.is_err());
        }
    }

    #[test]
    fn a_server_is_named_by_host_and_port_and_nothing_else() {
        for good in ["pool.ntp.org:123", "10.0.0.1:65535"] {
            assert_eq!(parse_server(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "pool.ntp.org",
            "pool.ntp.org:",
            "pool.ntp.org:ntp",
            "pool.ntp.org:0",
            "pool.ntp.org:65536",
            ":123",
            "ntp://pool.ntp.org:123",
            "[::1]:123",
            "a b:123",
        ] {
            let said = parse_server(bad).unwrap_err();
            assert!(said.contains("hint: "), "{bad}: {said}");
        }
    }

    #[test]
    fn the_era_after_2036_is_read_as_such() {
        let question = [0; PACKET];
        let mut answer = [0; PACKET];
        (answer[0], answer[1]) = (0x24, 1);
        let in_2040 = 2_208_988_800_000;
        answer[40..].copy_from_slice(&to_ntp(in_2040));
        assert_eq!(read(&question, &answer), Some(in_2040));
    }
}
