/* main.c - from the first C instruction to power-off.
 *
 * This is a whole operating system for one purpose: to be the smallest guest that a network of
 * virtual machines can be made of. It has no processes and no user mode; it does what its kernel
 * arguments say (jobs.c), answers ARP and ping all the while, and sleeps when there is nothing to do.
 *
 * The tour: entry.S (before C), this file, memory.c, traps.c, clock.c, bus.c, then the devices
 * console.c, disk.c and card.c, then the network from the wire up, ethernet.c and internet.c, then
 * what it is all for, jobs.c and the jobs. lguest.h is the interface to the host.
 */
#include "guest.h"

/* From the page the host fills in before the start, as a boot loader would. */
#define BOOT_ARGUMENTS 0x228u	/* u32: physical address of the kernel arguments */
#define BOOT_MEMORY 0x2D8u	/* u64: size of the first piece of memory in the E820 table */

extern const uint8_t no_interrupts_start[], no_interrupts_end[];

struct guest_data guest_data = {
	.blocked_interrupts = 0,
	.call_status = { [0 ... 63] = 0xFF },
	.no_interrupts_start = (uint32_t)no_interrupts_start,
	.no_interrupts_end = (uint32_t)no_interrupts_end,
};

_Noreturn void guest_main(uint32_t boot_page)
{
	/* Before this call the host accepts no other. */
	hypercall(HC_INIT, physical(&guest_data), 0, 0);

	const uint8_t *boot = at_physical(boot_page);
	uint32_t arguments, memory;
	memcpy(&arguments, boot + BOOT_ARGUMENTS, sizeof arguments);
	memcpy(&memory, boot + BOOT_MEMORY, sizeof memory);

	traps_start();
	memory_start(memory / PAGE_SIZE);
	clock_start();
	bus_start(memory / PAGE_SIZE);
	jobs_run(at_physical(arguments));

	/* What it was to do is done; it goes on answering whoever asks. */
	for (;;)
		wait_for(NULL, NEVER);
}

_Noreturn void power_off(void) { crash("Power down"); }

_Noreturn void crash(const char *reason)
{
	for (;;)
		hypercall(HC_CRASH, physical(reason), 0, 0);
}
