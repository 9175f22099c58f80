/* traffic.c - fills the wire with datagrams, and counts what arrives at the other end. */
#include "guest.h"

#define PORT_DISCARD 9
#define STEP_BACK 100	/* us, when the other side has no room */

/* Without a clock in the processor, time stands still between interrupts: have one. */
static instant time_now(void)
{
	wait_for(NULL, now() + 1);
	return now();
}

static void print_rate(uint32_t datagrams, uint32_t bytes, uint32_t microseconds)
{
	if (!microseconds)
		microseconds = 1;
	print("%u datagrams, %u bytes in %u us, %u kbit/s\n", datagrams, bytes, microseconds,
	      (uint32_t)divide((uint64_t)bytes * 8000, microseconds));
}

void traffic(ipv4 address, uint32_t count, uint32_t size, uint32_t interval_ms)
{
	static uint8_t frame[FRAME_MAX] __attribute__((aligned(2048)));
	struct udp *udp = (void *)(frame + HEADERS);
	struct mac to;
	uint32_t sent = 0, no_room = 0;

	if (!resolve(address, &to)) {
		print("traffic: nobody has the address %i\n", address);
		return;
	}
	*udp = (struct udp){ .from = swap16(PORT_DISCARD), .to = swap16(PORT_DISCARD),
			     .length = swap16(sizeof *udp + size) };
	internet_headers(frame, to, address, PROTOCOL_UDP, sizeof *udp + size);

	instant start = time_now();
	for (uint32_t i = 0; i < count; i++) {
		if (interval_ms)
			wait_for(NULL, now() + interval_ms * 1000);
		if (card_send(frame, HEADERS + sizeof *udp + size)) {
			sent++;
		} else {
			no_room++;
			wait_for(NULL, now() + STEP_BACK);
		}
	}
	uint32_t took = time_now() - start;
	print("traffic: ");
	print_rate(sent, sent * size, took);
	if (no_room)
		print("traffic: %u found no room\n", no_room);
}

static uint32_t seen;

static bool more_arrived(void)
{
	uint32_t datagrams, bytes;
	discarded(&datagrams, &bytes);
	return datagrams != seen;
}

void sink(uint32_t quiet_ms)
{
	uint32_t bytes;
	discarded(&seen, &bytes);
	uint32_t datagrams_before = seen, bytes_before = bytes;
	wait_for(more_arrived, NEVER);
	instant start = now(), last = start;
	do {
		last = now();
		discarded(&seen, &bytes);
	} while (wait_for(more_arrived, last + quiet_ms * 1000));
	print("sink: ");
	print_rate(seen - datagrams_before, bytes - bytes_before, last - start);
}
