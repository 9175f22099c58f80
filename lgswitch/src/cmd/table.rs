//! Tables for people: columns aligned, no lines, nothing cut.

/// Prints rows under their headings, each column as wide as its widest cell. The last column is
/// not padded, so no line ends in blanks. Without rows nothing is printed, as `ls` would.
pub fn print<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    if !rows.is_empty() {
        print!("{}", render(headings, rows));
    }
}

/// The table as text, a line a row.
fn render<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let headings = headings.map(str::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&headings)
            .chain(rows)
            .filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A cell for what may be absent.
pub fn cell(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

/// A cell for any number of things.
pub fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    if values.is_empty() {
        "-".into()
    } else {
        values.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_in_text() {
        let rows = [
            ["tap0".to_owned(), "up".to_owned()],
            ["a-longer-name".to_owned(), "down".to_owned()],
        ];
        assert_eq!(
            render(["NAME", "STATE"], &rows),
            "NAME           STATE\ntap0           up\na-longer-name  down\n"
        );
    }

    #[test]
    fn what_is_absent_is_a_dash() {
        assert_eq!(cell(None::<u32>), "-");
        assert_eq!(cell(Some(7)), "7");
        assert_eq!(list::<u32>([]), "-");
        assert_eq!(list([1, 2]), "1,2");
    }
}
