//! What `tap` and `bridge` have in common: telling what became of a link of the host.
//!
//! Success is silent, except with `--json`: then one object says whether anything changed, and
//! what the link is now.

use anyhow::{Context, Result, bail};
use netsetup::{Change, InterfaceName, LinkInfo, LinkKind, NetSetup};
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

/// What stands in the way of making a link that is there already: `kind` of this name, unless the
/// user accepts it. What is there of another kind the kernel refuses, and says so.
pub fn refuse_existing(net: &NetSetup, name: &InterfaceName, kind: LinkKind) -> Result<()> {
    if net.link(name)?.is_some_and(|link| link.kind == kind) {
        bail!(
            "Cannot create {kind} {name}: there is one already (--if-missing accepts it, if it is as asked)"
        );
    }
    Ok(())
}

/// Tells how deleting a link went: with `json`, prints that it is gone, and whether this command
/// did it. That there was none is an error, unless the user accepts that.
pub fn report_deleted(
    kind: LinkKind,
    name: &InterfaceName,
    change: Change,
    if_exists: bool,
    json: bool,
) -> Result<()> {
    if change == Change::Unchanged && !if_exists {
        bail!(
            "Cannot delete {kind} {name}: there is no interface of this name (--if-exists accepts that)"
        );
    }
    if json {
        print_json(&Gone {
            changed: change == Change::Changed,
            name,
        })?;
    }
    Ok(())
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
