//! What can be done for a block as a whole: flags that are not made, jumps joined with what they depend on, and
//! operations on registers done in pairs.
//!
//! An improved block is run from its start to its end, or to a fault; a budget that ends within it is
//! used up in the same block as it was before this (`Mode::exact`).

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::{form, table};
use crate::engine::lguest::cpu::exec::fused::{self, Words};
use crate::engine::lguest::cpu::exec::pairs::{self, Member};
use crate::engine::lguest::cpu::exec::{Form, quiet};
use crate::engine::lguest::cpu::op::Op;
use crate::engine::lguest::cpu::state::Mode;

/// Improves a block's operations. True: the last two instructions became one operation.
pub(in super::super) fn improve(
    instructions: &[Instruction],
    ops: &mut Vec<Op>,
    first: usize,
    mode: Mode,
) -> bool {
    // Whether somebody may ask for the flags that the instruction leaves.
    let mut wanted = true;
    // The operation behind this one, if it can be done with it.
    let mut behind: Option<Member> = None;
    for (instruction, op) in instructions.iter().zip(&mut ops[first..]).rev() {
        let form = form(instruction, op, mode);
        if !wanted && let Some(handler) = quiet::quiet(instruction.mnemonic(), &form) {
            op.run = handler;
        }
        let own = member(instruction, op, &form, wanted);
        behind = match (own, behind) {
            (Some(own), Some(next)) => {
                op.run = pairs::pair(own, next);
                None
            }
            (own, _) => own,
        };
        wanted = wanted_before(instruction, wanted);
    }
    fuse(instructions, ops, mode)
}

/// What an instruction is as one of a pair.
fn member(instruction: &Instruction, op: &Op, form: &Form, wanted: bool) -> Option<Member> {
    let makes_flags = !matches!(instruction.mnemonic(), M::Mov | M::Lea);
    // There are control registers, too.
    let is_general = |n| match instruction.op_kind(n) {
        OpKind::Register => instruction.op_register(n).is_gpr32(),
        _ => true,
    };
    if wanted && makes_flags || !(0..instruction.op_count()).all(is_general) {
        return None;
    }
    pairs::member(instruction.mnemonic(), form, op.narrow_address())
}

/// Whether somebody may ask for the flags that an instruction finds.
fn wanted_before(instruction: &Instruction, wanted_after: bool) -> bool {
    let in_memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    if in_memory || !is_quick(instruction.mnemonic()) {
        // It may fault, and a fault shows the flags.
        return true;
    }
    match instruction.mnemonic() {
        M::Adc | M::Sbb => true,
        M::Add | M::Sub | M::And | M::Or | M::Xor | M::Cmp | M::Test | M::Neg => false,
        M::Shl | M::Sal | M::Shr | M::Sar if instruction.op_kind(1) != OpKind::Register => {
            instruction.immediate8().is_multiple_of(32) && wanted_after
        }
        mnemonic => wanted_after || is_conditional(mnemonic, instruction),
    }
}

fn is_conditional(_: M, instruction: &Instruction) -> bool {
    table::condition(instruction).is_some()
}

/// Instructions that, with registers, do what they do and go on.
fn is_quick(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Lea
            | M::Add
            | M::Sub
            | M::Adc
            | M::Sbb
            | M::And
            | M::Or
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Cdq
            | M::Cwde
            | M::Bswap
            | M::Nop
    )
}

fn fuse(instructions: &[Instruction], ops: &mut Vec<Op>, mode: Mode) -> bool {
    let [.., before, jump] = instructions else {
        return false;
    };
    if !jump.is_jcc_short_or_near() || jump.op_kind(0) != OpKind::NearBranch32 {
        return false;
    }
    let [.., first, second] = ops.as_mut_slice() else {
        return false;
    };
    let form = form(before, first, mode);
    let Some(handler) = table::condition(jump)
        .and_then(|condition| fused::fuse(before.mnemonic(), &form, condition))
    else {
        return false;
    };
    let words = Words {
        target: second.imm,
        immediate: first.imm,
    };
    let mut op = *first;
    if !words.put(&form, &mut op) {
        return false;
    }
    op.run = handler;
    op.end = second.end;
    *first = op;
    ops.pop();
    true
}
