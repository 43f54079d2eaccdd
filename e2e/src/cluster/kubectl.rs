//! kubectl, as a user would call it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{poll, process};

/// kubectl against one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    context: Option<String>,
}

impl Kubectl {
    /// A kubectl executable and a kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            context: None,
        }
    }

    /// As [`Self::new`], using a context other than the kubeconfig's current one.
    #[must_use]
    pub fn with_context(mut self, context: &str) -> Self {
        self.context = Some(context.into());
        self
    }

    /// The kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The context, when it is not the kubeconfig's current one.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The bare command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        command
    }

    /// Runs kubectl and returns what it printed.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        process::output(self.command().args(arguments))
    }

    /// Applies manifests from text, server-side.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        process::output_with_input(
            self.command()
                .args(["apply", "--server-side", "--force-conflicts", "--filename", "-"]),
            manifests,
        )
    }

    /// An object, or a list of them, as JSON.
    pub fn get<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let text = process::output(
            self.command()
                .arg("get")
                .args(arguments)
                .args(["--output", "json"]),
        )?;
        serde_json::from_str(&text).context("failed to understand what kubectl printed")
    }

    /// Waits until a look at an object gives a value.
    pub fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        object: &[&str],
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        poll::until_every(Duration::from_millis(500), what, timeout, || {
            Ok(look(&self.get(object.iter().copied())?))
        })
    }
}

/// The status and reason of a condition in an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((
        found["status"].as_str()?,
        found["reason"].as_str().unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_found_by_its_type() {
        let object = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "Synced", "status": "False", "reason": "NoPeers"},
        ]}});
        assert_eq!(condition(&object, "Synced"), Some(("False", "NoPeers")));
        assert_eq!(condition(&object, "Ready"), Some(("True", "")));
        assert_eq!(condition(&object, "BackedUp"), None);
    }
}
