//! What `tap` and `bridge` have in common: telling what became of a link of the host.
//!
//! Success is silent, except with `--json`: then one object says whether anything changed, and
//! what the link is now.

use anyhow::{Context, Result};
use netsetup::{Change, InterfaceName, LinkInfo, NetSetup};
use serde::Serialize;

/// A link after a command.
#[derive(Serialize)]
struct Outcome<'a> {
    changed: bool,
    #[serde(flatten)]
    link: &'a LinkInfo,
}

/// A link that is gone.
#[derive(Serialize)]
struct Gone<'a> {
    changed: bool,
    name: &'a InterfaceName,
}

/// With `json`, prints the link as it is after the command.
pub fn report_link(net: &NetSetup, name: &InterfaceName, change: Change, json: bool) -> Result<()> {
    if !json {
        return Ok(());
    }
    let link = net
        .link(name)?
        .with_context(|| format!("{name} was there a moment ago, and is gone"))?;
    print_json(&Outcome {
        changed: change == Change::Changed,
        link: &link,
    })
}

/// With `json`, prints that the link is gone, and whether this command did it.
pub fn report_name(name: &InterfaceName, change: Change, json: bool) -> Result<()> {
    if json {
        print_json(&Gone {
            changed: change == Change::Changed,
            name,
        })
    } else {
        Ok(())
    }
}

/// Prints a value as JSON, indented, on standard output.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A link's state in a word. For a tap, `up` without a carrier means that nobody has it open.
pub fn state(link: &LinkInfo) -> &'static str {
    match (link.up, link.carrier) {
        (true, true) => "up",
        (true, false) => "no-carrier",
        (false, _) => "down",
    }
}
