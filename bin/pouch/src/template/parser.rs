//! Tokens to a tree.

use super::TemplateError;
use super::functions;
use super::lexer::{Spot, Token, lex};

/// Blocks and parentheses may nest this deep.
const DEPTH: usize = 64;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// A condition with what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) pipeline: Pipeline,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    /// `=` rather than `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
    pub(super) line: usize,
}

/// An operand with its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) head: Operand,
    pub(super) arguments: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// `.A.B` after the base.
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Variable(String),
    Function(String),
    Group(Box<Pipeline>),
}

struct Parser {
    tokens: Vec<Spot>,
    at: usize,
    depth: usize,
    loops: usize,
    /// Names that are in scope; the first is `$` itself, the empty name.
    variables: Vec<String>,
}

/// What ended a list of nodes.
enum End {
    Text,
    Block,
    Else,
}

pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser =
        Parser { tokens: lex(source)?, at: 0, depth: 0, loops: 0, variables: vec![String::new()] };
    let (nodes, end) = parser.nodes()?;
    match end {
        End::Text => Ok(nodes),
        End::Block => parser.fail("{{end}} without a beginning"),
        End::Else => parser.fail("{{else}} without an if, with or range"),
    }
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|spot| &spot.token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|spot| spot.token.clone());
        self.at += 1;
        token
    }

    fn line(&self) -> usize {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |spot| spot.line)
    }

    fn fail<T>(&self, message: impl AsRef<str>) -> Result<T, TemplateError> {
        Err(TemplateError::new(format!("line {}: {}", self.line(), message.as_ref())))
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.at += 1;
        }
    }

    fn enter(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return self.fail(format!("blocks and parentheses nest deeper than {DEPTH}"));
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => return Ok((nodes, End::Text)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    self.skip_space();
                    let keyword = match self.peek() {
                        Some(Token::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match keyword.as_str() {
                        "end" => {
                            self.at += 1;
                            self.close()?;
                            return Ok((nodes, End::Block));
                        }
                        // What follows an else (`if`, `with`, nothing) is the caller's.
                        "else" => {
                            self.at += 1;
                            self.skip_space();
                            return Ok((nodes, End::Else));
                        }
                        _ => nodes.push(self.action(&keyword)?),
                    }
                }
                Some(token) => return self.fail(format!("unexpected {token:?}")),
            }
        }
    }

    fn action(&mut self, keyword: &str) -> Result<Node, TemplateError> {
        match keyword {
            "if" | "with" | "range" => {
                self.at += 1;
                self.block(keyword)
            }
            "break" | "continue" => {
                self.at += 1;
                self.close()?;
                if self.loops == 0 {
                    return self.fail(format!("{{{{{keyword}}}}} outside of range"));
                }
                Ok(if keyword == "break" { Node::Break } else { Node::Continue })
            }
            "define" | "block" | "template" => {
                self.fail(format!("named templates ({keyword}) are not supported"))
            }
            _ => {
                let pipeline = self.pipeline()?;
                self.close()?;
                Ok(Node::Action(pipeline))
            }
        }
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        self.skip_space();
        match self.next() {
            Some(Token::Close) => Ok(()),
            Some(token) => self.fail(format!("unexpected {token:?}, want }}}}")),
            None => self.fail("want }}"),
        }
    }

    fn block(&mut self, keyword: &str) -> Result<Node, TemplateError> {
        self.enter()?;
        let scope = self.variables.len();
        let pipeline = self.pipeline()?;
        if pipeline.variables.len() > 1 && keyword != "range" {
            return self.fail("only range takes two variables");
        }
        self.close()?;
        let is_loop = usize::from(keyword == "range");
        self.loops += is_loop;
        let (then, end) = self.nodes()?;
        self.loops -= is_loop;
        let otherwise = match end {
            End::Block => Vec::new(),
            End::Else => self.otherwise(keyword)?,
            End::Text => return self.fail(format!("{{{{{keyword}}}}} has no {{{{end}}}}")),
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        let branch = Branch { pipeline, then, otherwise };
        Ok(match keyword {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// After `{{else`: the rest of the chain up to its single `{{end}}`.
    fn otherwise(&mut self, keyword: &str) -> Result<Vec<Node>, TemplateError> {
        if let Some(Token::Word(word)) = self.peek()
            && word == keyword
            && keyword != "range"
        {
            let word = word.clone();
            self.at += 1;
            return Ok(vec![self.block(&word)?]);
        }
        self.close()?;
        match self.nodes()? {
            (nodes, End::Block) => Ok(nodes),
            (_, End::Else) => self.fail("a second {{else}}"),
            (_, End::Text) => self.fail(format!("{{{{{keyword}}}}} has no {{{{end}}}}")),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        self.skip_space();
        let line = self.line();
        let (variables, assigns) = self.declaration()?;
        let mut commands = vec![self.command()?];
        loop {
            self.skip_space();
            if self.peek() != Some(&Token::Pipe) {
                break;
            }
            self.at += 1;
            self.skip_space();
            let command = self.command()?;
            if !matches!(command.head.base, Base::Function(_)) && command.head.fields.is_empty() {
                return self.fail("only a function can take a value from a pipe");
            }
            commands.push(command);
        }
        for name in &variables {
            if assigns && !self.variables.contains(name) {
                return self.fail(format!("variable ${name} is not declared"));
            }
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, assigns, commands, line })
    }

    /// `$a :=`, `$a, $b :=` or `$a =` before a pipeline.
    fn declaration(&mut self) -> Result<(Vec<String>, bool), TemplateError> {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Token::Variable(name)) = self.peek() {
            let name = name.clone();
            self.at += 1;
            self.skip_space();
            names.push(name);
            match self.peek() {
                Some(Token::Declare | Token::Assign) => {
                    let assigns = self.peek() == Some(&Token::Assign);
                    self.at += 1;
                    self.skip_space();
                    if names.len() > 2 || names.iter().any(String::is_empty) {
                        return self.fail("want $name := or $key, $value :=");
                    }
                    return Ok((names, assigns));
                }
                Some(Token::Comma) => {
                    self.at += 1;
                    self.skip_space();
                }
                _ => break,
            }
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn command(&mut self) -> Result<Command, TemplateError> {
        let head = self.operand()?;
        let mut arguments = Vec::new();
        loop {
            let spaced = self.peek() == Some(&Token::Space);
            self.skip_space();
            match self.peek() {
                None | Some(Token::Close | Token::Pipe | Token::RightParen) => break,
                _ if !spaced => return self.fail("operands must be separated by spaces"),
                _ => arguments.push(self.operand()?),
            }
        }
        let callable = matches!(head.base, Base::Function(_)) || !head.fields.is_empty();
        if !arguments.is_empty() && !callable {
            return self.fail("arguments follow something that is not a function");
        }
        Ok(Command { head, arguments })
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let mut fields = Vec::new();
        let base = match self.next() {
            Some(Token::Dot) => Base::Dot,
            Some(Token::Field(name)) => {
                fields.push(name);
                Base::Dot
            }
            Some(Token::Variable(name)) => {
                if !self.variables.contains(&name) {
                    return self.fail(format!("variable ${name} is not declared"));
                }
                Base::Variable(name)
            }
            Some(Token::Str(text)) => Base::Str(text),
            Some(Token::Int(n)) => Base::Int(n),
            Some(Token::Float(x)) => Base::Float(x),
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                name if functions::exists(name) => Base::Function(word),
                name => return self.fail(format!("function {name:?} is not defined")),
            },
            Some(Token::LeftParen) => {
                self.enter()?;
                let pipeline = self.pipeline()?;
                self.skip_space();
                if self.next() != Some(Token::RightParen) {
                    return self.fail("a parenthesis is not closed");
                }
                self.depth -= 1;
                Base::Group(Box::new(pipeline))
            }
            Some(Token::Close) | None => return self.fail("a value is missing"),
            Some(token) => return self.fail(format!("unexpected {token:?}")),
        };
        while let Some(Token::Field(name)) = self.peek() {
            fields.push(name.clone());
            self.at += 1;
        }
        let constant = matches!(
            base,
            Base::Nil | Base::Bool(_) | Base::Int(_) | Base::Float(_) | Base::Str(_)
        );
        if constant && !fields.is_empty() {
            return self.fail("a constant has no fields");
        }
        Ok(Operand { base, fields })
    }
}

/// Whether a field of this name is read.
pub(super) fn mentions(nodes: &[Node], field: &str) -> bool {
    any_operand(nodes, &|operand| operand.fields.iter().any(|name| name == field))
}

/// Whether the dot is used without a field.
pub(super) fn shows_all(nodes: &[Node]) -> bool {
    any_operand(nodes, &|operand| matches!(operand.base, Base::Dot) && operand.fields.is_empty())
}

fn any_operand(nodes: &[Node], test: &dyn Fn(&Operand) -> bool) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Action(pipeline) => in_pipeline(pipeline, test),
        Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
            in_pipeline(&branch.pipeline, test)
                || any_operand(&branch.then, test)
                || any_operand(&branch.otherwise, test)
        }
    })
}

fn in_pipeline(pipeline: &Pipeline, test: &dyn Fn(&Operand) -> bool) -> bool {
    pipeline.commands.iter().any(|command| {
        std::iter::once(&command.head).chain(&command.arguments).any(|operand| {
            test(operand) || matches!(&operand.base, Base::Group(inner) if in_pipeline(inner, test))
        })
    })
}
