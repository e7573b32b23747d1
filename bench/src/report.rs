//! The table for people and the JSON for scripts.

use std::fmt::{self, Display, Formatter};
use std::{fs, io, thread};

use serde::Serialize;
use serde_json::json;

use crate::stats::{Unit, median};

/// The engine that the floors are for.
const OURS: &str = "pouch";

pub const MEGABYTE: f64 = 1024.0 * 1024.0;

/// One measure of all engines.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    unit: Unit,
    /// What pouch is to stay below at the least.
    floor: Option<f64>,
    samples: Vec<Samples>,
}

#[derive(Debug, Serialize)]
struct Samples {
    engine: String,
    values: Vec<f64>,
}

impl Row {
    pub fn new(name: &str, unit: Unit, floor: Option<f64>) -> Self {
        Self { name: name.to_owned(), unit, floor, samples: Vec::new() }
    }

    pub fn push(&mut self, engine: &str, value: f64) {
        match self.samples.iter_mut().find(|samples| samples.engine == engine) {
            Some(samples) => samples.values.push(value),
            None => self.samples.push(Samples { engine: engine.to_owned(), values: vec![value] }),
        }
    }

    fn median(&self, engine: &str) -> Option<f64> {
        self.samples.iter().find(|s| s.engine == engine).and_then(|s| median(&s.values))
    }
}

/// The load averages, and how many processors share them.
#[derive(Debug, Serialize)]
pub struct Load {
    averages: [f64; 3],
    processors: u32,
}

impl Load {
    pub fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/loadavg")?;
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(f64::NAN));
        let averages = std::array::from_fn(|_| numbers.next().unwrap_or(f64::NAN));
        let processors = thread::available_parallelism()?;
        Ok(Self { averages, processors: u32::try_from(processors.get()).unwrap_or(u32::MAX) })
    }

    pub fn per_processor(&self) -> f64 {
        self.averages[0] / f64::from(self.processors)
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [one, five, fifteen] = self.averages;
        write!(f, "{one:.2} {five:.2} {fifteen:.2} on {} processors", self.processors)
    }
}

#[derive(Debug)]
pub struct Report {
    /// Name and version, the reference first.
    engines: Vec<(String, String)>,
    rounds: u32,
    parallel: u32,
    before: Load,
    after: Load,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(
        engines: Vec<(String, String)>,
        rounds: u32,
        parallel: u32,
        before: Load,
        after: Load,
        rows: Vec<Row>,
    ) -> Self {
        Self { engines, rounds, parallel, before, after, rows }
    }

    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let engines: Vec<_> = self
            .engines
            .iter()
            .map(|(name, version)| json!({ "name": name, "version": version }))
            .collect();
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let medians: serde_json::Map<_, _> = self
                    .engines
                    .iter()
                    .filter_map(|(name, _)| Some((name.clone(), json!(row.median(name)?))))
                    .collect();
                json!({
                    "name": row.name, "unit": row.unit, "floor": row.floor,
                    "medians": medians, "samples": row.samples,
                })
            })
            .collect();
        serde_json::to_string_pretty(&json!({
            "engines": engines, "rounds": self.rounds, "parallel": self.parallel,
            "load": { "before": self.before, "after": self.after },
            "rows": rows,
        }))
        .map(|text| text + "\n")
    }

    /// Cells of a row: name, a median per engine, a ratio per further engine, the floor.
    fn cells(&self, row: &Row) -> Vec<String> {
        let medians: Vec<_> = self.engines.iter().map(|(name, _)| row.median(name)).collect();
        let show = |value: &Option<f64>| value.map_or_else(|| "-".to_owned(), |v| row.unit.show(v));
        let mut cells = vec![row.name.clone()];
        cells.extend(medians.iter().map(show));
        let reference = medians.first().copied().flatten();
        for median in medians.iter().skip(1) {
            cells.push(match (reference, median) {
                (Some(reference), Some(median)) if *median > 0.0 => {
                    format!("{:.1}x", reference / median)
                }
                _ => "-".to_owned(),
            });
        }
        cells.push(match (row.floor, row.median(OURS)) {
            (Some(floor), Some(median)) => {
                let verdict = if median <= floor { "ok" } else { "over" };
                format!("{} {verdict}", row.unit.show(floor))
            }
            (Some(floor), None) => row.unit.show(floor),
            (None, _) => String::new(),
        });
        cells
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, version) in &self.engines {
            writeln!(f, "{name}: version {version}")?;
        }
        writeln!(
            f,
            "medians of {}; load before {}, after {}\n",
            self.rounds, self.before, self.after
        )?;
        let mut header = vec!["what".to_owned()];
        header.extend(self.engines.iter().map(|(name, _)| name.clone()));
        header.extend(self.engines.iter().skip(1).map(|_| "ratio".to_owned()));
        header.push("at most".to_owned());
        let table: Vec<_> =
            std::iter::once(header).chain(self.rows.iter().map(|row| self.cells(row))).collect();
        let columns = table.first().map_or(0, Vec::len);
        let widths: Vec<_> = (0..columns)
            .map(|column| {
                table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        for (line, cells) in table.iter().enumerate() {
            write!(f, "| {:<1$} |", cells[0], widths[0])?;
            for (cell, width) in cells.iter().zip(&widths).skip(1) {
                write!(f, " {cell:>width$} |")?;
            }
            writeln!(f)?;
            if line == 0 {
                write!(f, "| {:-<1$} |", "", widths[0])?;
                for width in widths.iter().skip(1) {
                    write!(f, " {:->width$} |", ":")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: Vec<Row>) -> Report {
        let engines = vec![("a".to_owned(), "1".to_owned()), (OURS.to_owned(), "2".to_owned())];
        let load = || Load { averages: [0.0; 3], processors: 2 };
        Report::new(engines, 3, 5, load(), load(), rows)
    }

    #[test]
    fn ratios_and_floors() {
        let mut row = Row::new("x", Unit::Seconds, Some(0.05));
        for value in [0.3, 0.1, 0.2] {
            row.push("a", value);
        }
        row.push(OURS, 0.04);
        let report = report(vec![row]);
        assert_eq!(report.cells(&report.rows[0]), ["x", "200 ms", "40.0 ms", "5.0x", "50.0 ms ok"]);
        let mut slow = Row::new("y", Unit::Seconds, Some(0.01));
        slow.push(OURS, 0.04);
        assert_eq!(report.cells(&slow), ["y", "-", "40.0 ms", "-", "10.0 ms over"]);
        let mut theirs = Row::new("z", Unit::Seconds, Some(0.01));
        theirs.push("a", 0.04);
        assert_eq!(report.cells(&theirs), ["z", "40.0 ms", "-", "-", "10.0 ms"]);
        let text = report.to_string();
        assert!(text.contains("| x    | 200 ms | 40.0 ms |  5.0x | 50.0 ms ok |\n"), "{text}");
        assert!(report.to_json().unwrap().contains("\"a\": 0.2"));
    }
}
