//! The options, with one line of help each.

use clap::builder::{OsStringValueParser, ValueParser};
use clap::{Arg, ArgAction, Command};

const ABOUT: &str = "Runs a guest and puts it on sharenets, taps and bridges";

/// How the line is made up.
pub(super) const USAGE: &str = "launcher [OPTIONS] <mem-in-mb> <kernel> [kernel args…]";

const NOTES: &str = "\
<mem-in-mb> is the guest's memory in MiB, <kernel> a bzImage or an ELF vmlinux. All that follows
the kernel is passed to it. Unless they are among it, console=ttyS0 and panic=-1 are added.
Devices appear in the guest in the order given: the first net option is eth0, the first disk vda.

The console is this terminal. ^C goes to the guest; three within a second end it. End of input
does not. The exit status is 0 when the guest powers off or reboots, 1 when it crashes or cannot
be run, 2 for a wrong command line and after three ^C.

SIGTERM, SIGINT and SIGHUP press the guest's power button. A guest that does not power off within
--grace is ended, with the exit status 128 and the signal's number; so is one at a second signal,
and a guest without such a button, as those of the engine lguest, at the first.";

/// All that may stand before `<mem-in-mb>`.
pub(super) fn command() -> Command {
    let device = |name: &'static str, value: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .value_parser(ValueParser::from(OsStringValueParser::new()))
            .action(ArgAction::Append)
    };
    Command::new("launcher")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage(USAGE)
        .after_help(NOTES)
        .arg(
            device("sharenet", "name[,mac=MAC][,slot=N]")
                .help("A network device: a port on a sharenet, made if it is missing"),
        )
        .arg(
            device("tunnet", "ip[/prefix]|bridge:name|macvtap:interface[,mac=MAC]").help(
                "A network device: a tap whose host end gets this address, or joins this bridge; or an address of its own on this interface's wire, where all but the host itself reach it",
            ),
        )
        .arg(
            device("block", "file[,ro][,serial=TEXT][,format=qcow2[,backing=FILE]…]")
                .help("A disk: an image file or a block device; raw, unless it is said to be a layer on others"),
        )
        .arg(device("initrd", "file").help("The initial ramdisk"))
        .arg(setting(
            "cpus",
            "n",
            "How many processors the guest has: 1 (default) to 255",
        ))
        .arg(setting(
            "engine",
            "engine",
            "Who is the guest's computer: auto (default), qemu, kvm, lguest",
        ))
        .arg(
            place("console", "stdio|pty|unix:FILE|file:FILE")
                .help("Where the guest's console is: here (default), on a pseudo-terminal, on a socket, in a file"),
        )
        .arg(place("log", "file").help("Add all that the guest prints, and our own messages, to this file"))
        .arg(setting(
            "ready",
            "text",
            "What the guest prints on its console when it is ready",
        ))
        .arg(setting(
            "status-fd",
            "n",
            "Tell the guest's life on this file descriptor, a JSON object a line",
        ))
        .arg(place("pidfile", "file").help("A file that holds the launcher's process number while the guest lives"))
        .arg(setting(
            "on-reset",
            "end|reboot",
            "What becomes of a guest that reboots: it ends (default), or starts again",
        ))
        .arg(setting(
            "grace",
            "seconds",
            "How long a guest may take to power off after a signal (default: 10)",
        ))
        .arg(
            flag("verbose")
                .short('v')
                .help("Tell on stderr which engine was taken and why, and more"),
        )
        .arg(
            flag("dry-run")
                .help("Check everything that can be checked, print the plan, run nothing"),
        )
}

/// An option that is given once.
fn setting(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// An option that is given once, whose value names a file and need not be text.
fn place(name: &'static str, value: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .value_parser(ValueParser::from(OsStringValueParser::new()))
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}
