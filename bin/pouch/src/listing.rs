//! `--format` of the list commands: tables, JSON lines and templates over rows.

use crate::failure::Failure;
use crate::table;
use crate::template::{Labels, Mode, Row, Template, Value};

/// What a list command can show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Column name and title, sorted by name.
    pub(crate) titles: &'static [(&'static str, &'static str)],
    /// The template of the table when none is given.
    pub(crate) table: &'static str,
    /// The template of `--quiet`.
    pub(crate) quiet: &'static str,
    /// The template of `--format raw`, empty when there is none.
    pub(crate) raw: &'static str,
}

/// A parsed `--format`.
#[derive(Debug)]
pub(crate) struct Format {
    layout: &'static Layout,
    template: Template,
    table: bool,
    /// `--format json`, whose columns are the cheap ones.
    json: bool,
}

impl Format {
    /// Resolves `--format` and `--quiet`; `default` is the configuration file's format.
    pub(crate) fn new(
        layout: &'static Layout,
        given: Option<&str>,
        default: Option<&str>,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let given = given.filter(|text| !text.is_empty());
        let json = given == Some("json");
        let text = match given.or_else(|| default.filter(|text| !text.is_empty() && !quiet)) {
            None | Some("table") if quiet => layout.quiet.to_owned(),
            None | Some("table") => format!("table {}", layout.table),
            Some("raw") if !layout.raw.is_empty() => layout.raw.to_owned(),
            Some("json") => "{{json .}}".to_owned(),
            Some(text) => text.to_owned(),
        };
        let (table, text) = match text.strip_prefix("table") {
            Some(rest) => (true, rest.trim_start().to_owned()),
            None => (false, text),
        };
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Self { layout, template: Template::parse(&text)?, table, json })
    }

    /// Whether a column is shown, by its name or because the row is shown as a whole.
    pub(crate) fn shows(&self, column: &str) -> bool {
        self.template.mentions(column) || (!self.json && self.template.shows_all())
    }

    /// The listing, ready to print.
    pub(crate) fn render(&self, rows: Vec<Row>) -> Result<String, Failure> {
        let mut text = String::new();
        if self.table {
            let columns = self
                .layout
                .titles
                .iter()
                .map(|(name, title)| (*name, Value::str(*title)))
                .collect();
            let header = Value::Row(Row { columns, labels: Labels::Header }.into());
            text.push_str(&self.template.render(&header, Mode::Header)?);
            text.push('\n');
        }
        for row in rows {
            text.push_str(&self.line(row)?);
            text.push('\n');
        }
        Ok(if self.table { table::align(&text) } else { text })
    }

    /// One row without its line end.
    pub(crate) fn line(&self, row: Row) -> Result<String, Failure> {
        Ok(self.template.render(&Value::Row(row.into()), Mode::Data)?)
    }

    /// Whether rows are shown as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json || self.template.shows_all()
    }

    /// Whether titles and alignment are wanted.
    pub(crate) const fn is_table(&self) -> bool {
        self.table
    }
}

/// `key=value` pairs as one word, sorted.
pub(crate) fn join_labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// Labels for `.Label "key"`.
pub(crate) fn labels_of(labels: &std::collections::BTreeMap<String, String>) -> Labels {
    Labels::Of(labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}
