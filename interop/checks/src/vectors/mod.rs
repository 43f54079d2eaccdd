//! Checking folders of vector files: JSON made by running the JavaScript packages.
//!
//! A file's name and head say what its cases are; a case is **rebuilt** from its inputs by the product and must be equal to
//! the recorded one (see `cumulet-vectors`). What is not known (a file, a field of a head, a kind of case, a field) fails
//! and is named. Nothing here stops at the first failure.

mod data;
mod network;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, difference, ensure, items};
use serde_json::Value;

/// Which specification a file belongs to: some names are in both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plane {
    /// Cores and what is in them; heads have `about`.
    Data,
    /// How peers meet; heads have `format` and `set`.
    Network,
}

/// A case that failed, or a file that could not be read.
#[derive(Debug)]
pub struct Failure {
    /// The file.
    pub file: PathBuf,
    /// Number of the case in its file from 0, and its kind, tag or name; none for the file as a whole.
    pub case: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let case = self.case.as_deref().unwrap_or("the file");
        write!(f, "{}: {case}: {}", self.file.display(), self.reason)
    }
}

/// What came of a folder.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases that passed.
    pub passed: usize,
    /// Everything that did not.
    pub failures: Vec<Failure>,
}

/// Checks all files in a folder and its folders, and tells each file's counts to `progress`.
pub fn check(folder: &Path, mut progress: impl FnMut(&str)) -> std::io::Result<Report> {
    let mut report = Report::default();
    let files = files(folder)?;
    if files.is_empty() {
        let reason = "there are no vector files here".to_owned();
        report.failures.push(Failure {
            file: folder.to_owned(),
            case: None,
            reason,
        });
    }
    for file in files {
        let (passed, failed) = (report.passed, report.failures.len());
        check_file(&file, &mut report);
        let (passed, failed) = (report.passed - passed, report.failures.len() - failed);
        progress(&format!("{}: {passed} passed, {failed} failed", file.display()));
    }
    Ok(report)
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn check_file(file: &Path, report: &mut Report) {
    let fail = |case: Option<String>, reason: String| Failure {
        file: file.to_owned(),
        case,
        reason,
    };
    let (mut checker, cases) = match open(file) {
        Ok(opened) => opened,
        Err(reason) => return report.failures.push(fail(None, reason.to_string())),
    };
    for (index, case) in cases.iter().enumerate() {
        match outcome(&mut checker, case) {
            Ok(()) => report.passed += 1,
            Err(reason) => {
                let names = ["kind", "tag", "name", "what"].map(|field| case[field].as_str());
                let names: Vec<&str> = names.into_iter().flatten().collect();
                report
                    .failures
                    .push(fail(Some(format!("case {index} ({})", names.join(", "))), reason));
            }
        }
    }
}

fn outcome(checker: &mut Checker, case: &Value) -> Result<(), String> {
    let rebuilt: Result<Rebuilt, _> = catch_unwind(AssertUnwindSafe(|| checker(case)));
    let rebuilt = rebuilt.map_err(|_| "the product panicked".to_owned())?;
    let ours = rebuilt.map_err(|reason| reason.to_string())?;
    difference(case, &ours).map_or(Ok(()), Err)
}

fn open(file: &Path) -> Result<(Checker, Vec<Value>), Reason> {
    let name = file.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.strip_suffix(".json"));
    let stem = stem.ok_or_else(|| Reason::new("unknown file: not named *.json"))?;
    let mut head: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    ensure(
        head.text("name")? == stem,
        "the file has another name than its head",
    )?;
    let cases = items(head.at("cases")?)?.to_vec();
    ensure(!cases.is_empty(), "there are no cases")?;
    if let Some(fields) = head.as_object_mut() {
        fields.remove("cases");
    }
    let (plane, mut known) = if head.given("about").is_some() {
        (Plane::Data, vec!["name", "about"])
    } else {
        ensure(head.uint("format")? == 1, "format is not 1")?;
        ensure(head.text("set")? == "vectors", "set is not vectors")?;
        (
            Plane::Network,
            vec!["name", "format", "set", "source", "rule", "note"],
        )
    };
    let (checker, own_fields) = checker(plane, stem, &head)?;
    known.extend(own_fields);
    let mut fields = head.as_object().into_iter().flat_map(serde_json::Map::keys);
    match fields.find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(Reason::new(format!("unknown field {field} of the head"))),
        None => Ok((checker, cases)),
    }
}

/// What checks the file of this name, and which fields of the head are its own.
fn checker(plane: Plane, name: &str, head: &Value) -> Result<(Checker, &'static [&'static str]), Reason> {
    let stateless = |rebuild: fn(&Value) -> Rebuilt| -> Checker { Box::new(rebuild) };
    Ok(match (plane, name) {
        (Plane::Data, "corestore") => (stateless(data::corestore::rebuild), &[]),
        (Plane::Data, "encoding") => (stateless(data::encoding::rebuild), &[]),
        (Plane::Data, "encryption") => (stateless(data::encryption::rebuild), &[]),
        (Plane::Data, "hyperbee") => (stateless(data::hyperbee::rebuild), &[]),
        (Plane::Data, "hyperblobs") => (stateless(data::hyperblobs::rebuild), &[]),
        (Plane::Data, "hyperdrive") => (stateless(data::hyperdrive::rebuild), &[]),
        (Plane::Data, "keys") => (stateless(data::keys::rebuild), &[]),
        (Plane::Data, "merkle") => (data::merkle::checker(head)?, &["publicKey", "secretKey"]),
        (Plane::Data, "messages") => (stateless(data::messages::rebuild), &[]),
        (Plane::Data, "proofs") => (data::proofs::checker(head)?, &["publicKey"]),
        (Plane::Data, "protomux") => (stateless(data::protomux::rebuild), &[]),
        (Plane::Data, "secret-stream") => (stateless(data::secret_stream::rebuild), &[]),
        (Plane::Data, "transcripts") => (stateless(data::transcripts::rebuild), &[]),
        (Plane::Data, "wakeup") => (stateless(data::wakeup::rebuild), &[]),
        (Plane::Network, "blind-peer") => (stateless(network::relay::blind_peer), &[]),
        (Plane::Network, "blind-relay") => (network::relay::blind_relay(head)?, &["protomux"]),
        (Plane::Network, "dht-relay") => (network::relay::dht_relay(head)?, &["protocol", "message_type"]),
        (Plane::Network, "hyperswarm-rules") => (stateless(cumulet_hyperswarm::vectors::rules), &[]),
        (Plane::Network, "noise-dh") => (stateless(network::noise::dh), &[]),
        (Plane::Network, "noise-ik") => (stateless(network::noise::ik), &["protocol_name"]),
        (Plane::Network, "noise-xx") => (stateless(network::noise::xx), &["protocol_name"]),
        (Plane::Network, "protomux") => (stateless(network::protomux::rebuild), &[]),
        (Plane::Network, "protomux-rpc") => (stateless(network::relay::protomux_rpc), &[]),
        (Plane::Network, "secret-stream") => (network::secret_stream::checker(head)?, &["namespaces"]),
        (Plane::Network, "secret-stream-datagrams") => (stateless(network::secret_stream::datagrams), &[]),
        (Plane::Network, "udx") => (network::udx::checker(), &[]),
        (Plane::Network, name) => match cumulet_hyperdht::vectors::rebuilder(name) {
            Some(rebuild) => (stateless(rebuild), &["constant"]),
            None => return cumulet_vectors::unknown("file", name),
        },
        (Plane::Data, name) => return cumulet_vectors::unknown("file", name),
    })
}
