//! Go's `fmt` for the values that a template has.

use super::value::{Object, Shape, Value};

/// Widths and precisions beyond this are cut: nobody's terminal is wider.
const WIDEST: usize = 4096;

/// `fmt.Sprint`: a space between two operands when neither is a string.
pub(super) fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (i, value) in arguments.iter().enumerate() {
        let is_text = |v: &Value| matches!(v, Value::Str(_));
        if i > 0 && !is_text(value) && !is_text(&arguments[i - 1]) {
            out.push(' ');
        }
        out.push_str(&value.to_string());
    }
    out
}

/// `fmt.Sprintln`.
pub(super) fn println(arguments: &[Value]) -> String {
    let words: Vec<String> = arguments.iter().map(Value::to_string).collect();
    format!("{}\n", words.join(" "))
}

/// A float as `%v` shows it: the shortest digits that read back, with an exponent for what is
/// below 1e-4 or from 1e21 on.
pub(super) fn shortest(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        exponent(&format!("{x:e}"))
    } else {
        format!("{x}")
    }
}

/// Rust's `1e5` as C's `1e+05`.
fn exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, digits)) => {
            let (sign, digits) = match digits.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', digits),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text.to_owned(),
    }
}

/// C's `%.{precision}g`.
pub(crate) fn general(x: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let scientific = format!("{x:.*e}", precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let limit = i64::try_from(precision).unwrap_or(i64::MAX);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if power < -4 || power >= limit {
        match scientific.split_once('e') {
            Some((mantissa, power)) => exponent(&format!("{}e{power}", trim(mantissa))),
            None => scientific,
        }
    } else {
        let decimals = usize::try_from(limit - 1 - power).unwrap_or(0);
        trim(&format!("{x:.decimals$}"))
    }
}

#[derive(Default, Clone, Copy)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `fmt.Sprintf`, with its remarks for verbs and operands that do not fit.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut rest = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => break,
            }
            chars.next();
        }
        spec.width = number(&mut chars, &mut rest);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars, &mut rest).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match rest.next() {
                Some(value) => out.push_str(&one(verb, spec, value)),
                None => {
                    out.push_str("%!");
                    out.push(verb);
                    out.push_str("(MISSING)");
                }
            },
        }
    }
    let extra: Vec<String> = rest.map(|v| format!("{}={v}", v.type_name())).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn number<'a>(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    rest: &mut impl Iterator<Item = &'a Value>,
) -> Option<usize> {
    if chars.next_if_eq(&'*').is_some() {
        return match rest.next() {
            Some(Value::Int(n)) => usize::try_from(*n).ok().map(|n| n.min(WIDEST)),
            _ => None,
        };
    }
    let mut value = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let digit = usize::try_from(digit).unwrap_or(0);
        value = Some((value.unwrap_or(0) * 10 + digit).min(WIDEST));
    }
    value
}

fn one(verb: char, spec: Spec, value: &Value) -> String {
    // Verbs apply to the elements of lists and objects.
    match value {
        Value::List(items) if verb != 'T' => {
            let words: Vec<String> = items.iter().map(|item| one(verb, spec, item)).collect();
            return format!("[{}]", words.join(" "));
        }
        Value::Object(object) if verb != 'T' && verb != 'v' => return members(verb, spec, object),
        _ => {}
    }
    let body = match (verb, value) {
        ('v', Value::Str(text)) if spec.sharp => quote(text),
        ('v', Value::Int(_)) => return integer('d', spec, value),
        ('v', value) => value.to_string(),
        ('T', value) => value.type_name().to_owned(),
        ('t', Value::Bool(b)) => b.to_string(),
        ('s', Value::Str(text)) => cut(text, spec.precision),
        ('q', Value::Str(text)) => quote(&cut(text, spec.precision)),
        ('x' | 'X', Value::Str(text)) => {
            let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        ('d' | 'x' | 'X' | 'o' | 'b', Value::Int(_)) => return integer(verb, spec, value),
        ('c', Value::Int(n)) => character(*n).to_string(),
        ('q', Value::Int(n)) => format!("'{}'", character(*n)),
        ('U', Value::Int(n)) => format!("U+{n:04X}"),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Float(x)) => float(verb, spec, *x),
        (_, Value::Null | Value::Missing) => format!("%!{verb}(<nil>)"),
        (_, value) => format!("%!{verb}({}={value})", value.type_name()),
    };
    align(body, spec, matches!(value, Value::Float(_)))
}

fn members(verb: char, spec: Spec, object: &Object) -> String {
    let map = object.shape == Shape::Map;
    let words: Vec<String> = object
        .ordered()
        .into_iter()
        .map(|(name, value)| {
            let value = one(verb, spec, value);
            if map { format!("{name}:{value}") } else { value }
        })
        .collect();
    if map { format!("map[{}]", words.join(" ")) } else { format!("{{{}}}", words.join(" ")) }
}

fn character(n: i64) -> char {
    u32::try_from(n).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn integer(verb: char, spec: Spec, value: &Value) -> String {
    let Value::Int(n) = value else { return String::new() };
    let magnitude = n.unsigned_abs();
    let digits = match verb {
        'x' => format!("{magnitude:x}"),
        'X' => format!("{magnitude:X}"),
        'o' => format!("{magnitude:o}"),
        'b' => format!("{magnitude:b}"),
        _ => magnitude.to_string(),
    };
    let digits = match spec.precision {
        Some(least) => format!("{digits:0>least$}"),
        None => digits,
    };
    let prefix = match (spec.sharp, verb) {
        (true, 'x') => "0x",
        (true, 'X') => "0X",
        (true, 'o') => "0",
        _ => "",
    };
    let sign = match (*n < 0, spec.plus, spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    align(format!("{sign}{prefix}{digits}"), spec, true)
}

fn float(verb: char, spec: Spec, x: f64) -> String {
    let body = match verb {
        'f' | 'F' => format!("{x:.*}", spec.precision.unwrap_or(6)),
        'e' | 'E' => exponent(&format!("{x:.*e}", spec.precision.unwrap_or(6))),
        _ => match spec.precision {
            Some(precision) => general(x, precision),
            None => shortest(x),
        },
    };
    let body = if verb.is_ascii_uppercase() { body.to_uppercase() } else { body };
    if spec.plus && x >= 0.0 { format!("+{body}") } else { body }
}

fn cut(text: &str, precision: Option<usize>) -> String {
    match precision {
        Some(n) => text.chars().take(n).collect(),
        None => text.to_owned(),
    }
}

/// A Go string literal.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x80 && c.is_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn align(body: String, spec: Spec, numeric: bool) -> String {
    let width = spec.width.unwrap_or(0);
    let missing = width.saturating_sub(body.chars().count());
    if missing == 0 {
        body
    } else if spec.minus {
        format!("{body}{}", " ".repeat(missing))
    } else if spec.zero && numeric {
        let (sign, digits) = match body.strip_prefix(['-', '+', ' ']) {
            Some(digits) => body.split_at(body.len() - digits.len()),
            None => ("", body.as_str()),
        };
        format!("{sign}{}{digits}", "0".repeat(missing))
    } else {
        format!("{}{body}", " ".repeat(missing))
    }
}
