//! What a client's session decides, without IO.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_relay::blind_relay::{Admission, MemberLimits};
use cumulet_relay::dht_relay::{Custody, Handshaken, Message};
use cumulet_secret_stream::noise::KeyPair;

use crate::accounts::{Accounts, Limits};
use crate::session::{Command, Occurrence, Session, SessionEnd};

fn custody(seed: u8) -> Custody {
    let key_pair = KeyPair::from_seed([seed; 32]);
    let mut secret_key = [seed; 64];
    secret_key[32..].copy_from_slice(key_pair.public_key());
    Custody {
        public_key: *key_pair.public_key(),
        secret_key: Some(secret_key),
    }
}

struct Client {
    session: Session,
    accounts: Arc<Mutex<Accounts>>,
    now: Instant,
}

impl Client {
    fn new(member: MemberLimits) -> Self {
        let policy = move |_: &[u8; 32]| Admission::Member(member);
        let accounts = Arc::new(Mutex::new(Accounts::new(Limits::default(), Arc::new(policy))));
        accounts.lock().unwrap().arrive().unwrap();
        let now = Instant::now();
        let session = Session::new(accounts.clone(), now);
        Self {
            session,
            accounts,
            now,
        }
    }

    fn identified(member: MemberLimits) -> Self {
        let mut client = Self::new(member);
        client.say(&Message::Handshake { custody: custody(1) }).unwrap();
        client
    }

    fn say(&mut self, message: &Message) -> Result<(), SessionEnd> {
        self.session
            .on_message(self.now, message.number(), &message.encode())
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.session.poll_command()).collect()
    }

    fn told(&mut self) -> Vec<Message> {
        let sent = self.commands().into_iter().filter_map(|command| match command {
            Command::Send(message) => Some(message),
            _ => None,
        });
        sent.collect()
    }

    /// An open stream that the client calls 5; our name of it.
    fn open_stream(&mut self) -> u32 {
        let connect = Message::Connect {
            alias: 5,
            custody: custody(1),
            remote_public_key: [3; 32],
        };
        self.say(&connect).unwrap();
        let stream = match self.commands().as_slice() {
            [Command::Dial { stream, .. }] => *stream,
            other => panic!("{other:?}"),
        };
        self.session
            .on_occurrence(self.now, Occurrence::Connected(stream, [4; 64]));
        let open = Message::Open {
            alias: stream,
            remote_alias: 5,
            handshake: Handshaken::Hash([4; 64]),
        };
        assert_eq!(self.told(), [open]);
        stream
    }
}

#[test]
fn nothing_is_done_for_who_did_not_show_its_secret_key() {
    let mut stranger = Client::new(MemberLimits::default());
    let lookup = Message::Lookup {
        id: 1,
        topic: [1; 32],
    };
    assert!(matches!(stranger.say(&lookup), Err(SessionEnd::Protocol(_))));
    let mut forged = custody(1);
    forged.public_key = custody(2).public_key;
    let hidden = Custody {
        secret_key: None,
        ..custody(1)
    };
    for custody in [forged, hidden] {
        let mut client = Client::new(MemberLimits::default());
        assert_eq!(
            client.say(&Message::Handshake { custody }),
            Err(SessionEnd::NotCustodial)
        );
    }
}

#[test]
fn a_used_up_quota_ends_the_stream_on_both_sides_and_gives_its_place_back() {
    let mut client = Client::identified(MemberLimits {
        quota_bytes: Some(10),
        ..MemberLimits::default()
    });
    let stream = client.open_stream();
    let data = |bytes: &'static [u8]| Message::Data {
        alias: 5,
        data: vec![Bytes::from_static(bytes)],
    };
    client.say(&data(b"12345678")).unwrap();
    assert!(matches!(client.commands().as_slice(), [Command::Write(_, _)]));
    client
        .session
        .on_occurrence(client.now, Occurrence::Data(stream, Bytes::from_static(b"1234")));
    let commands = client.commands();
    assert!(
        matches!(commands.as_slice(), [Command::Send(Message::Destroy { alias: Some(alias), .. }), Command::Destroy(_)] if *alias == stream),
        "{commands:?}"
    );
    assert_eq!(client.accounts.lock().unwrap().counters.streams, 0);
    // What was on its way is ignored.
    client.say(&data(b"1")).unwrap();
    client
        .session
        .on_occurrence(client.now, Occurrence::Closed(stream, None));
    assert!(client.commands().is_empty());
}

#[test]
fn a_clean_end_leaves_the_client_what_it_has_not_read_and_a_broken_one_tells_why() {
    let mut client = Client::identified(MemberLimits::default());
    let stream = client.open_stream();
    client
        .session
        .on_occurrence(client.now, Occurrence::Ended(stream));
    client
        .session
        .on_occurrence(client.now, Occurrence::Closed(stream, None));
    assert_eq!(client.told(), [Message::End { alias: stream }]);
    let stream = client.open_stream();
    client
        .session
        .on_occurrence(client.now, Occurrence::Closed(stream, Some("why".to_owned())));
    let destroy = Message::Destroy {
        alias: Some(stream),
        remote_alias: None,
        error: Some("why".to_owned()),
    };
    assert_eq!(client.told(), [destroy]);
}

#[test]
fn a_connection_is_kept_until_the_client_takes_it_and_dropped_when_it_does_not() {
    let mut client = Client::identified(MemberLimits::default());
    client
        .say(&Message::Listen {
            alias: 9,
            custody: custody(1),
        })
        .unwrap();
    let server = match client.commands().as_slice() {
        [Command::Listen { server, .. }] => *server,
        other => panic!("{other:?}"),
    };
    let mut offers = Vec::new();
    for _ in 0..3 {
        client
            .session
            .on_incoming(client.now, server, [3; 32], [4; 64])
            .unwrap();
        match client.told().as_slice() {
            [Message::Incoming { id, .. }] => offers.push(*id),
            other => panic!("{other:?}"),
        }
    }
    client.say(&Message::Accept { id: offers[0] }).unwrap();
    let commands = client.commands();
    assert!(matches!(
        commands.as_slice(),
        [Command::Send(Message::Connection { .. }), Command::Start(_)]
    ));
    client.say(&Message::Deny { id: offers[1] }).unwrap();
    assert!(matches!(client.commands().as_slice(), [Command::Destroy(_)]));
    // The third is never answered.
    client.now = client.session.poll_timeout();
    client.session.handle_timeout(client.now, true).unwrap();
    let dropped = client.commands();
    assert!(
        dropped
            .iter()
            .any(|command| matches!(command, Command::Destroy(_)))
    );
    assert_eq!(client.accounts.lock().unwrap().counters.streams, 1);
    client.session.end();
    assert_eq!(client.accounts.lock().unwrap().counters.streams, 0);
}

#[test]
fn a_silent_client_is_given_up_but_not_while_we_do_not_listen() {
    let mut client = Client::identified(MemberLimits::default());
    let end = client.now + Duration::from_mins(2);
    let mut pings = 0;
    while client.now < end {
        client.now = client.session.poll_timeout();
        client.session.handle_timeout(client.now, false).unwrap();
        pings += client
            .told()
            .iter()
            .filter(|message| **message == Message::Ping)
            .count();
    }
    assert!((7..=9).contains(&pings), "{pings}");
    let silent = std::iter::from_fn(|| {
        client.now = client.session.poll_timeout();
        Some(client.session.handle_timeout(client.now, true))
    });
    let ended = silent.take(10).find(Result::is_err);
    assert_eq!(ended, Some(Err(SessionEnd::Silent)));
}

#[test]
fn no_messages_of_a_hostile_client_panic_or_grow_the_books() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let mut client = Client::identified(MemberLimits::default());
        for _ in 0..200 {
            let length = next() as usize % 140;
            // Small numbers, so that aliases meet.
            let bytes: Vec<u8> = (0..length)
                .map(|at| if at < 12 { (next() % 3) as u8 } else { next() as u8 })
                .collect();
            if client
                .session
                .on_message(client.now, next() % 30, &bytes)
                .is_err()
            {
                break;
            }
            assert!(client.commands().len() < 4);
        }
        client.session.end();
        let counters = client.accounts.lock().unwrap().counters;
        assert_eq!((counters.streams, counters.clients), (0, 0));
    }
}
