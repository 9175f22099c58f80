/* lguest.h - the interface between guest and host, as Linux 2.6.23 had it.
 *
 * Three kinds of address: "physical" ones count from the start of the guest's memory; the guest
 * sees its memory from PAGE_OFFSET on; and a DMA "key" is a physical address that names a mailbox.
 */
#ifndef LGUEST_H
#define LGUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096u
#define PAGE_OFFSET 0xC0000000u

/* Between the guest's own data and physical addresses. */
static inline uint32_t physical(const volatile void *address) { return (uint32_t)address - PAGE_OFFSET; }
static inline void *at_physical(uint32_t address) { return (void *)(address + PAGE_OFFSET); }

/* ---- Hypercalls: int $0x1F with the number in eax, arguments in edx, ebx, ecx ---- */

enum hypercall {
	HC_INIT = 1,		/* physical address of struct guest_data */
	HC_CRASH = 2,		/* physical address of a text: the end. "Power down" is power-off */
	HC_LOAD_GDT = 3,	/* physical address, number of entries */
	HC_NEW_PAGE_TABLE = 4,	/* physical address of the directory */
	HC_LOAD_IDT_ENTRY = 6,	/* vector, low word, high word */
	HC_SET_STACK = 7,	/* selector, address, pages: for traps from ring 3 */
	HC_SET_CLOCK_EVENT = 9,	/* ns from now until interrupt 0; 0 takes it back */
	HC_HALT = 10,		/* until an interrupt */
	HC_BIND_DMA = 12,	/* key, physical address of blocks, count * 256 + interrupt: 1 if done */
	HC_SEND_DMA = 13,	/* key, physical address of one block */
	HC_SET_PTE = 14,	/* directory, address, entry */
};

static inline uint32_t hypercall(uint32_t call, uint32_t edx, uint32_t ebx, uint32_t ecx)
{
	asm volatile("int $0x1f" : "+a"(call) : "d"(edx), "b"(ebx), "c"(ecx) : "memory");
	return call;
}

/* ---- What guest and host both read and write; the guest says where at HC_INIT ---- */

#define INTERRUPTS_ON 0x200u

struct guest_data {
	volatile uint32_t irq_enabled;		/* INTERRUPTS_ON, or 0: no interrupt now */
	volatile uint32_t blocked_interrupts;	/* a bit each: not this one */
	volatile uint32_t cr2;
	volatile int32_t seconds, nanoseconds;	/* the time of the last interrupt */
	volatile uint8_t call_status[64];	/* 0xFF: the slot in `calls` is free */
	struct { uint32_t eax, edx, ebx, ecx; } calls[64];
	volatile uint32_t reserved_memory;	/* bytes at the top of addresses that are the host's */
	volatile uint16_t guest_id;
	volatile uint32_t tsc_khz;		/* of rdtsc; 0: it is no clock */
	uint32_t no_interrupts_start, no_interrupts_end;
};
_Static_assert(sizeof(struct guest_data) == 1128, "The host reads it at fixed places");

extern struct guest_data guest_data;

/* ---- DMA: letters between guest and host, and guest and guest ---- */

struct dma {
	volatile uint32_t used_length;	/* for input: 0 is empty; for output: what was taken */
	uint32_t address[16];		/* physical; no piece crosses a page */
	uint16_t length[16];		/* the first 0 ends the list */
};

/* ---- The device page, right above memory: sixteen of these ---- */

enum device_type { DEVICE_CONSOLE = 1, DEVICE_NET = 2, DEVICE_BLOCK = 3 };
enum device_status { STATUS_SEEN = 1, STATUS_DRIVER = 2, STATUS_WORKS = 4, STATUS_FAILED = 128 };

#define DEVICES 16
#define NET_NO_CHECKSUMS 0x4000u	/* a frame on this wire is not damaged: checksums may be left out */
#define NET_SLOT 0x0FFFu

struct device {
	uint16_t type, features;
	volatile uint16_t status;
	uint16_t pages;
	uint32_t page_number;	/* of the first */
};

#endif
