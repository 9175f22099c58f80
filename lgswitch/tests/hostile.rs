#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! Peers and circumstances at their worst: shared memory scribbled over and cut short under those
//! who use it, no room, no descriptors, every slot taken.
//!
//! The processes are this binary, told by its environment what to be ([`role`]).
//! `HOSTILE_SECONDS` lengthens the scribbling.

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/role.rs"]
mod role;
#[path = "hostile/scarcity.rs"]
mod scarcity;
#[path = "hostile/scribbler.rs"]
mod scribbler;
#[path = "hostile/truncation.rs"]
mod truncation;

use libtest_mimic::{Arguments, Completion, Trial};

fn main() {
    if let Some(role) = role::of_this_process() {
        return match role.as_str() {
            "talker" => scribbler::talk(),
            "scribbler" => scribbler::scribble(),
            "busy" => truncation::be_busy(),
            "sleeper" => truncation::sleep(),
            "few-descriptors" => scarcity::with_few_descriptors(),
            "tiny-tmpfs" => scarcity::on_a_tiny_tmpfs(),
            "crowd" => crowd::belong(),
            other => panic!("no role {other}"),
        };
    }
    let mut claims = Vec::new();
    macro_rules! claims {
        ($($module:ident::$body:ident),* $(,)?) => {
            $(claims.push(Trial::test(stringify!($body), || { $module::$body(); Ok(()) }));)*
        };
    }
    claims![
        scribbler::who_is_scribbled_over_lives_and_waits_for_nobody,
        truncation::a_busy_port_of_a_file_cut_short_says_so_and_ends,
        truncation::a_sleeping_port_of_a_file_cut_short_says_so_when_woken,
        scarcity::without_descriptors_a_port_is_refused_in_a_sentence_and_others_go_on,
        crowd::all_682_slots_are_taken_and_talk,
    ];
    claims.push(Trial::ignorable_test(
        "a_full_filesystem_is_an_error_or_a_counted_drop",
        || {
            Ok(match scarcity::tiny_tmpfs_is_possible() {
                true => {
                    scarcity::a_full_filesystem_is_an_error_or_a_counted_drop();
                    Completion::Completed
                }
                false => Completion::ignored_with("this user can't mount a tmpfs in a namespace"),
            })
        },
    ));
    let mut arguments = Arguments::from_args();
    // One after another: what one forks holds another's locks until it is a program of its own.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, claims).exit();
}
