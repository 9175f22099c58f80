/* clock.c - what time it is, and being woken at one. Microseconds.
 *
 * The host says how fast `rdtsc` counts, or that it is no clock. Without it the time is that of
 * the last interrupt, which the host writes down: exact where it matters here, since whoever waits
 * was just woken by one.
 */
#include "guest.h"

#define MOST_NS UINT32_MAX	/* a clock event lies at most that far away: 4.3 s */
#define LEAST_NS 1000u

static uint64_t first_tick;
static int32_t first_second;

/* 64 by 32 bits without a library: two steps of long division, each of which must fit. */
uint64_t divide(uint64_t dividend, uint32_t divisor)
{
	uint32_t high = dividend >> 32, low = (uint32_t)dividend, rest = high % divisor;
	high /= divisor;
	asm("divl %2" : "+a"(low), "+d"(rest) : "r"(divisor));
	return (uint64_t)high << 32 | low;
}

static uint64_t ticks(void)
{
	uint32_t low, high;
	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void clock_start(void)
{
	first_second = guest_data.seconds;
	if (guest_data.tsc_khz)
		first_tick = ticks();
}

instant now(void)
{
	if (guest_data.tsc_khz)
		return divide((ticks() - first_tick) * 1000, guest_data.tsc_khz);
	/* Both words of one moment: no interrupt comes in between outside of wait.c's halt. */
	return (uint64_t)(uint32_t)(guest_data.seconds - first_second) * 1000000 +
	       (uint32_t)guest_data.nanoseconds / 1000;
}

void wake_at(instant when)
{
	if (when == NEVER) {
		hypercall(HC_SET_CLOCK_EVENT, 0, 0, 0);
		return;
	}
	instant current = now();
	uint64_t ns = when > current ? (when - current) * 1000 : 0;
	if (when > current && when - current > MOST_NS / 1000)
		ns = MOST_NS; /* woken early, whoever waits waits again */
	hypercall(HC_SET_CLOCK_EVENT, ns < LEAST_NS ? LEAST_NS : (uint32_t)ns, 0, 0);
}
