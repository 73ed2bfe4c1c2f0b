//! Tables of fixed columns: a name, then figures, each against the right edge of its column.

use super::Row;
use crate::report::WIDTH;

/// What stands where a figure has no meaning.
pub(super) const NONE: &str = "-";

/// Columns between two figures.
const GAP: usize = 2;

/// A column of figures.
pub(super) struct Column {
    head: &'static str,
    unit: &'static str,
    width: usize,
    figure: fn(&Row) -> Option<String>,
}

/// Returns a column: its head, the unit below that, its width, and a row's figure; `None`: it has no meaning there.
pub(super) const fn column(head: &'static str, unit: &'static str, width: usize, figure: fn(&Row) -> Option<String>) -> Column {
    Column { head, unit, width, figure }
}

/// A table.
pub(super) struct Table {
    /// What stands above it, if anything.
    pub(super) title: &'static str,
    /// Its columns behind the name.
    pub(super) columns: &'static [Column],
}

impl Table {
    /// Returns the table of some rows.
    pub(super) fn render(&self, rows: &[Row]) -> String {
        let room = WIDTH - self.columns.iter().map(|column| column.width + GAP).sum::<usize>();
        let longest = rows.iter().map(|row| row.interface.chars().count()).max().unwrap_or(0);
        let width = longest.clamp("interface".len(), room);
        let mut said = String::new();
        if !self.title.is_empty() {
            said += &format!("{}\n", self.title);
        }
        said += &self.line("interface", width, |column| column.head.to_string());
        said += &self.line("", width, |column| column.unit.to_string());
        for row in rows {
            let name: String = row.interface.chars().take(width).collect();
            said += &self.line(&name, width, |column| (column.figure)(row).unwrap_or_else(|| NONE.to_string()));
        }
        said
    }

    fn line(&self, name: &str, name_width: usize, cell: impl Fn(&Column) -> String) -> String {
        let mut line = format!("{name:<name_width$}");
        for column in self.columns {
            line += &format!("{:GAP$}{:>width$}", "", cell(column), width = column.width);
        }
        format!("{}\n", line.trim_end())
    }
}
