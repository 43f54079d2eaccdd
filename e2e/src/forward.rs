//! Ports on 127.0.0.1 that lead into a network namespace.
//!
//! A thread may enter a network namespace alone, and a socket stays in the one it was made in: each connection is accepted
//! in the machine's namespace, and a thread that has entered the cluster's connects onward. No address or link is
//! shared between the two.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Connections at once: a browser or a kubectl opens a handful, and each costs two threads here.
const MAX_CONNECTIONS: usize = 256;

/// The other end is on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A listening port; it accepts when [`Forward::serve`] runs.
#[derive(Debug)]
pub struct Forward {
    listener: TcpListener,
    namespace: PathBuf,
    target: SocketAddr,
}

impl Forward {
    /// Listens on 127.0.0.1 at `port`, or at a free port for 0. `namespace` is a path such as `/proc/<pid>/ns/net`.
    pub fn bind(port: u16, namespace: &Path, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("failed to listen on 127.0.0.1:{port}"))?;
        Ok(Self {
            listener,
            namespace: namespace.into(),
            target,
        })
    }

    /// The address to connect to.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("failed to read a listening address")
    }

    /// Accepts for ever.
    pub fn serve(self) -> Result<()> {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let (client, _) = self.listener.accept().context("failed to accept a connection")?;
            if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::SeqCst);
                continue; // Dropping the connection closes it.
            }
            let (namespace, target, count) = (self.namespace.clone(), self.target, Arc::clone(&open));
            std::thread::spawn(move || {
                if let Err(error) = connect(&namespace, target).and_then(|server| Ok(join(client, server)?)) {
                    eprintln!("connection to {target}: {error:#}");
                }
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Accepts on a thread that lives as long as the process; returns the address to connect to.
    pub fn serve_in_background(self) -> Result<SocketAddr> {
        let address = self.address()?;
        std::thread::spawn(move || {
            if let Err(error) = self.serve() {
                eprintln!("forward on {address} ended: {error:#}");
            }
        });
        Ok(address)
    }
}

/// Connects from inside a network namespace. The calling thread stays there: call it on one made for the purpose.
fn connect(namespace: &Path, target: SocketAddr) -> Result<TcpStream> {
    let namespace =
        File::open(namespace).with_context(|| format!("failed to open {}", namespace.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("failed to enter the cluster's network")?;
    TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)
        .with_context(|| format!("failed to connect to {target}"))
}

fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || pump(from_server, to_client));
    pump(client, server);
    let _ = back.join();
    Ok(())
}

/// Copies until the end, then passes the end on. An error ends both directions, as a closed connection would.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let ended = io::copy(&mut from, &mut to);
    let _ = to.shutdown(if ended.is_ok() {
        Shutdown::Write
    } else {
        Shutdown::Both
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Entering a namespace, even one's own, is for root only.
    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn bytes_pass_both_ways_and_the_end_is_passed_on() {
        if !is_root() {
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let forward = Forward::bind(0, Path::new("/proc/self/ns/net"), target).unwrap();
        let mut client = TcpStream::connect(forward.serve_in_background().unwrap()).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HELLO");
        echo.join().unwrap();
    }
}
