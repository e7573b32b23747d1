//! JSON text laid out as Go's `json.Indent` does it, without decoding: what the daemon sent keeps
//! its order, its numbers and its escapes.

/// `text` with four spaces per level, after `prefix` spaces on each line but the first.
pub(crate) fn indent(text: &str, prefix: usize) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut chars = text.chars().filter(|c| *c != '\0').peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', prefix + 4 * depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

/// An array of the given texts, as `inspect` prints it, with its final line end.
pub(crate) fn indent_array(items: &[String]) -> String {
    if items.is_empty() {
        return "[]\n".to_owned();
    }
    let items: Vec<String> = items.iter().map(|item| format!("    {}", indent(item, 4))).collect();
    format!("[\n{}\n]\n", items.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_numbers_and_strings() {
        let text = r#"{"b":1.50,"a":[],"s":"x{,:\"\\","o":{ },"l":[1,{"k":null}]}"#;
        let want = "{\n    \"b\": 1.50,\n    \"a\": [],\n    \"s\": \"x{,:\\\"\\\\\",\n    \"o\": {},\n    \
                    \"l\": [\n        1,\n        {\n            \"k\": null\n        }\n    ]\n}";
        assert_eq!(indent(text, 0), want);
    }

    #[test]
    fn arrays_of_objects() {
        assert_eq!(indent_array(&[]), "[]\n");
        assert_eq!(
            indent_array(&[r#"{"a":1}"#.to_owned(), "2".to_owned()]),
            "[\n    {\n        \"a\": 1\n    },\n    2\n]\n"
        );
    }
}
