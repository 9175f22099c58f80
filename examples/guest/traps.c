/* traps.c - segments, and who is called when.
 *
 * On bare hardware a kernel would load tables with lgdt and lidt. Here the host keeps the
 * processor's tables, and takes ours by hypercall: it makes ring 0 in them ring 1, where we are.
 */
#include "guest.h"

#define GDT_ENTRIES 32
#define FLAT_CODE 0x00CFBB000000FFFFull	/* ring 1, all 4 GiB, readable */
#define FLAT_DATA 0x00CFB3000000FFFFull	/* ring 1, all 4 GiB, writable */
#define KERNEL_CODE 0x61u		/* entry 12, asked for from ring 1 */
#define KERNEL_DATA 0x69u		/* entry 13 */

#define EXCEPTIONS 20u			/* 0 to 19; beyond are none that we could cause */
#define FIRST_INTERRUPT 32u
#define INTERRUPT_GATE 0x8E00u		/* present; irq_enabled becomes 0 on the way in */
#define STUB_BYTES 16u			/* as entry.S lays them out */

extern const uint8_t interrupt_stubs[], exception_stubs[], stack_top[];

volatile uint32_t interrupts_raised;

static uint64_t gdt[GDT_ENTRIES];

static void set_gate(uint32_t vector, const uint8_t *handler)
{
	uint32_t address = (uint32_t)handler;
	hypercall(HC_LOAD_IDT_ENTRY, vector, KERNEL_CODE << 16 | (address & 0xFFFF),
		  (address & 0xFFFF0000) | INTERRUPT_GATE);
}

void traps_start(void)
{
	gdt[KERNEL_CODE / 8] = FLAT_CODE;
	gdt[KERNEL_DATA / 8] = FLAT_DATA;
	hypercall(HC_LOAD_GDT, physical(gdt), GDT_ENTRIES, 0);
	/* Only traps from ring 3 would use it, and we never go there; the host wants to know. */
	hypercall(HC_SET_STACK, KERNEL_DATA, (uint32_t)stack_top, 1);
	for (uint32_t vector = 0; vector < EXCEPTIONS; vector++)
		set_gate(vector, exception_stubs + vector * STUB_BYTES);
	/* The timer's, and one for each device there can be. */
	for (uint32_t interrupt = 0; interrupt <= DEVICES; interrupt++)
		set_gate(FIRST_INTERRUPT + interrupt, interrupt_stubs + interrupt * STUB_BYTES);
}

/* What lies on the stack when an exception stub calls: number and error code are its own work. */
struct frame { uint32_t number, error, eip, cs, flags; };

/* entry.S comes here: this guest is wrong somewhere, and says where. */
_Noreturn void exception(const struct frame *frame)
{
	print("exception %u at %x, error code %x, cr2 %x\n", frame->number, frame->eip, frame->error,
	      guest_data.cr2);
	crash("exception");
}
