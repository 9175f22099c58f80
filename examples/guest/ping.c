/* ping.c - asks addresses one after the other whether they are there, and how long it took. */
#include "guest.h"

#define PATIENCE 1000000	/* 1 s for an answer */
#define SAMPLES 4096u		/* round trips remembered for the median */

static uint32_t round_trips[SAMPLES];
static ipv4 asked;
static uint16_t sequence;
static bool answered_now;

void ping_reply(ipv4 from, uint16_t id, uint16_t number)
{
	if (from == asked && id == guest_data.guest_id && number == sequence)
		answered_now = true;
}

static bool answered(void) { return answered_now; }

/* One question. Gives the round trip in microseconds, or a negative number if nobody answered. */
static int32_t ask(ipv4 address, uint32_t size)
{
	static uint8_t frame[FRAME_MAX] __attribute__((aligned(2048)));
	struct icmp *icmp = (void *)(frame + HEADERS);
	uint32_t payload = sizeof *icmp + size;
	struct mac to;

	if (!resolve(address, &to))
		return -1;
	asked = address;
	answered_now = false;
	sequence++;
	*icmp = (struct icmp){ .type = ECHO_REQUEST, .id = guest_data.guest_id, .sequence = sequence };
	for (uint32_t i = 0; i < size; i++)
		frame[HEADERS + sizeof *icmp + i] = i;
	icmp->checksum = checksum(icmp, payload);
	internet_headers(frame, to, address, PROTOCOL_ICMP, payload);

	instant sent = now();
	card_send(frame, HEADERS + payload);
	if (!wait_for(answered, sent + PATIENCE))
		return -1;
	return now() - sent;
}

static void sort(uint32_t *number, uint32_t count)
{
	for (uint32_t i = 1; i < count; i++)
		for (uint32_t j = i; j > 0 && number[j - 1] > number[j]; j--) {
			uint32_t larger = number[j - 1];
			number[j - 1] = number[j];
			number[j] = larger;
		}
}

void ping(ipv4 first, ipv4 last, uint32_t count, uint32_t size, uint32_t interval_ms)
{
	uint32_t asked_times = 0, answers = 0;
	uint32_t from = swap32(first), until = swap32(last);

	for (uint32_t address = from; address <= until && address - from < 256; address++) {
		uint32_t silent = 0;
		if (swap32(address) == own_address)
			continue;
		for (uint32_t times = 0; times < count; times++) {
			if (asked_times > 0 && interval_ms > 0)
				wait_for(NULL, now() + interval_ms * 1000);
			int32_t round_trip = ask(swap32(address), size);
			asked_times++;
			if (round_trip < 0)
				silent++;
			else if (answers < SAMPLES)
				round_trips[answers++] = round_trip;
		}
		if (silent && first != last)
			print("ping: %i left %u of %u unanswered\n", swap32(address), silent, count);
	}
	print("ping: %u of %u answered", answers, asked_times);
	if (answers) {
		sort(round_trips, answers);
		print(", least %u, median %u, most %u us", round_trips[0], round_trips[answers / 2],
		      round_trips[answers - 1]);
	}
	print("\n");
}
