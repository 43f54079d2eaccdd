//! Programs of the user's, one in each place.

use std::cell::Cell;
use std::future::Future;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cumulet_net_lab::{Namespace, Services, Usage};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::report::Outcome;
use crate::failure::{Context, Result};
use crate::output::Output;

/// Bytes of a line of a program that are shown.
const MAX_LINE: usize = 4_096;
/// How often it is looked at what programs use: a peak between two looks is missed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where programs run, and what they are told.
pub(super) struct Programs<'a> {
    pub(super) out: &'a Output,
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    /// The blind relay's public key, and the topic of simulated peers, in hex.
    pub(super) relay: String,
    pub(super) topic: Option<String>,
    /// What the client prints when it has connected.
    pub(super) until: Option<&'a str>,
}

/// A running program.
struct Program {
    side: &'static str,
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Programs<'_> {
    /// Runs both until the client has connected, and then until `load` is over.
    pub(super) async fn run(
        &self,
        client: &str,
        server: &str,
        timeout: Duration,
        load: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let mut server = self
            .start("server", &self.server, server)
            .context("failed to start the server")?;
        let mut client = self
            .start("client", &self.client, client)
            .context("failed to start the client")?;
        let used = [Cell::default(), Cell::default()];
        let begun = Instant::now();
        let connected = async {
            tokio::select! {
                ended = self.connected(&mut client) => ended,
                () = self.show(&mut server) => Err("the server closed its output".to_owned()),
                () = tokio::time::sleep(timeout) => Err(format!("no connection in {} s", timeout.as_secs())),
                never = self.watch(&used) => never,
            }
        };
        let mut outcome = Outcome::default();
        if let Err(error) = connected.await {
            outcome.error = Some(format!("failed to connect: {error}"));
        } else {
            outcome.connected_ms = Some(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
            let loaded = tokio::select! {
                biased;
                () = load => Ok(()),
                error = self.stays(&mut client) => Err(error),
                error = self.stays(&mut server) => Err(error),
                never = self.watch(&used) => never,
            };
            outcome.error = loaded.err();
        }
        self.look(&used);
        Ok(Outcome {
            used: Some(used.map(Cell::into_inner)),
            ..outcome
        })
    }

    fn start(&self, side: &'static str, place: &Namespace, command: &str) -> Result<Program> {
        let mut shell = place.command("sh");
        shell.args(["-c", command]);
        shell.env("CUMULET_BOOTSTRAP", Services::bootstrap().join(","));
        shell.env("CUMULET_RELAY", &self.relay);
        if let Some(topic) = &self.topic {
            shell.env("CUMULET_TOPIC", topic);
        }
        let mut child = Command::from(shell)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = child.stdout.take().map(|output| BufReader::new(output).lines());
        Ok(Program { side, child, lines })
    }

    /// Waits until the client has connected; why not, else.
    async fn connected(&self, client: &mut Program) -> std::result::Result<(), String> {
        while let Some(line) = next(&mut client.lines).await {
            self.note(client.side, &line);
            if self.until.is_some_and(|text| line.contains(text)) {
                return Ok(());
            }
        }
        client.lines = None;
        match client.child.wait().await {
            Ok(status) if status.success() && self.until.is_none() => Ok(()),
            Ok(status) => Err(format!("the client ended ({status})")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Shows what a program says until it ends in failure; why, then.
    async fn stays(&self, program: &mut Program) -> String {
        self.show(program).await;
        match program.child.wait().await {
            // It has done what it was for.
            Ok(status) if status.success() => std::future::pending().await,
            Ok(status) => format!("the {} ended under load ({status})", program.side),
            Err(error) => error.to_string(),
        }
    }

    /// Until the program closes its output.
    async fn show(&self, program: &mut Program) {
        while let Some(line) = next(&mut program.lines).await {
            self.note(program.side, &line);
        }
    }

    /// Looks at what the programs use, for ever.
    async fn watch<T>(&self, used: &[Cell<Usage>; 2]) -> T {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(used);
        }
    }

    fn look(&self, used: &[Cell<Usage>; 2]) {
        for (place, used) in [&self.client, &self.server].into_iter().zip(used) {
            // What can't be read now may be the next time; nothing else hangs on it.
            if let Ok(now) = place.usage() {
                used.set(used.get().max(now));
            }
        }
    }

    fn note(&self, side: &str, line: &str) {
        let shown: String = line.chars().take(MAX_LINE).collect();
        self.out.note(format_args!("{side}: {shown}"));
    }
}

/// The next line, if there is one. Nothing is lost when it is cancelled.
async fn next(lines: &mut Option<Lines<BufReader<impl AsyncRead + Unpin>>>) -> Option<String> {
    lines.as_mut()?.next_line().await.ok().flatten()
}
