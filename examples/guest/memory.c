/* memory.c - page tables, and the bytes of libc that compilers take for granted.
 *
 * The host starts us on page tables that map memory from PAGE_OFFSET on. Devices live above
 * memory, where those do not reach, so we make our own: one table for the first 4 MiB of memory,
 * in which all of this guest is, and one for the device pages, right behind it.
 */
#include "guest.h"

#define ENTRIES 1024u
#define TABLE_FLAGS 0x63u	/* present, writable, accessed, dirty; for ring 1 only */
#define DEVICE_WINDOW (PAGE_OFFSET + ENTRIES * PAGE_SIZE)

static uint32_t directory[ENTRIES] __attribute__((aligned(4096)));
static uint32_t memory_table[ENTRIES] __attribute__((aligned(4096)));
static uint32_t device_table[ENTRIES] __attribute__((aligned(4096)));
static uint32_t first_device_page;

void memory_start(uint32_t pages)
{
	first_device_page = pages;
	for (uint32_t page = 0; page < ENTRIES && page < first_device_page; page++)
		memory_table[page] = page * PAGE_SIZE | TABLE_FLAGS;
	directory[PAGE_OFFSET >> 22] = physical(memory_table) | TABLE_FLAGS;
	directory[DEVICE_WINDOW >> 22] = physical(device_table) | TABLE_FLAGS;
	hypercall(HC_NEW_PAGE_TABLE, physical(directory), 0, 0);
}

void *map_device_page(uint32_t page_number)
{
	uint32_t index = page_number - first_device_page;
	if (index >= ENTRIES)
		return NULL;
	device_table[index] = page_number * PAGE_SIZE | TABLE_FLAGS;
	/* The host may have kept that there was nothing. */
	uint32_t address = DEVICE_WINDOW + index * PAGE_SIZE;
	hypercall(HC_SET_PTE, physical(directory), address, device_table[index]);
	return (void *)address;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
	void *start = to;
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
	return start;
}

void *memset(void *to, int value, size_t bytes)
{
	void *start = to;
	asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
	return start;
}

int memcmp(const void *one, const void *other, size_t bytes)
{
	const uint8_t *a = one, *b = other;
	for (; bytes > 0; a++, b++, bytes--)
		if (*a != *b)
			return *a - *b;
	return 0;
}
