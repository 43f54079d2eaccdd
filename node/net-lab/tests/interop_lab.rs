//! The networks are what they say: seen by plain sockets, without any DHT. Needs root, `ip` and `nft`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cumulet_net_lab::{Lab, Namespace, Nat, PREFIX, Topology};
use support::can_run;

/// What stays away this long does not come: packets cross a lab in well under a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

fn lab(text: &str) -> Lab {
    Lab::up(Topology::parse(text, 1).unwrap()).unwrap()
}

fn within<T: Send + 'static>(place: &Namespace, work: impl FnOnce() -> T + Send + 'static) -> T {
    place.run(work).unwrap().join().unwrap().unwrap()
}

fn socket(place: &Namespace, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = within(place, move || UdpSocket::bind((address, port)).unwrap());
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

/// The next datagram's text and where it came from, if one comes.
fn receive(socket: &UdpSocket) -> Option<(String, SocketAddr)> {
    let mut buffer = [0; 2_000];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn service(number: u8, port: u16) -> (Ipv4Addr, u16) {
    (Topology::service_address(number), port)
}

#[test]
fn every_nat_maps_and_filters_as_its_kind_says() {
    if !can_run(false) {
        return;
    }
    // Kind, one port for all destinations, lets in: the same host's other port, another host.
    let kinds = [
        (Nat::Open, true, true, true),
        (Nat::FullCone, true, true, true),
        (Nat::Restricted, true, true, false),
        (Nat::PortRestricted, true, false, false),
        (Nat::Symmetric, false, false, false),
        (Nat::Campus, true, false, false),
    ];
    for (kind, one_port, other_port, other_host) in kinds {
        let lab = lab(&format!("{}:open", kind.name()));
        let internet = lab.internet();
        let at = |(address, port)| socket(&internet, address, port);
        let (first, second, third) = (at(service(0, 1000)), at(service(0, 1001)), at(service(1, 1000)));
        let host = socket(&lab.host(0, 0), Ipv4Addr::UNSPECIFIED, 5_000);
        host.send_to(b"out", service(0, 1000)).unwrap();
        let (_, seen) = receive(&first).unwrap();
        assert_eq!(seen.ip(), Topology::public_address(0), "{kind:?}");
        for (from, text, passes) in [
            (&first, "answer", true),
            (&second, "other port", other_port),
            (&third, "other host", other_host),
        ] {
            from.send_to(text.as_bytes(), seen).unwrap();
            let came = receive(&host).map(|(text, _)| text);
            assert_eq!(came.as_deref(), passes.then_some(text), "{kind:?}");
        }
        host.send_to(b"out", service(0, 1001)).unwrap();
        host.send_to(b"out", service(1, 1000)).unwrap();
        let ports = [&second, &third].map(|socket| receive(socket).unwrap().1.port());
        let same = ports == [seen.port(); 2];
        assert_eq!(same, one_port, "{kind:?}: {seen} {ports:?}");
        // Once written to, the other two get in everywhere, at the port they saw.
        let mut third_seen = seen;
        third_seen.set_port(ports[1]);
        third.send_to(b"late", third_seen).unwrap();
        assert_eq!(receive(&host).unwrap().0, "late", "{kind:?}");
    }
}

#[test]
fn an_early_packet_of_a_peer_does_not_cost_us_our_port() {
    if !can_run(false) {
        return;
    }
    let lab = lab("port-restricted:port-restricted");
    let ends = [0, 1].map(|site| socket(&lab.host(site, 0), Ipv4Addr::UNSPECIFIED, 5_000));
    let addresses = [0, 1].map(|site| (Topology::public_address(site), 5_000));
    ends[0].send_to(b"early", addresses[1]).unwrap();
    assert!(receive(&ends[1]).is_none());
    ends[1].send_to(b"punched", addresses[0]).unwrap();
    let (text, from) = receive(&ends[0]).unwrap();
    assert_eq!((text.as_str(), from), ("punched", addresses[1].into()));
    ends[0].send_to(b"back", addresses[1]).unwrap();
    assert_eq!(receive(&ends[1]).unwrap().1, addresses[0].into());
}

#[test]
fn blocked_udp_leaves_tcp_and_nothing_else() {
    if !can_run(false) {
        return;
    }
    let lab = lab("udp-blocked:open");
    let outside = socket(&lab.internet(), Topology::service_address(0), 1000);
    let host = socket(&lab.host(0, 0), Ipv4Addr::UNSPECIFIED, 5_000);
    host.send_to(b"out", service(0, 1000)).unwrap();
    assert!(receive(&outside).is_none());
    let listener = within(&lab.internet(), || TcpListener::bind(service(0, 80)).unwrap());
    let mut dialled = within(&lab.host(0, 0), || TcpStream::connect(service(0, 80)).unwrap());
    dialled.write_all(b"hello").unwrap();
    let (mut accepted, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), Topology::public_address(0));
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn hosts_of_a_campus_do_not_reach_each_other_and_those_of_a_home_do() {
    if !can_run(false) {
        return;
    }
    for (text, reach) in [("campus", false), ("port-restricted", true)] {
        let lab = lab(text);
        let ends = [0, 1].map(|host| socket(&lab.host(0, host), Ipv4Addr::UNSPECIFIED, 5_000));
        let neighbour = lab.topology().host_address(0, 1);
        ends[0].send_to(b"hello", (neighbour, 5_000)).unwrap();
        assert_eq!(receive(&ends[1]).is_some(), reach, "{text}");
        assert_eq!(lab.traffic(0, 1).unwrap().neighbours > 0, reach, "{text}");
    }
}

#[test]
fn a_satellite_delays_and_a_lossy_line_loses_the_same_packets_every_time() {
    if !can_run(false) {
        return;
    }
    let lost = || {
        let lab = lab("open+loss=20%:open+satellite");
        let near = socket(&lab.host(0, 0), Ipv4Addr::UNSPECIFIED, 5_000);
        let far = socket(&lab.host(1, 0), Ipv4Addr::UNSPECIFIED, 5_000);
        far.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let to = (Topology::public_address(1), 5_000);
        let begun = Instant::now();
        let mut fastest = Duration::MAX;
        let mut arrived = Vec::new();
        let send = |number: u32| near.send_to(number.to_string().as_bytes(), to).unwrap();
        // The first one finds the way; the others must not overtake each other meanwhile.
        send(0);
        let mut next = receive(&far);
        (1..50).for_each(|number| {
            send(number);
        });
        next = next.or_else(|| receive(&far));
        while let Some((text, _)) = next {
            fastest = fastest.min(begun.elapsed());
            arrived.push(text.parse::<u32>().unwrap());
            next = receive(&far);
        }
        assert!(fastest >= Duration::from_millis(300), "{fastest:?}");
        assert!(fastest < Duration::from_millis(600), "{fastest:?}");
        assert!((25..50).contains(&arrived.len()), "{} arrived", arrived.len());
        arrived
    };
    assert_eq!(lost(), lost());
}

#[test]
fn tcp_crosses_an_impaired_line_at_its_rate() {
    if !can_run(false) {
        return;
    }
    let lab = lab("port-restricted+rate=2Mbit+loss=1%:open");
    let address = (Topology::public_address(1), 80);
    let listener = within(&lab.host(1, 0), || TcpListener::bind("0.0.0.0:80").unwrap());
    let mut dialled = within(&lab.host(0, 0), move || TcpStream::connect(address).unwrap());
    let payload: Vec<u8> = (0..250_000_u32).map(|index| (index % 251) as u8).collect();
    let (mut accepted, _) = listener.accept().unwrap();
    let sent = payload.clone();
    let begun = Instant::now();
    let sender = std::thread::spawn(move || dialled.write_all(&sent));
    let mut heard = Vec::new();
    accepted.read_to_end(&mut heard).unwrap();
    let took = begun.elapsed();
    sender.join().unwrap().unwrap();
    assert!(heard == payload, "{} bytes", heard.len());
    // 2 Mbit at 2 Mbit/s, and headers.
    assert!((0.9..10.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn every_open_peer_has_a_public_address_of_its_own_whose_packets_count_as_its_site_s() {
    if !can_run(false) {
        return;
    }
    let mut topology = Topology::parse("open:symmetric", 1).unwrap();
    let kinds = Topology::parse_kinds("open").unwrap();
    let households = topology.add_peers(70, &kinds).unwrap();
    assert_eq!(
        households.iter().map(|here| here.peers).collect::<Vec<_>>(),
        [64, 6]
    );
    let lab = Lab::up(topology).unwrap();
    let host = socket(&lab.host(0, 0), Ipv4Addr::UNSPECIFIED, 5_000);
    for here in households {
        let site = here.site;
        let last = socket(
            &lab.host(site, 0),
            Topology::address_of_open(site, here.peers - 1),
            6_000,
        );
        last.send_to(b"hello", (Topology::public_address(0), 5_000))
            .unwrap();
        let (text, from) = receive(&host).unwrap();
        assert_eq!((text.as_str(), from), ("hello", last.local_addr().unwrap()));
        host.send_to(b"back", from).unwrap();
        assert!(receive(&last).is_some());
        assert!(lab.traffic(0, 0).unwrap().sites[&site] > 0);
        let carried = lab.host(site, 0).carried().unwrap();
        assert!(carried.sent > 0 && carried.received > 0, "{carried:?}");
    }
}

#[test]
fn what_the_programs_of_a_host_use_is_seen_and_what_others_use_is_not() {
    if !can_run(false) {
        return;
    }
    let lab = lab("open:open");
    let hosts = [0, 1].map(|site| lab.host(site, 0));
    // It counts in a child that ends, and then waits.
    let work = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; echo done; exec sleep 600";
    let mut program = hosts[0].command("sh");
    program.args(["-c", work]).stdout(std::process::Stdio::piped());
    let mut program = program.spawn().unwrap();
    let mut said = [0; 5];
    program.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let used = hosts[0].usage().unwrap();
    assert!(used.cpu_ms >= 10, "{used:?}");
    assert!((100 << 10..100 << 20).contains(&used.rss_bytes), "{used:?}");
    let nothing = hosts[1].usage().unwrap();
    assert_eq!((nothing.cpu_ms, nothing.rss_bytes), (0, 0));
    program.kill().unwrap();
    program.wait().unwrap();
}

#[test]
fn dropping_a_lab_leaves_nothing_and_a_dead_process_s_leftovers_go_with_the_next_one() {
    if !can_run(false) {
        return;
    }
    let of = |process: u32| -> Vec<String> {
        let entries = std::fs::read_dir("/run/netns").unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let prefix = format!("{PREFIX}{process}n");
        names.filter(|name| name.starts_with(&prefix)).collect()
    };
    let on_host = |name: &str| std::path::Path::new("/sys/class/net").join(name).exists();
    // Beyond the largest process id that there can be.
    let dead = 4_194_999;
    let add = |name: &str| {
        std::process::Command::new("ip")
            .args(["netns", "add", name])
            .status()
    };
    assert!(add(&format!("{PREFIX}{dead}n0-net")).unwrap().success());
    assert_eq!(of(dead).len(), 1);
    let first = lab("symmetric:open+lossy");
    assert!(of(dead).is_empty());
    // Other tests of this process have their own.
    assert!(
        ["wan", "lan", "near", "far", "s0", "s1", "h0"]
            .iter()
            .all(|name| !on_host(name))
    );
    let mine = first.host(0, 0).name().to_owned();
    assert!(of(std::process::id()).contains(&mine));
    let mut sleeper = first.host(0, 0).command("sleep").arg("600").spawn().unwrap();
    drop(first);
    assert!(!of(std::process::id()).contains(&mine));
    assert!(!sleeper.wait().unwrap().success(), "its programs end with it");
}
