//! Characters to tokens.

use super::TemplateError;

/// One token inside `{{ }}`, or the text between.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// White space between operands: it tells `.A.B` from `.A .B`.
    Space,
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`
    Variable(String),
    /// A function or keyword.
    Word(String),
    Str(String),
    Int(i64),
    Float(f64),
    Pipe,
    LeftParen,
    RightParen,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A token and its line, from 1.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) token: Token,
    pub(super) line: usize,
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    out: Vec<Spot>,
}

pub(super) fn lex(source: &str) -> Result<Vec<Spot>, TemplateError> {
    let mut lexer = Lexer { rest: source, line: 1, out: Vec::new() };
    let mut trim_left = false;
    while !lexer.rest.is_empty() {
        let (mut text, action) = match lexer.rest.find("{{") {
            Some(at) => (&lexer.rest[..at], Some(&lexer.rest[at + 2..])),
            None => (lexer.rest, None),
        };
        let lines = text.matches('\n').count();
        if trim_left {
            text = text.trim_start_matches(SPACES);
        }
        let Some(mut body) = action else {
            lexer.text(text);
            break;
        };
        if let Some(trimmed) = body.strip_prefix('-').filter(|rest| rest.starts_with(SPACES)) {
            text = text.trim_end_matches(SPACES);
            body = trimmed;
        }
        lexer.text(text);
        lexer.line += lines;
        lexer.rest = body;
        trim_left = lexer.action()?;
    }
    Ok(lexer.out)
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

impl Lexer<'_> {
    fn push(&mut self, token: Token) {
        self.out.push(Spot { token, line: self.line });
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Text(text.to_owned()));
        }
    }

    fn fail<T>(&self, message: &str) -> Result<T, TemplateError> {
        Err(TemplateError::new(format!("line {}: {message}", self.line)))
    }

    /// One action up to its end; whether the text after it is trimmed.
    fn action(&mut self) -> Result<bool, TemplateError> {
        let inner = self.rest.trim_start_matches(SPACES);
        if inner.starts_with("/*") {
            return self.comment(inner);
        }
        self.push(Token::Open);
        loop {
            if let Some(rest) = self.rest.strip_prefix("}}") {
                self.rest = rest;
                self.push(Token::Close);
                return Ok(false);
            }
            let Some(c) = self.rest.chars().next() else {
                return self.fail("an action is not closed by }}");
            };
            if SPACES.contains(&c) {
                let trimmed = self.rest.trim_start_matches(SPACES);
                self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
                self.rest = trimmed;
                if let Some(rest) = trimmed.strip_prefix("-}}") {
                    self.rest = rest;
                    self.push(Token::Close);
                    return Ok(true);
                }
                self.push(Token::Space);
                continue;
            }
            self.token(c)?;
        }
    }

    fn comment(&mut self, inner: &str) -> Result<bool, TemplateError> {
        let Some(end) = inner.find("*/") else {
            return self.fail("a comment is not closed by */");
        };
        self.line += inner[..end].matches('\n').count();
        let after = &inner[end + 2..];
        let spaces = after.trim_start_matches(SPACES);
        // The rest borrows from the source, not from `inner`'s binding.
        let (rest, trim) = if let Some(rest) = after.strip_prefix("}}") {
            (rest.len(), false)
        } else if let Some(rest) = spaces.strip_prefix("-}}").filter(|_| spaces.len() < after.len())
        {
            (rest.len(), true)
        } else {
            return self.fail("a comment must end its action: */}}");
        };
        self.rest = &self.rest[self.rest.len() - rest..];
        Ok(trim)
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn token(&mut self, c: char) -> Result<(), TemplateError> {
        let simple = match c {
            '|' => Some(Token::Pipe),
            '(' => Some(Token::LeftParen),
            ')' => Some(Token::RightParen),
            ',' => Some(Token::Comma),
            '=' => Some(Token::Assign),
            _ => None,
        };
        if let Some(token) = simple {
            self.advance(1);
            self.push(token);
            return Ok(());
        }
        match c {
            ':' if self.rest.starts_with(":=") => {
                self.advance(2);
                self.push(Token::Declare);
                Ok(())
            }
            '"' => self.quoted(),
            '`' => self.raw(),
            '\'' => self.character(),
            '.' if !self.rest[1..].starts_with(|d: char| d.is_ascii_digit()) => {
                let name = word(&self.rest[1..]).to_owned();
                self.advance(1 + name.len());
                self.push(if name.is_empty() { Token::Dot } else { Token::Field(name) });
                Ok(())
            }
            '$' => {
                let name = word(&self.rest[1..]).to_owned();
                self.advance(1 + name.len());
                self.push(Token::Variable(name));
                Ok(())
            }
            '0'..='9' | '+' | '-' | '.' => self.number(),
            c if c == '_' || c.is_alphabetic() => {
                let name = word(self.rest).to_owned();
                self.advance(name.len());
                self.push(Token::Word(name));
                Ok(())
            }
            c => self.fail(&format!("unexpected {c:?} in an action")),
        }
    }

    fn quoted(&mut self) -> Result<(), TemplateError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 1);
                    self.push(Token::Str(text));
                    return Ok(());
                }
                '\n' => break,
                '\\' => match unescape(&mut chars) {
                    Some(c) => text.push(c),
                    None => return self.fail("an escape in a string is not known"),
                },
                c => text.push(c),
            }
        }
        self.fail("a string is not closed")
    }

    fn raw(&mut self) -> Result<(), TemplateError> {
        match self.rest[1..].find('`') {
            Some(end) => {
                let text = self.rest[1..=end].to_owned();
                let lines = text.matches('\n').count();
                self.advance(end + 2);
                self.push(Token::Str(text));
                self.line += lines;
                Ok(())
            }
            None => self.fail("a raw string is not closed"),
        }
    }

    fn character(&mut self) -> Result<(), TemplateError> {
        let mut chars = self.rest.char_indices().skip(1);
        let value = match chars.next() {
            Some((_, '\\')) => unescape(&mut chars),
            Some((_, c)) if c != '\'' && c != '\n' => Some(c),
            _ => None,
        };
        match (value, chars.next()) {
            (Some(c), Some((at, '\''))) => {
                self.advance(at + 1);
                self.push(Token::Int(i64::from(u32::from(c))));
                Ok(())
            }
            _ => self.fail("a character constant is malformed"),
        }
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let sign = usize::from(self.rest.starts_with(['+', '-']));
        let mut end = sign;
        let bytes = self.rest.as_bytes();
        while end < bytes.len() {
            let exponent_sign = end > sign
                && matches!(bytes[end], b'+' | b'-')
                && matches!(bytes[end - 1], b'e' | b'E')
                && !self.rest[sign..].starts_with("0x");
            let plain = bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'.' | b'_');
            if !plain && !exponent_sign {
                break;
            }
            end += 1;
        }
        let text = self.rest[..end].replace('_', "");
        let token = match (parse_int(&text), text.parse::<f64>()) {
            (Some(n), _) => Token::Int(n),
            (None, Ok(x)) if text.contains(|c: char| c.is_ascii_digit()) => Token::Float(x),
            _ => return self.fail(&format!("{text:?} is not a number")),
        };
        self.advance(end);
        self.push(token);
        Ok(())
    }
}

fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0b") => (&lower[2..], 2),
        Some("0o") => (&lower[2..], 8),
        _ => (lower.as_str(), 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
    &text[..end]
}

fn unescape(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let hex = |chars: &mut dyn Iterator<Item = (usize, char)>, digits: u32| {
        let mut code = 0u32;
        for _ in 0..digits {
            code = code.checked_mul(16)? + chars.next()?.1.to_digit(16)?;
        }
        char::from_u32(code)
    };
    Some(match chars.next()?.1 {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '0' => '\0',
        'x' => hex(chars, 2)?,
        'u' => hex(chars, 4)?,
        'U' => hex(chars, 8)?,
        c @ ('"' | '\'' | '\\') => c,
        _ => return None,
    })
}
