/* bus.c - finds devices and gives them to their drivers.
 *
 * The first page above memory lists up to sixteen. There is a driver for the console, and for the
 * first disk and the first network card; further ones are left alone.
 */
#include "guest.h"

static const struct {
	uint16_t type;
	void (*start)(struct device *device, uint32_t interrupt);
} drivers[] = {
	{ DEVICE_CONSOLE, console_start },
	{ DEVICE_NET, card_start },
	{ DEVICE_BLOCK, disk_start },
};

void bus_start(uint32_t page_number)
{
	struct device *device = map_device_page(page_number);
	for (size_t d = 0; d < sizeof drivers / sizeof drivers[0]; d++)
		for (uint32_t index = 0; index < DEVICES; index++)
			if (device[index].type == drivers[d].type) {
				device[index].status |= STATUS_SEEN | STATUS_DRIVER;
				drivers[d].start(&device[index], index + 1);
				break;
			}
}
