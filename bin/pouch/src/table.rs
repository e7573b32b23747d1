//! Columns that line up, as Go's text/tabwriter lays them out with padding 3.
//!
//! A cell is what a tab ends; what follows the last tab of a line belongs to no column. A column
//! is a run of consecutive lines that have a cell at its place, so a line without tabs starts the
//! widths anew, exactly as there.

const PADDING: usize = 3;

/// Lays out `text`, whose cells are separated by tabs.
pub(crate) fn align(text: &str) -> String {
    lay_out(text, 10)
}

/// As [`align`], with columns of at least 20 characters: `top` has them.
pub(crate) fn align_wide(text: &str) -> String {
    lay_out(text, 20)
}

fn lay_out(text: &str, minimal: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len() - 1]).collect();
    column(&lines, &mut widths, minimal, 0..lines.len(), 0);
    let mut out = String::with_capacity(text.len() * 2);
    for (i, (line, widths)) in lines.iter().zip(&widths).enumerate() {
        if i > 0 {
            out.push('\n');
        }
        for (at, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(at) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
    }
    out
}

/// Sets the widths of the column at `depth` and of those within it, for the lines `from..to`.
fn column(
    lines: &[Vec<&str>],
    widths: &mut [Vec<usize>],
    minimal: usize,
    range: std::ops::Range<usize>,
    depth: usize,
) {
    let has = |line: usize| depth + 1 < lines[line].len();
    let (mut start, to) = (range.start, range.end);
    while start < to {
        if !has(start) {
            start += 1;
            continue;
        }
        let end = (start..to).find(|line| !has(*line)).unwrap_or(to);
        let widest = lines[start..end].iter().map(|line| line[depth].chars().count()).max();
        let width = (widest.unwrap_or(0) + PADDING).max(minimal);
        for line in &mut widths[start..end] {
            line[depth] = width;
        }
        column(lines, widths, minimal, start..end, depth + 1);
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_padding() {
        assert_eq!(
            align("ID\tNAME\tX\n123456789012\tab\tlast is free\n"),
            "ID             NAME      X\n123456789012   ab        last is free\n"
        );
    }

    #[test]
    fn width_counts_characters() {
        assert_eq!(
            align("\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\tx\nab\ty"),
            "\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}\u{2026}   x\nab         y"
        );
    }

    #[test]
    fn a_line_without_tabs_ends_the_column() {
        assert_eq!(align("aaaaaaaaaaaa\tx\nplain\nb\ty"), "aaaaaaaaaaaa   x\nplain\nb         y");
        assert_eq!(align(""), "");
    }
}
