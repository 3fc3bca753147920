//! Tables for people.

use crate::text::printable;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows below a head, each column as wide as its widest text.
pub(crate) fn table(columns: &[(&str, Align)], rows: Vec<Vec<String>>) -> String {
    let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    lines(
        &columns.iter().map(|(_, align)| *align).collect::<Vec<_>>(),
        std::iter::once(head).chain(rows).collect(),
    )
}

/// Names and what belongs to them.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let rows = rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]);
    lines(&[Align::Left, Align::Left], rows.collect())
}

fn lines(columns: &[Align], rows: Vec<Vec<String>>) -> String {
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|text| printable(text)).collect()).collect();
    let width = |column: usize| {
        let texts = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(columns.iter().zip(&widths));
        let cells: Vec<String> = cells
            .map(|(text, (align, width))| match align {
                Align::Left => format!("{text:width$}"),
                Align::Right => format!("{text:>width$}"),
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_texts() {
        let columns = [("NAME", Align::Left), ("ID", Align::Right), ("X", Align::Left)];
        let row = |texts: [&str; 3]| texts.map(str::to_owned).to_vec();
        let rows = vec![row(["a", "1", ""]), row(["\u{e4}bcde", "1000", "x\ty"])];
        assert_eq!(table(&columns, rows), "NAME     ID  X\na         1\n\u{e4}bcde  1000  x\u{fffd}y\n");
        assert_eq!(table(&columns, vec![]), "NAME  ID  X\n");
        assert_eq!(pairs(&[("a", "1".to_owned()), ("bcd", "2".to_owned())]), "a    1\nbcd  2\n");
    }
}
