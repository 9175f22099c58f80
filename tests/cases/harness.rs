//! Claims about the bench itself: if these fail, the other claims say nothing.

use anyhow::{Result, ensure};
use system_tests::{Lab, Namespace, Need, claim};

fn main() {
    system_tests::main(vec![
        claim(
            "a_guest_answers_over_its_console",
            &[Need::Guests],
            a_guest_answers_over_its_console,
        ),
        claim(
            "a_namespace_is_gone_with_its_keeper",
            &[Need::Root],
            a_namespace_is_gone_with_its_keeper,
        ),
    ])
}

fn a_guest_answers_over_its_console() -> Result<()> {
    let lab = Lab::new()?;
    let mut guest = lab.guest("alone").boot()?;
    let answer = guest.run("echo out; echo err >&2; exit_with() { return $1; }; exit_with 7")?;
    ensure!(
        answer.text == "out\nerr\n" && answer.status == 7,
        "{answer:?}"
    );
    // More than a serial port's or a terminal's buffers hold.
    let text = guest.succeeds("seq 5000")?;
    ensure!(
        text.lines().count() == 5000 && text.ends_with("\n5000\n"),
        "Output was lost:\n{text}"
    );
    let answer = guest.run("cat")?;
    ensure!(
        answer.text.is_empty() && answer.status == 0,
        "stdin is not empty: {answer:?}"
    );
    Ok(())
}

fn a_namespace_is_gone_with_its_keeper() -> Result<()> {
    let here = Namespace::new()?;
    let there = Namespace::new()?;
    here.cable("port0", &there, "port1")?;
    ensure!(here.link_names()? == ["port0"] && there.link_names()? == ["port1"]);
    drop(there);
    // A veth goes with its peer, and its peer with the namespace.
    system_tests::wait::until_true("the cable to go", system_tests::wait::PATIENCE, || {
        Ok(here.link_names()?.is_empty())
    })
}
