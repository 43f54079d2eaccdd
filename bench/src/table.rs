//! What was measured, as a table for people and as JSON for programs.

use serde::Serialize;

/// Smallest, middle and largest of several ratios; more than 1 is better for us.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// Something beside the speed, medians; one value for each process that took part.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Beside {
    pub(crate) ours: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) peer: Vec<f64>,
}

/// One row: medians of its rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) ours: f64,
    /// None where only ours is measured.
    pub(crate) peer: Option<f64>,
    pub(crate) peer_name: Option<String>,
    pub(crate) ratio: Option<Spread>,
    pub(crate) rounds: usize,
    /// Processor time of all threads: hardly disturbed by what else runs on the machine.
    pub(crate) cpu_seconds: Beside,
    /// Highest resident memory.
    pub(crate) rss_mib: Beside,
    /// Resident memory before there was anything to do, where the row is about it.
    #[serde(skip_serializing_if = "Beside::is_empty")]
    pub(crate) rest_mib: Beside,
    /// Given to the file system to store.
    pub(crate) written_mib: Beside,
    /// Our speed as a share of what one core of the processor can hash, and where it travels also decrypt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share_of_one_core: Option<f64>,
    /// Open descriptors of ours and of the peer, where the row is about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) descriptors: Vec<u64>,
}

/// A comparison that was run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) machine: String,
    /// Load of the machine when it began and when it ended; the comparison itself is part of the second.
    pub(crate) load: [f64; 2],
    pub(crate) rows: Vec<Row>,
}

impl Spread {
    /// Of values that are not empty.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            min: *values.first()?,
            median: middle(&values)?,
            max: *values.last()?,
        })
    }
}

/// The median, of an even number the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    middle(&values)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(upper, *sorted.get(sorted.len() / 2 - 1)?))
}

/// Three digits, as much as such measurements are worth.
pub(crate) fn short(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

impl Table {
    /// For people: Markdown, which reads well in a terminal too.
    pub(crate) fn markdown(&self) -> String {
        let head = [
            "row",
            "unit",
            "ours",
            "peer",
            "ratio min / median / max",
            "CPU s",
            "RSS MiB",
            "written MiB",
            "of one core",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let print = |line: &[String; 9]| {
            let cells = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!(" {cell:<width$} "));
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let mut text = format!(
            "{}: {}; load {} at the start, {} at the end\n\n",
            self.name, self.machine, self.load[0], self.load[1]
        );
        let mut lines = lines.iter();
        text.extend(lines.next().map(print));
        text.push_str(&print_rule(&widths));
        text.extend(lines.map(print));
        text
    }
}

fn print_rule(widths: &[usize]) -> String {
    let dashes = widths.iter().map(|width| "-".repeat(width + 2));
    format!("|{}|\n", dashes.collect::<Vec<_>>().join("|"))
}

impl Row {
    fn cells(&self) -> [String; 9] {
        let none = String::new;
        let mut name = self.name.clone();
        match self.descriptors[..] {
            [ours, peer] => name = format!("{name} (descriptors {ours}, peer {peer})"),
            [ours] => name = format!("{name} (descriptors {ours})"),
            _ => {}
        }
        [
            name,
            self.unit.clone(),
            short(self.ours),
            match (self.peer, &self.peer_name) {
                (Some(peer), Some(name)) => format!("{} ({name})", short(peer)),
                _ => none(),
            },
            self.ratio.map_or_else(none, |ratio| {
                format!("{:.2} / {:.2} / {:.2}", ratio.min, ratio.median, ratio.max)
            }),
            self.cpu_seconds.cell(2),
            if self.rest_mib.is_empty() {
                self.rss_mib.cell(0)
            } else {
                format!("{}, at rest {}", self.rss_mib.cell(0), self.rest_mib.cell(0))
            },
            self.written_mib.cell(0),
            self.share_of_one_core
                .map_or_else(none, |share| format!("{:.0} %", share * 100.0)),
        ]
    }
}

impl Beside {
    fn is_empty(&self) -> bool {
        self.ours.is_empty()
    }

    fn cell(&self, digits: usize) -> String {
        let sum = |values: &[f64]| {
            let values: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
            values.join("+")
        };
        if self.peer.is_empty() {
            return sum(&self.ours);
        }
        format!("{} : {}", sum(&self.ours), sum(&self.peer))
    }
}
