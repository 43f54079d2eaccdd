//! The backup and the daemon.

use cumulet_backup::names::CoreNames;
use cumulet_node::config::Options;

/// A head object: as it is, and as the content of one that is sealed with the right key.
pub fn backup_head(data: &[u8]) {
    #[cfg(fuzzing)]
    cumulet_backup::fuzzing::head(data);
    #[cfg(not(fuzzing))]
    let _ = data;
}

/// Names of objects: what is taken apart puts together to the same.
pub fn backup_names(data: &[u8]) {
    let names = CoreNames::new([5; 32]);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for object in [text.to_owned(), names.segments() + text, names.heads() + text] {
        if let Some((name, repair)) = names.parse_segment(&object) {
            assert_eq!(names.segment(&name, repair), object);
        }
        if let Some((name, repair)) = names.parse_head(&object) {
            assert_eq!(names.head(&name, repair), object);
        }
    }
}

/// The configuration file. Nothing is checked here: that would look at files which the text names.
pub fn daemon_config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(options) = toml::from_str::<Options>(text)
    {
        let _ = options.over(Options::default());
    }
}
