/* misdeeds.c - what no guest should do, to see that it is the guest that ends, and why.
 *
 * Each is one step over one line that the host must hold. A guest that is still there afterwards
 * says so.
 */
#include "guest.h"

static void bad_hypercall(void) { hypercall(99, 0, 0, 0); }
static void init_again(void) { hypercall(HC_INIT, physical(&guest_data), 0, 0); }
static void data_nowhere(void) { hypercall(HC_CRASH, 0xFFFFFFF0, 0, 0); }
static void large_gdt(void) { hypercall(HC_LOAD_GDT, 0, 33, 0); }
static void gate_type(void) { hypercall(HC_LOAD_IDT_ENTRY, 3, 0, 0x8500); }
static void stack_ring(void) { hypercall(HC_SET_STACK, 0x68, PAGE_OFFSET, 1); }
static void stack_unmapped(void) { hypercall(HC_SET_STACK, 0x69, 0x10000000, 1); }
static void key_nowhere(void) { hypercall(HC_BIND_DMA, 0xFFFFF000, 0, 1 << 8 | 1); }
static void key_odd(void) { hypercall(HC_BIND_DMA, 2, 0, 1 << 8 | 1); }
static void block_nowhere(void) { hypercall(HC_SEND_DMA, 0, 0xFFFFF000, 0); }

static void send(struct dma block)
{
	static struct dma sent;
	sent = block;
	hypercall(HC_SEND_DMA, 0, physical(&sent), 0);
}

static void piece_nowhere(void) { send((struct dma){ .address = { 0xFFFFF000 }, .length = { 100 } }); }

static void past_the_disk(void) { disk_read(disk_sectors(), (void *)0xC0080000); }

static void top_of_addresses(void) { *(volatile uint32_t *)0xFFC00000 = 1; }

/* A directory of nonsense: the instruction behind the call is fetched through it. */
static void page_directory(void)
{
	static uint32_t directory[1024] __attribute__((aligned(4096)));
	memset(directory, 0xFF, sizeof directory);
	hypercall(HC_NEW_PAGE_TABLE, physical(directory), 0, 0);
}

static void page_directory_nowhere(void) { hypercall(HC_NEW_PAGE_TABLE, 0xFFFFF000, 0, 0); }

/* No gate for what happens next. */
static void no_gate(void)
{
	hypercall(HC_LOAD_IDT_ENTRY, 6, 0, 0);
	asm volatile("ud2");
}

static void no_stack(void) { asm volatile("xorl %esp, %esp; pushl %eax"); }

/* Every place of the list of queued calls filled with nonsense. */
static void queue(void)
{
	for (int i = 0; i < 64; i++) {
		guest_data.calls[i].eax = 0x12345678;
		guest_data.call_status[i] = 0;
	}
	hypercall(0, 0, 0, 0);
}

static void invalid_instruction(void) { asm volatile("ud2"); }

static void spin(void)
{
	for (;;)
		asm volatile("");
}

static const struct { const char *name; void (*deed)(void); } misdeeds[] = {
	{ "hypercall", bad_hypercall }, { "init", init_again }, { "text", data_nowhere },
	{ "gdt", large_gdt }, { "gate", gate_type }, { "ring", stack_ring },
	{ "stack", stack_unmapped }, { "key", key_nowhere }, { "oddkey", key_odd },
	{ "block", block_nowhere }, { "piece", piece_nowhere }, { "disk", past_the_disk },
	{ "top", top_of_addresses }, { "directory", page_directory }, { "cr3", page_directory_nowhere },
	{ "nogate", no_gate }, { "nostack", no_stack }, { "queue", queue },
	{ "exception", invalid_instruction }, { "spin", spin },
};

void misdeed(const char *name)
{
	for (size_t i = 0; i < sizeof misdeeds / sizeof misdeeds[0]; i++) {
		const char *a = misdeeds[i].name, *b = name;
		for (; *a && *a == *b; a++, b++)
			;
		if (*a || *b)
			continue;
		print("misdeed: %s\n", name);
		misdeeds[i].deed();
		print("misdeed: still here\n");
		return;
	}
	print("misdeed: there is none named %s\n", name);
}
