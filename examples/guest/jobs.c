/* jobs.c - what the kernel arguments ask for, one word after the other.
 *
 *   ip=10.0.0.1           our address; without one nobody gets an answer
 *   count=10 size=56 interval=1000    for the jobs behind: how often, bytes, ms in between
 *   ping=10.0.0.2         asks it `count` times
 *   ping=10.0.0.1..10.0.0.100         asks each of them `count` times, but ourselves
 *   traffic=10.0.0.2      sends it `count` datagrams
 *   sink=500              counts datagrams from the first until 500 ms are quiet
 *   echo                  from here on, UDP port 7 sends back what it gets
 *   read=5  write=5:text  shows, or writes, a sector's text
 *   wait=1000             answers others for that long, ms
 *   off                   powers off; without it the guest stays and answers
 *   misdeed=key           does what no guest should (misdeeds.c)
 *
 * Other words are for other kernels, and passed over.
 */
#include "guest.h"

#define PAYLOAD_MAX (FRAME_MAX - HEADERS - sizeof(struct udp))

/* How the jobs behind are to be done. */
static uint32_t count = 10, size = 56, interval_ms = 1000;

/* If `*text` starts with `name`, steps over it. */
static bool take(const char **text, const char *name)
{
	const char *at = *text;
	for (; *name; name++, at++)
		if (*at != *name)
			return false;
	*text = at;
	return true;
}

static uint32_t take_number(const char **text)
{
	uint32_t number = 0;
	for (; **text >= '0' && **text <= '9'; (*text)++)
		number = number * 10 + (**text - '0');
	return number;
}

static ipv4 take_address(const char **text)
{
	uint32_t address = take_number(text);
	for (int i = 0; i < 3 && take(text, "."); i++)
		address = address << 8 | (take_number(text) & 0xFF);
	return swap32(address);
}

static void job(const char *word)
{
	if (take(&word, "ip=")) {
		own_address = take_address(&word);
	} else if (take(&word, "count=")) {
		count = take_number(&word);
	} else if (take(&word, "size=")) {
		size = take_number(&word);
		if (size > PAYLOAD_MAX)
			size = PAYLOAD_MAX;
	} else if (take(&word, "interval=")) {
		interval_ms = take_number(&word);
	} else if (take(&word, "ping=")) {
		ipv4 first = take_address(&word);
		ping(first, take(&word, "..") ? take_address(&word) : first, count, size, interval_ms);
	} else if (take(&word, "traffic=")) {
		traffic(take_address(&word), count, size, interval_ms);
	} else if (take(&word, "sink=")) {
		sink(take_number(&word));
	} else if (take(&word, "read=")) {
		disk_show(take_number(&word));
	} else if (take(&word, "write=")) {
		uint32_t sector = take_number(&word);
		take(&word, ":");
		disk_store(sector, word);
	} else if (take(&word, "wait=")) {
		wait_for(NULL, now() + (uint64_t)take_number(&word) * 1000);
	} else if (take(&word, "misdeed=")) {
		misdeed(word);
	} else if (take(&word, "echo") && !*word) {
		echo_served = true;
	} else if (take(&word, "off") && !*word) {
		power_off();
	}
}

void jobs_run(const char *arguments)
{
	print("guest %u is up: %u sectors of disk, %s\n", guest_data.guest_id, disk_sectors(),
	      card_present() ? "a network card" : "no network card");
	while (*arguments) {
		static char word[256];
		size_t length = 0;
		for (; *arguments == ' '; arguments++)
			;
		for (; *arguments && *arguments != ' '; arguments++)
			if (length < sizeof word - 1)
				word[length++] = *arguments;
		word[length] = 0;
		job(word);
	}
}

void disk_show(uint32_t sector)
{
	static char text[SECTOR + 1];
	if (!disk_read(sector, text)) {
		print("disk: sector %u cannot be read\n", sector);
		return;
	}
	for (char *letter = text; *letter; letter++)
		if (*letter < ' ' || *letter > '~')
			*letter = 0;
	print("disk: sector %u says '%s'\n", sector, text);
}

void disk_store(uint32_t sector, const char *text)
{
	static char data[SECTOR];
	size_t length = 0;
	memset(data, 0, sizeof data);
	for (; text[length] && length < sizeof data; length++)
		data[length] = text[length];
	if (disk_write(sector, data))
		print("disk: sector %u is written\n", sector);
	else
		print("disk: sector %u cannot be written\n", sector);
}
