//! What a folder looks like: a plain page, or JSON.

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use cumulet_hyperdrive::{Folder, FolderItem};
use maud::{DOCTYPE, html};
use serde::Serialize;

use super::address::encode;

/// How a folder is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Html,
    Json,
}

impl Format {
    /// JSON if the client prefers it to HTML; HTML on a tie, unless only JSON was named.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let accept = headers.get_all(header::ACCEPT);
        let ranges: Vec<(&str, u16)> = accept
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(quality)
            .collect();
        // The most specific range that matches a type gives its weight (RFC 9110, section 12.5.1).
        let weight = |names: [&str; 3]| {
            names.iter().enumerate().find_map(|(rank, name)| {
                let best = ranges
                    .iter()
                    .filter(|(range, _)| range.eq_ignore_ascii_case(name))
                    .map(|range| range.1)
                    .max();
                best.map(|best| (best, std::cmp::Reverse(rank)))
            })
        };
        if weight(["application/json", "application/*", "*/*"]) > weight(["text/html", "text/*", "*/*"]) {
            Self::Json
        } else {
            Self::Html
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
        }
    }

    pub(super) fn name(self) -> &'static [u8] {
        self.content_type().as_bytes()
    }
}

/// A media range and its weight in thousandths.
fn quality(range: &str) -> (&str, u16) {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
    #[allow(clippy::cast_sign_loss)] // clamped to 0..=1
    let thousandths = (weight.clamp(0.0, 1.0) * 1000.0) as u16;
    (name, thousandths)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing<'a> {
    path: &'a str,
    version: u64,
    truncated: bool,
    entries: Vec<Row<'a>>,
}

/// One line: a name that is a file and a folder has two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Bytes; none for mapped blobs, whose size is in the map.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

fn rows<'a>((name, item): (&'a String, &'a FolderItem)) -> impl Iterator<Item = Row<'a>> {
    let row = Row {
        name,
        kind: "folder",
        size: None,
        executable: false,
        target: None,
    };
    let file = item.file.as_ref().map(|(_, entry)| match &entry.linkname {
        Some(target) => Row {
            kind: "link",
            target: Some(target),
            ..row.clone()
        },
        None => Row {
            kind: "file",
            size: match &entry.blob {
                Some(blob) => (!blob.block_map).then_some(blob.byte_length),
                None => Some(0),
            },
            executable: entry.executable,
            ..row.clone()
        },
    });
    item.is_folder.then_some(row).into_iter().chain(file)
}

/// The folder `path` (empty: the root) at `version`.
pub(super) fn render(format: Format, path: &str, version: u64, folder: &Folder) -> Bytes {
    let entries: Vec<Row<'_>> = folder.items.iter().flat_map(rows).collect();
    let path = format!("{path}/");
    match format {
        Format::Json => {
            let listing = Listing {
                path: &path,
                version,
                truncated: folder.truncated,
                entries,
            };
            // Strings and numbers only: this does not fail.
            serde_json::to_vec(&listing).unwrap_or_default().into()
        }
        Format::Html => page(&path, version, folder.truncated, &entries).into(),
    }
}

fn page(path: &str, version: u64, truncated: bool, entries: &[Row<'_>]) -> String {
    // Names are shown as text and linked as one path segment: `./` keeps `a:b` from being a scheme.
    let href = |row: &Row<'_>| {
        format!(
            "./{}{}",
            encode(row.name),
            if row.kind == "folder" { "/" } else { "" }
        )
    };
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (path) }
                style { "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
                        "table{width:100%;border-collapse:collapse}td{padding:.2rem .5rem;border-top:1px solid #8884}"
                        "td+td{text-align:right;white-space:nowrap}" }
            }
            body {
                h1 { (path) }
                table {
                    @if path != "/" { tr { td { a href="../" { "../" } } td {} } }
                    @for row in entries {
                        tr {
                            td {
                                a href=(href(row)) { (row.name) @if row.kind == "folder" { "/" } }
                                @if let Some(target) = row.target { " → " (target) }
                            }
                            td { @if let Some(size) = row.size { (size) " B" } }
                        }
                    }
                }
                @if truncated { p { "There are more names than are shown." } }
                p { small { "Version " (version) } }
            }
        }
    };
    markup.into_string()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn json_is_for_those_who_prefer_it() {
        for (accept, expected) in [
            ("", Format::Html),
            ("*/*", Format::Html),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Format::Html,
            ),
            ("application/json", Format::Json),
            ("application/json, text/plain, */*", Format::Json),
            ("application/json;q=0.5, text/html;q=0.4", Format::Json),
            ("application/json;q=0.5, text/html", Format::Html),
            ("APPLICATION/JSON", Format::Json),
            ("application/json;q=0, */*", Format::Html),
            ("application/json;q=x, text/html;q=0.1", Format::Html),
            ("application/json, text/html", Format::Html),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(Format::negotiate(&headers), expected, "{accept}");
        }
        assert_eq!(Format::negotiate(&HeaderMap::new()), Format::Html);
    }
}
