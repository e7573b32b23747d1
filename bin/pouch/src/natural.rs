//! The order in which people expect names with numbers: `v2` before `v10`.

use std::cmp::Ordering;

/// Compares runs of digits by their value and all else byte by byte.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (left, right) = (digits(a), digits(b));
                let value = |run: &[u8]| {
                    let zeros = run.iter().take_while(|d| **d == b'0').count();
                    run[zeros..].to_vec()
                };
                let (v, w) = (value(left), value(right));
                let order = v
                    .len()
                    .cmp(&w.len())
                    .then_with(|| v.cmp(&w))
                    .then_with(|| left.len().cmp(&right.len()));
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (&a[left.len()..], &b[right.len()..]);
            }
            (Some(x), Some(y)) => {
                if x != y {
                    return x.cmp(y);
                }
                (a, b) = (&a[1..], &b[1..]);
            }
        }
    }
}

fn digits(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn numbers_count_by_value() {
        let mut names = vec!["v10", "v2", "a", "v2b", "v02", "v"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(names, ["a", "v", "v2", "v2b", "v02", "v10"]);
    }
}
