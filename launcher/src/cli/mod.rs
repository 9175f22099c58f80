//! The command line: the seed's own (lguest's launcher, 2007), with additions.
//!
//! ```text
//! launcher [--verbose] [--sharenet=…|--tunnet=…|--block=…|--initrd=…]… <mem-in-mb> <kernel> [args…]
//! ```
//!
//! Two rules shape the code. *Everything after the kernel is the guest's*, even `--verbose`: so
//! the line is cut there by `operands_at` before clap sees it. And *devices appear in the guest
//! in the order of their options*, across kinds: so clap's values are put back in line order. What
//! options there are, and what is said of them, is in `options`.

mod options;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

use self::options::{USAGE, command};
use crate::engine::EngineChoice;
use crate::error::Error;
use crate::plan::GuestPlan;
use crate::plan::arguments::KernelArguments;
use crate::plan::console::ConsolePlan;
use crate::plan::cpus::CpuCount;
use crate::plan::device::{DevicePlan, NetPlan};
use crate::plan::disk::BlockPlan;
use crate::plan::life::{LifePlan, ReadyText, StatusFd};
use crate::plan::memory::MemorySize;
use crate::stop::Grace;

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To print something: help, the version.
    Text(String),
    /// To run a guest.
    Run(Box<Options>),
}

/// A guest, and how to run it.
#[derive(Debug)]
pub struct Options {
    /// The guest.
    pub plan: GuestPlan,
    /// Who is to be its computer.
    pub engine: EngineChoice,
    /// Tell more on stderr.
    pub verbose: bool,
    /// Print the plan and run nothing.
    pub dry_run: bool,
}

/// What is wrong with a command line, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// For `map_err`: an option's value is bad, for a reason that is already a sentence.
    pub fn in_option<E: std::fmt::Display>(option: &'static str) -> impl Fn(E) -> Self {
        move |reason| Self(format!("--{option}: {reason}"))
    }
}

/// Reads a command line whose first word is the program's name.
///
/// # Errors
/// [`Error::Usage`], naming the word that is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Error> {
    let mut options: Vec<OsString> = args.into_iter().collect();
    let at = operands_at(&command(), &options);
    let mut operands = options.split_off(at.min(options.len())).into_iter();
    let matches = match command().try_get_matches_from(options) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Text(e.render().to_string()));
        }
        Err(e) => return Err(sentence(&e).into()),
    };

    if operands.as_slice().first().is_some_and(|word| word == "--") {
        operands.next();
    }
    let missing = |what| UsageError(format!("{what} is missing; usage: {USAGE}"));
    let memory = operands
        .next()
        .ok_or_else(|| missing("The guest's memory in MiB"))?;
    let memory = MemorySize::parse(&memory).map_err(|e| UsageError(e.to_string()))?;
    let kernel = operands
        .next()
        .filter(|k| !k.is_empty())
        .ok_or_else(|| missing("The kernel's file"))?;
    if kernel.as_encoded_bytes().starts_with(b"-") {
        return Err(UsageError(format!(
            "'{}' stands where the kernel's file belongs; options go before <mem-in-mb>, and a file of such a name is \
             written './{}'",
            kernel.display(),
            kernel.display()
        ))
        .into());
    }
    let engine = value(&matches, "engine", str::parse)?.unwrap_or(EngineChoice::Auto);
    let plan = GuestPlan {
        memory,
        cpus: value(&matches, "cpus", CpuCount::parse)?.unwrap_or_default(),
        kernel: PathBuf::from(kernel),
        initrd: initrd(&matches)?,
        arguments: KernelArguments::new(operands),
        devices: devices(&matches)?,
        life: life(&matches)?,
    };
    Ok(Invocation::Run(Box::new(Options {
        plan,
        engine,
        verbose: matches.get_flag("verbose"),
        dry_run: matches.get_flag("dry-run"),
    })))
}

/// Where the options end and `<mem-in-mb>` stands: the first word that is neither an option nor
/// the value of the one before it. `-5` counts as memory, to be refused as such.
fn operands_at(command: &Command, words: &[OsString]) -> usize {
    let takes_value = |word: &str| {
        command.get_arguments().any(|arg| {
            arg.get_action().takes_values()
                && arg
                    .get_long()
                    .is_some_and(|long| word.strip_prefix("--") == Some(long))
        })
    };
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let text = word.to_string_lossy();
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some('-'), Some(digit)) if digit.is_ascii_digit() => break,
            (Some('-'), Some(_)) if text == "--" => break,
            (Some('-'), _) => at += if takes_value(&text) { 2 } else { 1 },
            _ => break,
        }
    }
    at
}

/// The value of an option that is given once, read by `parse`.
fn value<T, E: std::fmt::Display>(
    matches: &ArgMatches,
    option: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, UsageError> {
    matches
        .get_one::<String>(option)
        .map(|text| parse(text))
        .transpose()
        .map_err(UsageError::in_option(option))
}

/// How the guest's life is attended to.
fn life(matches: &ArgMatches) -> Result<LifePlan, UsageError> {
    let file = |option: &'static str| match matches.get_one::<OsString>(option) {
        Some(path) if path.is_empty() => Err(UsageError(format!("--{option}= names no file"))),
        path => Ok(path.map(PathBuf::from)),
    };
    let console = matches
        .get_one::<OsString>("console")
        .map(|place| ConsolePlan::parse(place))
        .transpose()?;
    Ok(LifePlan {
        console: console.unwrap_or_default(),
        log: file("log")?,
        ready: value(matches, "ready", ReadyText::parse)?,
        status: value(matches, "status-fd", StatusFd::parse)?,
        pidfile: file("pidfile")?,
        on_reset: value(matches, "on-reset", str::parse)?.unwrap_or_default(),
        grace: value(matches, "grace", Grace::parse)?.unwrap_or_default(),
    })
}

/// The devices in line order.
fn devices(matches: &ArgMatches) -> Result<Vec<DevicePlan>, UsageError> {
    let mut in_order = BTreeMap::new();
    for option in ["sharenet", "tunnet", "block"] {
        let (Some(places), Some(values)) = (
            matches.indices_of(option),
            matches.get_many::<OsString>(option),
        ) else {
            continue;
        };
        for (place, value) in places.zip(values) {
            let device = match option {
                "sharenet" => DevicePlan::Net(NetPlan::sharenet(text(option, value)?)?),
                "tunnet" => DevicePlan::Net(NetPlan::tunnet(text(option, value)?)?),
                _ => DevicePlan::Block(BlockPlan::parse(value)?),
            };
            in_order.insert(place, device);
        }
    }
    Ok(in_order.into_values().collect())
}

/// The one initrd.
fn initrd(matches: &ArgMatches) -> Result<Option<PathBuf>, UsageError> {
    let mut files = matches.get_many::<OsString>("initrd").into_iter().flatten();
    match (files.next(), files.next()) {
        (Some(_), Some(second)) => Err(UsageError(format!(
            "--initrd={} is a second initrd, and a guest has one; join them into one file (cat), if both are needed",
            second.display()
        ))),
        (first, _) => Ok(first.map(PathBuf::from)),
    }
}

fn text<'a>(option: &'static str, value: &'a OsStr) -> Result<&'a str, UsageError> {
    value.to_str().ok_or_else(|| {
        UsageError(format!(
            "--{option}={} is not text in UTF-8",
            value.display()
        ))
    })
}

/// Clap's explanation, which is a page, as a sentence.
fn sentence(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    UsageError(match error.kind() {
        ErrorKind::UnknownArgument => match context(ContextKind::SuggestedArg) {
            Some(other) => format!("There is no option {argument}; did you mean {other}?"),
            None => format!("There is no option {argument}; see launcher --help"),
        },
        ErrorKind::InvalidValue => {
            format!("The option {argument} needs a value; see launcher --help")
        }
        ErrorKind::ArgumentConflict => {
            format!("The option {argument} is given twice; give it once")
        }
        ErrorKind::TooManyValues => {
            format!("The option {argument} takes no value; see launcher --help")
        }
        _ => {
            let page = error.render().to_string();
            let first = page.lines().next().unwrap_or_default();
            format!(
                "{}; see launcher --help",
                first.trim_start_matches("error: ")
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Options, String> {
        let line = std::iter::once("launcher")
            .chain(words.iter().copied())
            .map(OsString::from);
        match parse(line) {
            Ok(Invocation::Run(options)) => Ok(*options),
            Ok(Invocation::Text(text)) => Err(text),
            Err(error) => {
                assert_eq!(error.exit_status(), 2);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn the_seeds_own_line_is_understood() {
        let options = parse_words(&[
            "--verbose",
            "--tunnet=192.168.19.1",
            "--block=disk",
            "32m",
            "vmlinux",
        ])
        .unwrap_err();
        assert!(options.contains("32m"), "{options}");
        let options = parse_words(&[
            "--verbose",
            "--tunnet=192.168.19.1",
            "--block=disk",
            "32",
            "vmlinux",
            "root=/dev/vda",
        ]);
        let options = options.unwrap();
        assert!(options.verbose && !options.dry_run);
        assert_eq!(options.plan.kernel, PathBuf::from("vmlinux"));
        assert_eq!(options.plan.devices.len(), 2);
    }

    #[test]
    fn everything_after_the_kernel_is_the_guests() {
        let words = [
            "64",
            "bzImage",
            "--verbose",
            "--",
            "--block=x",
            "-v",
            "--engine",
        ];
        let options = parse_words(&words).unwrap();
        assert!(!options.verbose && options.plan.devices.is_empty());
        assert_eq!(
            options.plan.arguments.to_string(),
            "--verbose -- --block=x -v --engine"
        );
    }

    #[test]
    fn devices_keep_the_order_of_the_line_across_kinds() {
        let words = [
            "--tunnet=10.0.0.1",
            "--block=a",
            "--sharenet=/x/lan0",
            "--block",
            "b,ro",
            "--tunnet",
            "bridge:br0",
            "64",
            "k",
        ];
        let plan = parse_words(&words).unwrap().plan;
        let shown: Vec<_> = plan.devices.iter().map(ToString::to_string).collect();
        let kinds: Vec<_> = shown.iter().map(|d| d.split(',').next().unwrap()).collect();
        assert_eq!(
            kinds,
            [
                "tap with 10.0.0.1/8",
                "disk a",
                "port on sharenet /x/lan0",
                "disk b",
                "tap on bridge br0"
            ]
        );
    }

    #[test]
    fn a_wrong_line_is_answered_in_one_sentence_that_names_what_is_wrong() {
        for (words, named) in [
            (&[][..], "memory in MiB is missing"),
            (&["64"], "kernel's file is missing"),
            (&["64", ""], "kernel's file is missing"),
            (&["--frobnicate", "64", "k"], "--frobnicate"),
            (&["--blok=x", "64", "k"], "did you mean --block"),
            (&["-x", "64", "k"], "-x"),
            (&["64", "--block=x", "k"], "--block=x"),
            (&["-5", "k"], "-5"),
            (&["0", "k"], "0"),
            (&["lots", "k"], "lots"),
            (&["--block=", "64", "k"], "--block"),
            (&["--verbose=yes", "64", "k"], "--verbose"),
            (&["--engine=bochs", "64", "k"], "bochs"),
            (&["--engine=qemu", "--engine=qemu", "64", "k"], "--engine"),
            (&["--initrd=a", "--initrd=b", "64", "k"], "--initrd=b"),
            (&["--tunnet=192.168.19", "64", "k"], "192.168.19"),
            (&["--tunnet=10.0.0.1/40", "64", "k"], "10.0.0.1/40"),
            (&["--tunnet=bridge:", "64", "k"], "bridge"),
            (&["--sharenet=a b", "64", "k"], "a b"),
            (
                &["--sharenet=lan0,mac=01:00:5e:00:00:01", "64", "k"],
                "01:00:5e",
            ),
            (&["--sharenet=lan0,slot=700", "64", "k"], "700"),
            (&["--sharenet"], "--sharenet"),
            (&["--cpus=0", "64", "k"], "--cpus: '0'"),
            (&["--cpus=256", "64", "k"], "--cpus: '256'"),
            (&["--cpus=2", "--cpus=2", "64", "k"], "--cpus"),
            (&["--on-reset=explode", "64", "k"], "--on-reset: 'explode'"),
            (&["--grace=-1", "64", "k"], "--grace: '-1'"),
            (&["--console=tty", "64", "k"], "--console: 'tty'"),
            (&["--console=unix:", "64", "k"], "--console=unix:"),
            (&["--console=pty", "--console=pty", "64", "k"], "--console"),
            (&["--log=", "64", "k"], "--log="),
            (&["--pidfile=", "64", "k"], "--pidfile="),
            (&["--ready=", "64", "k"], "--ready"),
            (&["--status-fd=three", "64", "k"], "--status-fd: 'three'"),
            (&["--block=a,serial=", "64", "k"], "--block: ''"),
        ] {
            let message = parse_words(words).expect_err(&words.join(" "));
            assert!(message.contains(named), "{words:?}: {message}");
            assert!(
                !message.contains('\n') && message.len() < 250,
                "{words:?}: {message}"
            );
        }
    }

    #[test]
    fn help_and_version_are_not_errors() {
        assert!(parse_words(&["--help"]).unwrap_err().contains("--sharenet"));
        assert!(
            parse_words(&["--version"])
                .unwrap_err()
                .contains(env!("CARGO_PKG_VERSION"))
        );
    }
}
