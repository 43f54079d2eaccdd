//! Names of files: absolute, with `/` between parts, as the JS packages `unix-path-resolve` and `hyperdrive` make them.
//!
//! No case folding, no Unicode normalisation, no percent decoding: a name is the bytes that were put.

/// A name that no file can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More `..` than there are folders above.
    #[error("the path leads above the root")]
    AboveRoot,
    /// The root is not a file.
    #[error("the path is the root, not a file")]
    Root,
}

/// The name of a file as a drive stores it: begins with `/`, no empty parts, no `.` and no `..`.
///
/// Backslashes separate like slashes. A drive letter and `file://` are left out, another scheme together with its host.
pub fn normalize(name: &str) -> Result<String, PathError> {
    resolve("/", name)
}

/// The prefix of a folder's files without the last slash: empty for the root.
pub fn normalize_folder(name: &str) -> Result<String, PathError> {
    match resolve("/", name) {
        Err(PathError::Root) => Ok(String::new()),
        other => other,
    }
}

/// Where a link points: an absolute target replaces `from`, a relative one is appended to it.
///
/// `from` itself counts as a folder, so a link `/dir/l` to `x` leads to `/dir/l/x`, and to `../x` to `/dir/x`. Other systems
/// start at the folder that holds the link; JS drives don't, and their links are written accordingly.
pub fn resolve(from: &str, target: &str) -> Result<String, PathError> {
    let (absolute, names) = parse(target);
    let mut parts = Vec::new();
    if !absolute {
        push(&mut parts, &parse(from).1)?;
    }
    push(&mut parts, &names)?;
    if parts.is_empty() {
        return Err(PathError::Root);
    }
    Ok(parts.iter().flat_map(|part| ["/", part]).collect())
}

fn push<'a>(parts: &mut Vec<&'a str>, names: &[&'a str]) -> Result<(), PathError> {
    for &name in names {
        match name {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or(PathError::AboveRoot)?),
            _ => parts.push(name),
        }
    }
    Ok(())
}

/// Whether the path is absolute, and its parts.
fn parse(path: &str) -> (bool, Vec<&str>) {
    let mut names: Vec<&str> = path.split(['/', '\\']).collect();
    let prefix = match names.as_slice() {
        [first, _, ..] if first.ends_with(':') => {
            // JS counts UTF-16 units: `C:` and any other single-unit letter.
            if first.encode_utf16().count() == 2 || *first == "file:" {
                1
            } else {
                3
            }
        }
        _ => return (path.starts_with(['/', '\\']), names),
    };
    names.drain(..prefix.min(names.len()));
    (true, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_name_is_its_own_normal_form() {
        for name in [
            "a",
            "//a//b/",
            "a\\b",
            "C:/x",
            "file:///q",
            "https://host/x/y",
            "./a/./b/../c",
            "ü n/…",
        ] {
            let once = normalize(name).unwrap();
            assert_eq!(normalize(&once).as_deref(), Ok(once.as_str()));
        }
        assert_eq!(normalize("https://host/x/y").as_deref(), Ok("/x/y"));
        assert_eq!(normalize("https://host"), Err(PathError::Root));
        assert_eq!(normalize("c:"), Ok("/c:".to_owned()));
    }

    #[test]
    fn the_root_is_a_folder_and_no_file() {
        assert_eq!(normalize_folder("/").as_deref(), Ok(""));
        assert_eq!(normalize_folder("").as_deref(), Ok(""));
        assert_eq!(normalize_folder("a/").as_deref(), Ok("/a"));
        assert_eq!(normalize_folder("a/../.."), Err(PathError::AboveRoot));
    }
}
