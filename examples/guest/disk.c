/* disk.c - the first block device, a sector at a time.
 *
 * Its page says what we want and how it went. The data goes by DMA under the page's own key: to
 * write, the letter we send is the data and the one bound there is the receipt; to read, the
 * letter we send is empty and the one bound there is filled.
 */
#include "guest.h"

#define PATIENCE 10000000	/* 10 s */
enum { READ = 0, WRITE = 1 };
enum { PENDING = 0, DONE = 1 };

struct disk_page {
	volatile uint32_t action, sector, bytes, result, sectors;
};

static struct disk_page *page;
static uint32_t key;
static struct dma bound;
static uint8_t buffer[SECTOR] __attribute__((aligned(SECTOR)));

void disk_start(struct device *device, uint32_t interrupt)
{
	page = map_device_page(device->page_number);
	key = device->page_number * PAGE_SIZE;
	bool works = page && hypercall(HC_BIND_DMA, key, physical(&bound), 1 << 8 | interrupt);
	device->status |= works ? STATUS_WORKS : STATUS_FAILED;
	if (!works)
		page = NULL;
}

uint32_t disk_sectors(void) { return page ? page->sectors : 0; }

static bool answered(void) { return page->result != PENDING; }

static bool request(uint32_t action, uint32_t sector)
{
	static const struct dma none;
	static struct dma sent;
	struct dma data = { .address = { physical(buffer) }, .length = { SECTOR } };

	if (!page)
		return false;
	page->action = action;
	page->sector = sector;
	page->bytes = SECTOR;
	page->result = PENDING;
	sent = action == WRITE ? data : none;
	bound = action == WRITE ? none : data;
	hypercall(HC_SEND_DMA, key, physical(&sent), 0);
	return wait_for(answered, now() + PATIENCE) && page->result == DONE;
}

bool disk_read(uint32_t sector, void *into)
{
	bool done = request(READ, sector);
	memcpy(into, buffer, SECTOR);
	return done;
}

bool disk_write(uint32_t sector, const void *from)
{
	memcpy(buffer, from, SECTOR);
	return request(WRITE, sector);
}
