//! Two operations on registers of 32 bits, one after the other, as one: what is saved is a dispatch, which takes longer than
//! either. Nobody asks for their flags, and they can't fault, so nothing can come between them.
//!
//! The second stays in its place behind the first, and is passed over.

use super::arithmetic::{self, Binary, Unary};
use super::shift;
use crate::engine::lguest::cpu::op::{self, Handler, Op, Run};
use crate::engine::lguest::cpu::state::Core;
use crate::engine::lguest::memory::GuestMemory;

/// An operation that only computes a register from registers and numbers.
trait Plain {
    fn apply(core: &mut Core, op: &Op);
}

/// With a register.
struct With<K>(K);
/// With a number.
struct By<K>(K);
/// Alone.
struct Alone<K>(K);
/// Shifted by a number.
struct Shifted<K>(K);
struct Copied;
struct Set;
struct Address;

impl<K: Binary> Plain for With<K> {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        let (a, b) = (core.reg(op.reg), core.reg(op.other));
        let result = K::apply::<u32>(&mut core.flags.clone(), a, b);
        core.set_reg(op.reg, result);
    }
}

impl<K: Binary> Plain for By<K> {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        let a = core.reg(op.reg);
        let result = K::apply::<u32>(&mut core.flags.clone(), a, op.imm);
        core.set_reg(op.reg, result);
    }
}

impl<K: Unary> Plain for Alone<K> {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        let a = core.reg(op.reg);
        let result = K::apply::<u32>(&mut core.flags.clone(), a);
        core.set_reg(op.reg, result);
    }
}

impl<K: shift::Shift> Plain for Shifted<K> {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        let a = core.reg(op.reg);
        // By 0 it stays what it is, and nobody looks at its flags.
        let result = match op.imm % 32 {
            0 => a,
            count => K::apply::<u32>(&mut core.flags.clone(), a, count),
        };
        core.set_reg(op.reg, result);
    }
}

impl Plain for Copied {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        core.set_reg(op.reg, core.reg(op.other));
    }
}

impl Plain for Set {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        core.set_reg(op.reg, op.imm);
    }
}

impl Plain for Address {
    #[inline(always)]
    fn apply(core: &mut Core, op: &Op) {
        core.set_reg(op.reg, op.offset(core));
    }
}

fn both<A: Plain, B: Plain>(core: &mut Core, memory: &GuestMemory, op: &Op, rest: &[Op]) -> Run {
    A::apply(core, op);
    let [next, rest @ ..] = rest else {
        return Run::DONE;
    };
    B::apply(core, next);
    op::run(core, memory, rest)
}

macro_rules! kinds {
    ($($name:ident: $plain:ty,)*) => {
        /// Which of them an operation is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in super::super) enum Member {
            $($name,)*
        }

        /// The handler of the first of two, which does the second, too.
        pub(in super::super) fn pair(first: Member, second: Member) -> Handler {
            fn then<A: Plain>(second: Member) -> Handler {
                match second {
                    $(Member::$name => both::<A, $plain>,)*
                }
            }
            match first {
                $(Member::$name => then::<$plain>(second),)*
            }
        }
    };
}

kinds! {
    AddRegister: With<arithmetic::Add>,
    AddNumber: By<arithmetic::Add>,
    SubRegister: With<arithmetic::Sub>,
    SubNumber: By<arithmetic::Sub>,
    AndRegister: With<arithmetic::And>,
    AndNumber: By<arithmetic::And>,
    OrRegister: With<arithmetic::Or>,
    XorRegister: With<arithmetic::Xor>,
    Inc: Alone<arithmetic::Inc>,
    Dec: Alone<arithmetic::Dec>,
    Shl: Shifted<shift::Shl>,
    Shr: Shifted<shift::Shr>,
    Sar: Shifted<shift::Sar>,
    CopyRegister: Copied,
    SetNumber: Set,
    LoadAddress: Address,
}

/// What an instruction is whose flags nobody wants, or that has none. `narrow`: its address is of 16 bits.
pub(in super::super) fn member(
    mnemonic: iced_x86::Mnemonic,
    form: &super::Form,
    narrow: bool,
) -> Option<Member> {
    use super::Kind::{Immediate, Memory, None as No, Register};
    use iced_x86::Mnemonic as M;
    if form.width != 4 {
        return None;
    }
    Some(match (mnemonic, form.kinds[0], form.kinds[1]) {
        (M::Add, Register, Register) => Member::AddRegister,
        (M::Add, Register, Immediate) => Member::AddNumber,
        (M::Sub, Register, Register) => Member::SubRegister,
        (M::Sub, Register, Immediate) => Member::SubNumber,
        (M::And, Register, Register) => Member::AndRegister,
        (M::And, Register, Immediate) => Member::AndNumber,
        (M::Or, Register, Register) => Member::OrRegister,
        (M::Xor, Register, Register) => Member::XorRegister,
        (M::Inc, Register, No) => Member::Inc,
        (M::Dec, Register, No) => Member::Dec,
        (M::Shl | M::Sal, Register, Immediate) => Member::Shl,
        (M::Shr, Register, Immediate) => Member::Shr,
        (M::Sar, Register, Immediate) => Member::Sar,
        (M::Mov, Register, Register) => Member::CopyRegister,
        (M::Mov, Register, Immediate) => Member::SetNumber,
        (M::Lea, Register, Memory) if !narrow => Member::LoadAddress,
        _ => return None,
    })
}
