//! Go's text/template, as far as `--format` uses it, over JSON values.
//!
//! One template is parsed once ([`Template::parse`]) and run for each object
//! ([`Template::render`]). The subset is what the docker CLI's users write: fields, indexing,
//! pipelines, variables, `if`/`else if`/`with`/`range` with `else`, `break` and `continue`, trim
//! markers, comments, the built-in functions without the escapers (`html`, `js`, `urlquery`), and
//! docker's own (`json`, `join`, `split`, `upper`, `lower`, `title`, `pad`, `truncate`). Named
//! templates (`define`, `block`, `template`) are refused by name.
//!
//! Both input and data are arbitrary: parsing and rendering end in a result or an error, never in
//! a panic, and nesting is capped so that the stack suffices.
//!
//! Language: <https://pkg.go.dev/text/template>.

mod eval;
mod functions;
mod lexer;
mod parser;
mod printf;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use printf::{general, quote};
pub(crate) use value::{Labels, Row, Value};

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parser::Node>,
}

/// How a template is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Over an object.
    Data,
    /// Over the column titles of a table: functions that would change a title leave it alone.
    Header,
}

/// Why a template cannot be parsed or run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError {
    message: String,
}

impl TemplateError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// With the line and what was expected there.
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parser::parse(source)? })
    }

    /// The text for `data`.
    ///
    /// # Errors
    /// A field that the data cannot have, or a function that refuses its arguments.
    pub(crate) fn render(&self, data: &Value, mode: Mode) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, mode)
    }

    /// Whether a field of this name is read anywhere, so that costly columns are only asked for
    /// when they are shown.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        parser::mentions(&self.nodes, field)
    }

    /// Whether the data as a whole is used anywhere, as in `{{json .}}`.
    pub(crate) fn shows_all(&self) -> bool {
        parser::shows_all(&self.nodes)
    }
}
