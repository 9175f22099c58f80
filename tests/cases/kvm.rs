//! Claims about guests on hardware virtualisation, and about the machine they are tested on where
//! this one has none ([`system_tests::test_host`]).

use std::path::Path;

use anyhow::{Result, ensure};
use system_tests::test_host::claim;
use system_tests::{Namespace, Need};

fn main() {
    system_tests::test_host::main(vec![claim(
        "the_host_has_kvm_taps_vhost_and_a_slow_wire_for_who_wants_one",
        &[Need::KvmGuests, Need::Root],
        the_host_has_what_claims_need,
    )])
}

fn the_host_has_what_claims_need() -> Result<()> {
    for device in ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"] {
        ensure!(Path::new(device).exists(), "There is no {device}");
    }
    let (here, there) = (Namespace::new()?, Namespace::new()?);
    here.cable("port0", &there, "port1")?;
    here.run("ip address add 10.0.0.1/24 dev port0")?;
    there.run("ip address add 10.0.0.2/24 dev port1")?;
    here.run("tc qdisc add dev port0 root netem delay 300ms")?;
    let answer = here.run("ping -n -c 2 -i 0.5 -W 10 10.0.0.2")?;
    ensure!(
        answer
            .split("time=")
            .nth(1)
            .and_then(|rest| rest
                .split('.')
                .next()?
                .split(' ')
                .next()?
                .parse::<u32>()
                .ok())
            .is_some_and(|milliseconds| milliseconds >= 300),
        "A wire that delays by 300 ms does not: {answer}"
    );
    Ok(())
}
