//! `kvm-figures [--rounds N] [PART]...`: see [`system_tests::figures`]. Started by `tests/kvm-figures`,
//! which says what the parts are. Exit status 0 if all goals are reached, 1 if one is missed, 2 if
//! something could not be measured.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use system_tests::Lab;
use system_tests::figures::table::Table;
use system_tests::figures::{ALL, Rounds, prepare};

fn main() -> ExitCode {
    let mut table = Table::default();
    let measured = measure(&mut table);
    print!("{table}");
    match measured {
        Ok(()) if table.reaches_all() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(1),
        Err(error) => {
            eprintln!("kvm-figures: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(table: &mut Table) -> Result<()> {
    let mut rounds = Rounds(3);
    let mut parts = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let number = arguments.next().context("--rounds needs a number")?;
            rounds = Rounds(number.parse().context("--rounds needs a number")?);
        } else {
            ensure!(
                ALL.iter().any(|(name, _)| *name == argument),
                "There is no part `{argument}`"
            );
            parts.push(argument);
        }
    }
    let lab = Lab::new()?;
    prepare(&lab)?;
    for (name, measure) in ALL {
        if parts.is_empty() || parts.iter().any(|part| part == name) {
            measure(&lab, rounds, table).with_context(|| format!("Measuring {name}"))?;
        }
    }
    Ok(())
}
