//! Tables for people.

use std::io::{self, Write};

/// Writes rows below a head, each column as wide as what is in it.
pub(super) fn table<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut all = Vec::from([head.map(String::from)]);
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &all {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line: Vec<_> = cells.collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut out = Vec::new();
        let rows = [["e1.0", "8 GiB"], ["e100.12", "1"]].map(|row| row.map(String::from));
        table(&mut out, ["TARGET", "SIZE"], rows).unwrap();
        assert_eq!(out, b"TARGET   SIZE\ne1.0     8 GiB\ne100.12  1\n");
    }
}
