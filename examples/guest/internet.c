/* internet.c - IPv4 (RFC 791) without fragments or options, ICMP echo (RFC 792), UDP (RFC 768).
 *
 * Answers go to the card that asked, without a look at ARP.
 */
#include "guest.h"

#define VERSION_4_NO_OPTIONS 0x45
#define HOPS 64
#define MORE_OR_OFFSET 0x3FFF	/* of the fragment word: this is a part of something */
#define PORT_ECHO 7		/* RFC 862 */
#define PORT_DISCARD 9		/* RFC 863 */

ipv4 own_address;
bool echo_served;

static uint32_t discarded_datagrams, discarded_bytes;

uint16_t checksum(const void *bytes, uint32_t length)
{
	const uint8_t *at = bytes;
	uint32_t sum = 0;
	for (; length > 1; at += 2, length -= 2)
		sum += at[0] | at[1] << 8;
	if (length)
		sum += at[0];
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return ~sum;
}

void internet_headers(uint8_t *frame, struct mac to, ipv4 address, uint8_t protocol, uint32_t payload)
{
	struct ethernet *ethernet = (void *)frame;
	struct internet *internet = (void *)(frame + sizeof *ethernet);
	*ethernet = (struct ethernet){ to, card_mac(), swap16(KIND_IPV4) };
	*internet = (struct internet){ .version = VERSION_4_NO_OPTIONS, .length = swap16(sizeof *internet + payload),
				       .hops = HOPS, .protocol = protocol, .from = own_address, .to = address };
	internet->checksum = checksum(internet, sizeof *internet);
}

/* What came in, sent back to its sender; the caller has filled in `reply` behind the headers. */
static void answer(uint8_t *reply, const uint8_t *frame, uint8_t protocol, uint32_t payload)
{
	const struct ethernet *ethernet = (const void *)frame;
	const struct internet *internet = (const void *)(frame + sizeof *ethernet);
	internet_headers(reply, ethernet->from, internet->from, protocol, payload);
	card_send(reply, HEADERS + payload);
}

static void icmp_receive(const uint8_t *frame, uint32_t payload)
{
	static uint8_t reply[FRAME_MAX] __attribute__((aligned(2048)));
	const struct internet *internet = (const void *)(frame + sizeof(struct ethernet));
	const struct icmp *icmp = (const void *)(frame + HEADERS);
	struct icmp *sent = (void *)(reply + HEADERS);

	if (payload < sizeof *icmp || (card_checksums_needed() && checksum(icmp, payload) != 0))
		return;
	if (icmp->type == ECHO_REPLY)
		ping_reply(internet->from, icmp->id, icmp->sequence);
	if (icmp->type != ECHO_REQUEST)
		return;
	memcpy(sent, icmp, payload);
	sent->type = ECHO_REPLY;
	sent->checksum = 0;
	sent->checksum = checksum(sent, payload);
	answer(reply, frame, PROTOCOL_ICMP, payload);
}

static void udp_receive(const uint8_t *frame, uint32_t payload)
{
	static uint8_t reply[FRAME_MAX] __attribute__((aligned(2048)));
	const struct udp *udp = (const void *)(frame + HEADERS);
	struct udp *sent = (void *)(reply + HEADERS);

	if (payload < sizeof *udp || swap16(udp->length) < sizeof *udp || swap16(udp->length) > payload)
		return;
	if (udp->to == swap16(PORT_DISCARD)) {
		discarded_datagrams++;
		discarded_bytes += swap16(udp->length) - sizeof *udp;
	} else if (udp->to == swap16(PORT_ECHO) && echo_served) {
		memcpy(sent, udp, swap16(udp->length));
		sent->from = udp->to;
		sent->to = udp->from;
		sent->checksum = 0; /* none, as IPv4 allows */
		answer(reply, frame, PROTOCOL_UDP, swap16(udp->length));
	}
}

void internet_receive(const uint8_t *frame, uint32_t length)
{
	const struct internet *internet = (const void *)(frame + sizeof(struct ethernet));
	if (length < HEADERS || internet->version != VERSION_4_NO_OPTIONS || internet->to != own_address ||
	    !own_address || (swap16(internet->fragment) & MORE_OR_OFFSET) ||
	    checksum(internet, sizeof *internet) != 0)
		return;
	/* The frame may be longer: Ethernet pads. */
	uint32_t total = swap16(internet->length);
	if (total < sizeof *internet || total > length - sizeof(struct ethernet))
		return;
	uint32_t payload = total - sizeof *internet;
	if (internet->protocol == PROTOCOL_ICMP)
		icmp_receive(frame, payload);
	else if (internet->protocol == PROTOCOL_UDP)
		udp_receive(frame, payload);
}

void discarded(uint32_t *datagrams, uint32_t *bytes)
{
	*datagrams = discarded_datagrams;
	*bytes = discarded_bytes;
}
