//! One network namespace: threads and programs in it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A network namespace with a name. Clones name the same one; none of them keeps it.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    ip: PathBuf,
}

impl Namespace {
    pub(crate) fn new(name: impl Into<String>, ip: PathBuf) -> Self {
        Self {
            name: name.into(),
            ip,
        }
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` in it, with the privileges of this process; to be given arguments and started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread of its own in the namespace: every socket it makes belongs there. Threads that it starts do so
    /// too; a tokio runtime built in it must be one of the current thread, or build its workers in it.
    pub fn run<T, Work>(&self, work: Work) -> io::Result<JoinHandle<io::Result<T>>>
    where
        T: Send + 'static,
        Work: FnOnce() -> T + Send + 'static,
    {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })
    }

    /// Runs what `work` returns on a runtime of its own in the namespace, until it is done or `cancel` is cancelled, which also ends
    /// every task it started. The receiver fails if there is no result.
    pub fn spawn<T, Work, Done>(
        &self,
        cancel: CancellationToken,
        work: Work,
    ) -> io::Result<oneshot::Receiver<io::Result<T>>>
    where
        T: Send + 'static,
        Work: FnOnce() -> Done + Send + 'static,
        Done: Future<Output = T>,
    {
        let (done, result) = oneshot::channel();
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime.map(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => None,
                        outcome = work() => Some(outcome),
                    }
                })
            });
            if let Some(outcome) = outcome.transpose() {
                // Whoever asked may have gone.
                let _ = done.send(outcome);
            }
        })?;
        Ok(result)
    }

    /// [`Namespace::run`], and waits for the result.
    pub(crate) fn call<T, Work>(&self, work: Work) -> io::Result<T>
    where
        T: Send + 'static,
        Work: FnOnce() -> io::Result<T> + Send + 'static,
    {
        match self.run(work)?.join() {
            Ok(result) => result?,
            Err(_) => Err(io::Error::other("a thread in the namespace panicked")),
        }
    }
}
