//! Who may use the node's services: the node itself, its cloud's other replicas, the configuration's members, and the owner's
//! devices, which change while the node runs.
//!
//! Devices that `PUT /api/v1/devices` acknowledged survive a crash: the file is written beside, synced and renamed. A device that
//! is taken off may use nothing from that moment on; what was kept and backed up for it stays, so it is remembered that it was one.
//! Who is banned ([`Bans`]) may use nothing either, whatever else it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use cumulet_relay::blind_relay::{Admission, MemberLimits, Policy};
use serde::{Deserialize, Serialize};

use crate::bans::{Bans, BansError, Changed};
use crate::pins::Key;

/// Devices that one owner may have: far more than people do, and few enough for one small file.
pub const MAX_DEVICES: usize = 1024;
/// Former devices that are remembered, the newest: who changes devices for ever fills no disk.
const MAX_FORMER: usize = 16 * MAX_DEVICES;
/// The file in the data folder.
const FILE: &str = "devices.json";

/// Why the devices can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The file can't be read or written.
    #[error("failed to read or write the devices {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("failed to parse the devices {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        source: serde_json::Error,
    },
    /// More than a node keeps.
    #[error("too many devices: {given}, and at most {MAX_DEVICES} are possible")]
    TooMany {
        /// How many.
        given: usize,
    },
}

/// The file's text; keys are 64 hex digits.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    devices: Vec<String>,
    /// Oldest first.
    #[serde(default)]
    former: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct Devices {
    now: BTreeSet<Key>,
    /// Oldest first.
    former: Vec<Key>,
}

/// The members of a node.
#[derive(Debug)]
pub struct Members {
    /// Those of the configuration.
    fixed: BTreeSet<Key>,
    devices: RwLock<Devices>,
    path: PathBuf,
    bans: Bans,
}

impl Members {
    /// Those of the configuration, and the devices that are kept in the data folder. A file that can't be read is reported, and there
    /// are no devices until they are set again: nobody is admitted by mistake.
    ///
    /// # Errors
    /// [`BansError::Member`], if one of the configuration's members is banned.
    pub fn open(
        data_dir: &Path,
        fixed: impl IntoIterator<Item = Key>,
        bans: Bans,
    ) -> Result<(Self, Option<MembersError>), BansError> {
        let path = data_dir.join(FILE);
        let (devices, damaged) = match read(&path) {
            Ok(devices) => (devices, None),
            Err(error) => (Devices::default(), Some(error)),
        };
        let members = Self {
            fixed: fixed.into_iter().collect(),
            devices: RwLock::new(devices),
            path,
            bans,
        };
        members.refuse_banned_members(&members.bans.all())?;
        Ok((members, damaged))
    }

    fn refuse_banned_members(&self, bans: &BTreeSet<Key>) -> Result<(), BansError> {
        match self.fixed.intersection(bans).next() {
            Some(key) => Err(BansError::Member { key: *key }),
            None => Ok(()),
        }
    }

    fn lock(&self) -> RwLockReadGuard<'_, Devices> {
        self.devices.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this identity may use the services.
    pub fn contains(&self, identity: &Key) -> bool {
        self.is_named(identity) && !self.bans.contains(identity)
    }

    /// Whether it may, or might before it was taken off or banned.
    pub fn knew(&self, identity: &Key) -> bool {
        self.is_named(identity) || self.lock().former.contains(identity)
    }

    fn is_named(&self, identity: &Key) -> bool {
        self.fixed.contains(identity) || self.lock().now.contains(identity)
    }

    /// Who is kept out.
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Makes these the owner's bans, and only these; returns when they are on disk.
    ///
    /// # Errors
    /// [`BansError`]; nothing has changed then.
    pub fn set_bans(&self, bans: BTreeSet<Key>) -> Result<Changed, BansError> {
        self.refuse_banned_members(&bans)?;
        self.bans.set(bans)
    }

    /// The owner's devices, in the order of their keys.
    pub fn devices(&self) -> Vec<Key> {
        self.lock().now.iter().copied().collect()
    }

    /// Makes these the owner's devices, and only these; returns when they are on disk, and whether anything changed.
    ///
    /// # Errors
    /// [`MembersError`]; nothing has changed then.
    pub fn set_devices(&self, devices: BTreeSet<Key>) -> Result<bool, MembersError> {
        if devices.len() > MAX_DEVICES {
            return Err(MembersError::TooMany { given: devices.len() });
        }
        self.change(|kept| {
            kept.former.extend(kept.now.difference(&devices));
            kept.former.retain(|former| !devices.contains(former));
            kept.now = devices;
        })
    }

    /// Remembers that these were members, as a backup tells.
    ///
    /// # Errors
    /// [`MembersError`]; nothing has changed then.
    pub fn remember(&self, identities: impl IntoIterator<Item = Key>) -> Result<(), MembersError> {
        let unknown: BTreeSet<Key> = identities
            .into_iter()
            .filter(|identity| !self.knew(identity))
            .collect();
        self.change(|kept| kept.former.extend(unknown)).map(|_| ())
    }

    fn change(&self, change: impl FnOnce(&mut Devices)) -> Result<bool, MembersError> {
        let mut current = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = current.clone();
        change(&mut next);
        let too_many = next.former.len().saturating_sub(MAX_FORMER);
        next.former.drain(..too_many);
        if next.now == current.now && next.former == current.former {
            return Ok(false);
        }
        write(&self.path, &next).map_err(|source| MembersError::Io {
            path: self.path.clone(),
            source,
        })?;
        *current = next;
        Ok(true)
    }

    /// The rule for services that know members and others.
    pub(crate) fn policy(self: &Arc<Self>, others: Admission) -> Arc<dyn Policy> {
        let members = Arc::clone(self);
        Arc::new(move |identity: &Key| {
            if members.bans.contains(identity) {
                Admission::Refused
            } else if members.contains(identity) {
                Admission::Member(MemberLimits::default())
            } else {
                others
            }
        })
    }
}

fn read(path: &Path) -> Result<Devices, MembersError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Devices::default()),
        Err(source) => {
            return Err(MembersError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let parse = |source| MembersError::Parse {
        path: path.to_owned(),
        source,
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(parse)?;
    let key = |text: &String| {
        parse_key(text)
            .ok_or_else(|| parse(serde::de::Error::custom(format!("{text:?} is not 64 hex digits"))))
    };
    Ok(Devices {
        now: kept.devices.iter().map(key).collect::<Result<_, _>>()?,
        former: kept.former.iter().map(key).collect::<Result<_, _>>()?,
    })
}

fn write(path: &Path, devices: &Devices) -> io::Result<()> {
    let kept = Kept {
        devices: devices.now.iter().map(hex::encode).collect(),
        former: devices.former.iter().map(hex::encode).collect(),
    };
    write_whole(path, &kept)
}

/// Writes a file beside, syncs it and puts it in place.
pub(crate) fn write_whole(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(content)?)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent()
        .map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

/// A key of 64 hex digits.
pub(crate) fn parse_key(text: &str) -> Option<Key> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).ok().map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Key = [1; 32];
    const LAPTOP: Key = [2; 32];
    const REPLICA: Key = [9; 32];

    fn open(dir: &Path) -> Members {
        let bans = Bans::open(dir, []).unwrap();
        let (members, damaged) = Members::open(dir, [REPLICA], bans).unwrap();
        assert!(damaged.is_none(), "{damaged:?}");
        members
    }

    #[test]
    fn devices_are_there_after_a_restart_and_one_that_was_taken_off_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let members = open(dir.path());
        assert!(members.set_devices([PHONE, LAPTOP].into()).unwrap());
        assert!(!members.set_devices([LAPTOP, PHONE].into()).unwrap());
        assert!(members.set_devices([LAPTOP].into()).unwrap());
        for members in [members, open(dir.path())] {
            assert!(members.contains(&LAPTOP) && members.contains(&REPLICA));
            assert!(!members.contains(&PHONE) && members.knew(&PHONE));
            assert!(!members.knew(&[7; 32]));
            assert_eq!(members.devices(), [LAPTOP]);
        }
    }

    #[test]
    fn a_device_that_comes_back_is_a_former_one_no_more_and_a_backup_may_tell_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let members = open(dir.path());
        members.set_devices([PHONE].into()).unwrap();
        members.set_devices(BTreeSet::new()).unwrap();
        members.set_devices([PHONE].into()).unwrap();
        assert!(members.lock().former.is_empty());
        members.remember([PHONE, REPLICA, LAPTOP]).unwrap();
        let again = open(dir.path());
        assert_eq!(again.lock().former, [LAPTOP]);
        assert!(again.knew(&LAPTOP) && !again.contains(&LAPTOP));
    }

    #[test]
    fn what_can_not_be_kept_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let members = open(dir.path());
        members.set_devices([PHONE].into()).unwrap();
        let many = (0..=MAX_DEVICES).map(|number| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        });
        let error = members.set_devices(many.collect()).unwrap_err();
        assert!(matches!(error, MembersError::TooMany { given: 1025 }), "{error}");
        drop(dir);
        let error = members.set_devices([LAPTOP].into()).unwrap_err();
        assert!(matches!(error, MembersError::Io { .. }), "{error}");
        assert_eq!(members.devices(), [PHONE]);
    }

    #[test]
    fn a_damaged_file_is_named_and_admits_nobody() {
        for text in ["{", r#"{"devices":["ab"]}"#, r#"{"devices":[],"other":1}"#] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let bans = Bans::open(dir.path(), []).unwrap();
            let (members, damaged) = Members::open(dir.path(), [REPLICA], bans).unwrap();
            assert!(damaged.unwrap().to_string().contains(FILE), "{text}");
            assert_eq!(members.devices(), Vec::<Key>::new());
            assert!(members.contains(&REPLICA));
        }
    }

    #[test]
    fn a_ban_wins_over_being_a_device_and_over_what_is_open_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let members = Arc::new(open(dir.path()));
        members.set_devices([PHONE, LAPTOP].into()).unwrap();
        members.set_bans([PHONE].into()).unwrap();
        assert!(!members.contains(&PHONE) && members.knew(&PHONE) && members.contains(&LAPTOP));
        for others in [Admission::Guest, Admission::Member(MemberLimits::default())] {
            let policy = members.policy(others);
            assert_eq!(policy.admission(&PHONE), Admission::Refused);
            assert_eq!(policy.admission(&[7; 32]), others);
        }
        members.set_bans(BTreeSet::new()).unwrap();
        assert!(members.contains(&PHONE));
    }

    #[test]
    fn who_is_a_member_by_the_configuration_can_not_be_banned() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).set_bans([PHONE, REPLICA].into()).unwrap_err();
        assert!(error.to_string().starts_with(&hex::encode(REPLICA)), "{error}");
        let members = open(dir.path());
        assert!(members.bans().live().is_empty());
        members.set_bans([PHONE].into()).unwrap();
        // A later configuration that makes it a member.
        let bans = Bans::open(dir.path(), []).unwrap();
        let error = Members::open(dir.path(), [PHONE], bans).unwrap_err();
        assert!(matches!(error, BansError::Member { key: PHONE }), "{error}");
    }
}
