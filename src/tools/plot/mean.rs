//! Several runs of the same thing as one: the mean of their logs, for seeds.

use crate::tools::parse_log::{Row, Table, Tables};
use crate::{Result, ensure};

/// The mean of runs: iterations that all of them tell, in the first one's order and with the columns
/// of the first. Speeds are left out.
///
/// # Errors
/// No runs, or runs that have no iteration in common.
pub fn mean(runs: &[Tables]) -> Result<Tables> {
    let tables = Tables {
        train: mean_of(runs, |run| &run.train),
        test: mean_of(runs, |run| &run.test),
        speed: Table::default(),
    };
    ensure!(
        !(tables.train.rows.is_empty() && tables.test.rows.is_empty()),
        "the runs to be drawn as their mean have no iteration in common"
    );
    Ok(tables)
}

fn mean_of(runs: &[Tables], side: impl Fn(&Tables) -> &Table) -> Table {
    let Some((first, others)) = runs.split_first() else { return Table::default() };
    let first = side(first);
    let rows = first.rows.iter().filter_map(|row| {
        let same = |run: &Tables| side(run).rows.iter().find(|r| r.iter == row.iter).cloned();
        let others: Vec<Row> = others.iter().map(same).collect::<Option<_>>()?;
        let all = || std::iter::once(row).chain(&others);
        let mean = |of: &dyn Fn(&Row) -> f64| all().map(of).sum::<f64>() / all().count() as f64;
        Some(Row {
            iter: row.iter,
            seconds: mean(&|r| r.seconds),
            rate: mean(&|r| r.rate),
            values: (0..first.columns.len())
                .map(|i| mean(&|r| r.values.get(i).copied().unwrap_or(f64::NAN)))
                .collect(),
        })
    });
    Table { columns: first.columns.clone(), rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &[(u64, f64)]) -> Tables {
        let row = |&(iter, value): &(u64, f64)| Row {
            iter,
            seconds: value * 10.0,
            rate: 0.5,
            values: vec![value],
        };
        let test = Table { columns: vec!["loss".into()], rows: rows.iter().map(row).collect() };
        Tables { test, ..Tables::default() }
    }

    #[test]
    fn iterations_of_all_runs_are_averaged() {
        let runs = [run(&[(0, 3.0), (10, 2.0), (20, 1.0)]), run(&[(0, 1.0), (20, 2.0)])];
        let mean = mean(&runs).unwrap();
        let told: Vec<_> =
            mean.test.rows.iter().map(|r| (r.iter, r.seconds, r.values[0])).collect();
        assert_eq!(told, [(0, 20.0, 2.0), (20, 15.0, 1.5)]);
        assert!(super::mean(&[run(&[(0, 1.0)]), run(&[(1, 1.0)])]).is_err());
    }
}
