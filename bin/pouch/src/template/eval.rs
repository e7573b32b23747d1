//! Runs a tree over a value.

use std::rc::Rc;

use super::functions::{self, Call};
use super::parser::{Base, Branch, Command, Node, Operand, Pipeline};
use super::value::{Labels, Row, Value};
use super::{Mode, TemplateError};

/// A template's output may not grow beyond this: nested ranges multiply.
const OUTPUT_LIMIT: usize = 256 << 20;

struct Run {
    mode: Mode,
    out: String,
    /// Innermost last; `$` is the first, with the empty name.
    variables: Vec<(String, Value)>,
}

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(super) fn render(nodes: &[Node], data: &Value, mode: Mode) -> Result<String, TemplateError> {
    let mut run = Run { mode, out: String::new(), variables: vec![(String::new(), data.clone())] };
    run.nodes(nodes, data)?;
    Ok(run.out)
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.print(text)?;
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value.to_string())?;
                    }
                    Flow::On
                }
                Node::If(branch) => self.scoped(|run| {
                    let value = run.pipeline(&branch.pipeline, dot)?;
                    run.nodes(if value.is_true() { &branch.then } else { &branch.otherwise }, dot)
                })?,
                Node::With(branch) => self.scoped(|run| {
                    let value = run.pipeline(&branch.pipeline, dot)?;
                    if value.is_true() {
                        run.nodes(&branch.then, &value)
                    } else {
                        run.nodes(&branch.otherwise, dot)
                    }
                })?,
                Node::Range(branch) => self.scoped(|run| run.range(branch, dot))?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn print(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > OUTPUT_LIMIT {
            return Err(TemplateError::new("the output is larger than 256 MiB"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn scoped<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let depth = self.variables.len();
        let result = body(self);
        self.variables.truncate(depth);
        result
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, TemplateError> {
        let names = &branch.pipeline.variables;
        let value = self.commands(&branch.pipeline, dot)?;
        let pairs: Vec<(Value, Value)> = match &value {
            Value::List(items) => {
                (0..).zip(items.iter()).map(|(i, item)| (Value::Int(i), item.clone())).collect()
            }
            Value::Object(object) => object
                .ordered()
                .into_iter()
                .map(|(name, value)| (Value::Str(Rc::clone(name)), value.clone()))
                .collect(),
            Value::Int(n) => {
                (0..(*n).clamp(0, 1 << 20)).map(|i| (Value::Int(i), Value::Int(i))).collect()
            }
            Value::Null | Value::Missing | Value::NilMap | Value::NilList => Vec::new(),
            other => {
                let message = format!(
                    "line {}: range cannot go over a {}",
                    branch.pipeline.line,
                    other.type_name()
                );
                return Err(TemplateError::new(message));
            }
        };
        if pairs.is_empty() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, item) in pairs {
            let flow = self.scoped(|run| {
                match names.as_slice() {
                    [] => {}
                    [one] => run.bind(one, item.clone(), branch.pipeline.assigns),
                    [first, second, ..] => {
                        run.bind(first, key, branch.pipeline.assigns);
                        run.bind(second, item.clone(), branch.pipeline.assigns);
                    }
                }
                run.nodes(&branch.then, &item)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, assigns: bool) {
        if assigns {
            if let Some(slot) = self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                slot.1 = value;
            }
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            let result = self.command(command, dot, value.take());
            value = Some(result.map_err(|error| {
                if error.message.starts_with("line ") {
                    error
                } else {
                    TemplateError::new(format!("line {}: {error}", pipeline.line))
                }
            })?);
        }
        Ok(value.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        if let Base::Function(name) = &command.head.base {
            let value = self.function(name, &command.arguments, dot, piped)?;
            return fields(value, &command.head.fields);
        }
        if command.arguments.is_empty() && piped.is_none() {
            return self.operand(&command.head, dot);
        }
        // The last field is a method with arguments.
        let Some((method, path)) = command.head.fields.split_last() else {
            return Err(TemplateError::new("arguments follow something that is not a function"));
        };
        let base = Operand { base: command.head.base.clone(), fields: path.to_vec() };
        let receiver = self.operand(&base, dot)?;
        let mut arguments = Vec::new();
        for argument in &command.arguments {
            arguments.push(self.operand(argument, dot)?);
        }
        arguments.extend(piped);
        match (&receiver, arguments.as_slice()) {
            (Value::Row(row), [Value::Str(key)]) if method == "Label" => label(row, key),
            _ => Err(TemplateError::new(format!(
                "{method:?} is not a method and takes no arguments"
            ))),
        }
    }

    fn function(
        &mut self,
        name: &str,
        arguments: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        // `and` and `or` stop at the argument that decides.
        if let Some(decides) = match name {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        } {
            let mut last = None;
            for argument in arguments {
                let value = self.operand(argument, dot)?;
                if value.is_true() == decides {
                    return Ok(value);
                }
                last = Some(value);
            }
            return piped
                .or(last)
                .ok_or_else(|| TemplateError::new(format!("{name}: an argument is missing")));
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(piped);
        functions::call(Call { name, mode: self.mode, arguments: &values })
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Nil => Value::Null,
            Base::Bool(b) => Value::Bool(*b),
            Base::Int(n) => Value::Int(*n),
            Base::Float(x) => Value::Float(*x),
            Base::Str(text) => Value::str(text.as_str()),
            Base::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| TemplateError::new(format!("variable ${name} is not set")))?,
            Base::Function(name) => self.function(name, &[], dot, None)?,
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
        };
        fields(base, &operand.fields)
    }
}

fn fields(base: Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut value = base;
    for (i, name) in path.iter().enumerate() {
        value = value.field(name).map_err(|why| {
            TemplateError::new(format!("executing <.{}>: {why}", path[..=i].join(".")))
        })?;
    }
    Ok(value)
}

fn label(row: &Row, key: &str) -> Result<Value, TemplateError> {
    match &row.labels {
        Labels::None => Err(TemplateError::new("these objects have no labels")),
        Labels::Of(labels) => Ok(Value::str(
            labels.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.as_str()),
        )),
        Labels::Header => {
            let last = key.rsplit('.').next().unwrap_or(key);
            Ok(Value::str(last.replace(['-', '_'], " ")))
        }
    }
}
