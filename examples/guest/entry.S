# entry.S - the first instruction, and the way into and out of interrupts.
#
# The tour starts here. The host (`launcher --engine=lguest`) has put us into memory, looked for
# the tag below, and starts the processor right behind it: in ring 1, on page tables of its own
# making, with no stack. Next: main.c.

	.section .head, "ax"
	.ascii "GenuineLguest"
	.globl entry
entry:
	movl	$stack_top, %esp
	cld
	pushl	%esi			# the boot page's physical address
	call	guest_main		# never returns

# ---- Interrupts ---------------------------------------------------------------------------
# One stub an interrupt, 16 bytes apart (traps.c counts on it). All that a stub does is to note
# which interrupt it was; whoever halted looks at that when it goes on (wait.c).

	.text
	.balign	16
	.globl	interrupt_stubs
interrupt_stubs:
	.set	number, 0
	.rept	32
	.balign	16
	pushl	%eax
	movl	$number, %eax
	jmp	note_interrupt
	.set	number, number + 1
	.endr

note_interrupt:
	btsl	%eax, interrupts_raised
	# Back, as if by one instruction. On this host the processor's interrupt flag is always on,
	# and `irq_enabled` in the guest's data stands for it: restoring it must not let the next
	# interrupt in before we have left, or a flood of them would eat the stack. The host
	# delivers none while we are between these two labels; it was told of them at LGUEST_INIT.
	movl	12(%esp), %eax		# the flags, behind eax, eip and cs
	.globl	no_interrupts_start, no_interrupts_end
no_interrupts_start:
	movl	%eax, guest_data	# irq_enabled is its first word
	popl	%eax
	iret
no_interrupts_end:

# ---- Exceptions ---------------------------------------------------------------------------
# None is expected. Each stub brings the frame into one shape and lets traps.c say what happened.

	.balign	16
	.globl	exception_stubs
exception_stubs:
	.set	number, 0
	.rept	20
	.balign	16
	.if	(number != 8) && (number != 10) && (number != 11) && (number != 12) && (number != 13) && (number != 14) && (number != 17)
	pushl	$0			# the processor pushes no error code for this one
	.endif
	pushl	$number
	jmp	report_exception
	.set	number, number + 1
	.endr

report_exception:
	pushl	%esp			# the frame, as traps.c's struct says
	call	exception

	.bss
	.balign	4096
	.globl	stack_top
	.skip	8192
stack_top:
	.section .note.GNU-stack, "", @progbits
