//! **launcher** runs a guest and puts it on a wire: a sharenet, a tap, a bridge.
//!
//! # The tour
//!
//! A guest goes through these modules in this order:
//!
//! 1. [`cli`]: the command line, the seed's own, becomes a
//! 2. [`plan`]: `GuestPlan`, checked and printable (`--dry-run`): memory, kernel, devices in order.
//! 3. [`image`]: the kernel file is what it says it is (bzImage or ELF), whole, and fits in memory.
//! 4. [`engine`]: who plays the computer? A seam: [`engine::kvm`], [`engine::qemu`], [`engine::lguest`].
//! 5. [`backend`]: the host's side of each device (disk, network), and of the console. A backend
//!    knows the host and no guest interface; an engine wires it to one.
//! 6. [`stop`]: from here on somebody may want the guest to end: a signal, three ^C.
//! 7. [`life`]: what the engine tells while the guest runs, and asks: does it start again?
//! 8. [`end`]: why it ended, and the exit status that says so.
//!
//! [`error`] gathers what can go wrong on the way, [`report`] prints it in one line.
//!
//! `run` is that journey in one page. Nothing is made before everything that can be checked
//! without making it has been; what is made goes away with this process, however it dies: a tap
//! is not persistent, a port is a file lock, QEMU is killed by the kernel when we are
//! (`PR_SET_PDEATHSIG`), sockets have no name by the time anything uses them.

pub mod backend;
pub mod cli;
pub mod end;
pub mod engine;
pub mod error;
pub mod image;
pub mod life;
pub mod plan;
pub mod report;
pub mod stop;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use backend::console::size::ConsoleSize;
use backend::console::{Console, terminal};
use cli::{Invocation, Options};
use end::GuestEnd;
use engine::Guest;
use error::Error;
use image::Image;
use life::Life;

/// The whole program: reads the command line (the program's name first), runs the guest to its
/// end, tells in one sentence on stderr what went wrong, if anything, and gives the exit status.
///
/// Call it on the process's first thread: QEMU is tied to the life of the thread that starts it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // A sharenet, or a guest's memory, that is cut short under us ends us with a sentence.
    lgswitch::sigbus::install(Some(restore_terminal));
    let outcome = cli::parse(args).and_then(|invocation| match invocation {
        Invocation::Text(text) => print(&text).map(|()| 0),
        Invocation::Run(options) => {
            report::let_libraries_speak(options.verbose);
            run(options)
        }
    });
    terminal::restore();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report::say(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// For a thread that touched what is gone: it was copying frames, and does not hold the terminal's lock.
extern "C" fn restore_terminal() {
    terminal::restore();
}

/// Runs one guest from its plan to its end. Gives the exit status: 0 for a guest that powered
/// off or rebooted, others in [`end`].
fn run(options: Options) -> Result<u8, Error> {
    let Options {
        plan,
        engine: choice,
        verbose,
        dry_run,
    } = options;

    // What can be checked without making anything.
    plan.memory.check_host()?;
    let image = Image::open(&plan)?;
    let (engine, why) = engine::choose(choice, &image)?;
    engine.check(&plan, &image)?;
    if verbose {
        report::say(&format_args!("engine {}, because {why}", engine.name()));
    }
    if dry_run {
        backend::check(&plan)?;
        let arguments = plan.arguments.with_defaults(engine.default_arguments());
        return print(&format!(
            "engine    {}, because {why}\n{plan}arguments {arguments}\n",
            engine.name()
        ))
        .map(|()| 0);
    }

    // From here on signals are requests; every thread made later inherits their block.
    let (stop, requests) = stop::channel()?;
    let size = ConsoleSize::unknown()?;
    stop::signals::watch(&stop, plan.life.grace, size.clone())?;
    let devices = backend::open(&plan, engine.guest_writes_address())?;
    let (console, guest_end) = Console::start(stop)?;
    size.set(terminal::size());
    let guest = Guest {
        plan: &plan,
        image: &image,
        devices,
        console: guest_end,
        size: size.clone(),
        stop: &requests,
        life: Life::new(plan.life.on_reset, console.hearing()),
    };
    let outcome = engine.run(guest);

    // The engine is gone, so its end of the console is shut: what is left in between is printed,
    // and what the guest said last tells a panic from a reboot.
    let words = console.finish(&requests);
    let end = outcome?.explained_by(&words);
    if let Some(sentence) = end.complaint() {
        report::say(&sentence);
    } else if verbose && end != GuestEnd::PoweredOff {
        report::say(&end);
    }
    Ok(end.exit_status())
}

/// Prints to stdout. A reader that has gone away is no trouble of ours.
fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Print(error)),
        _ => Ok(()),
    }
}
