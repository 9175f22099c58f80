#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
//! Peers and circumstances at their worst: shared memory scribbled over, cut short or taken away under
//! those who use it, no room, no descriptors, every slot taken.
//!
//! ```text
//! HOSTILE_SECONDS=600 HOSTILE_SEED=7 cargo test --release -p lgswitch --test hostile -- scribbled --nocapture
//! ```
//!
//! The processes are this binary, told by its environment what to be ([`role`]), and the tool.

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/removal.rs"]
mod removal;
#[path = "hostile/role.rs"]
mod role;
#[path = "hostile/scarcity.rs"]
mod scarcity;
#[path = "hostile/scribbled.rs"]
mod scribbled;
#[path = "hostile/scribbler.rs"]
mod scribbler;
#[path = "storm/stall.rs"]
mod stall;
#[path = "hostile/truncation.rs"]
mod truncation;

use libtest_mimic::{Arguments, Completion, Trial};

fn main() {
    if let Some(role) = role::of_this_process() {
        return match role.as_str() {
            "scribbler" => scribbler::scribble(),
            "talker" => scribbled::talk(),
            "newcomer" => scribbled::come_and_go(),
            "onlooker" => scribbled::look_on(),
            "busy" => truncation::be_busy(),
            "sleeper" => truncation::sleep(),
            "few-descriptors" => scarcity::with_few_descriptors(),
            "maker" => scarcity::make_with_few_descriptors(),
            "tiny-tmpfs" => scarcity::on_a_tiny_tmpfs(),
            "crowd" => crowd::belong(),
            "resident" => removal::stay(),
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
        scribbled::who_is_scribbled_over_lives_and_waits_for_nobody,
        truncation::a_port_of_a_file_cut_short_says_so_and_ends,
        truncation::a_sleeping_port_of_a_file_cut_short_says_so_when_woken,
        truncation::the_tool_on_a_file_cut_short_says_so_and_ends,
        truncation::a_file_cut_short_and_grown_again_costs_frames_and_no_port,
        truncation::of_thousands_of_mappings_the_last_is_told_like_the_first,
        scarcity::without_descriptors_a_port_is_refused_in_a_sentence_and_others_go_on,
        scarcity::however_few_descriptors_a_segment_is_made_whole_or_not_at_all,
        crowd::all_682_slots_are_taken_and_talk,
        removal::ports_of_a_removed_segment_talk_on_and_no_newcomer_meets_them,
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
    // One after another: each has the machine to itself, and scribbling is not slowed by a crowd.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, claims).exit();
}
