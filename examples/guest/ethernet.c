/* ethernet.c - what kind of frame it is, and who has which address (ARP, RFC 826). */
#include "guest.h"

#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ASK_AGAIN 250000	/* 0.25 s */
#define ASK_TIMES 12

struct arp {
	uint16_t hardware, protocol;
	uint8_t hardware_length, protocol_length;
	uint16_t operation;
	struct mac from_mac;
	ipv4 from;
	struct mac to_mac;
	ipv4 to;
} __attribute__((packed));

static const struct mac broadcast = { { 255, 255, 255, 255, 255, 255 } };

/* Who is where. One line a last byte of an address: a segment here is a /24. */
static struct neighbour { ipv4 address; struct mac mac; } neighbours[256];
static ipv4 asked;

static struct neighbour *neighbour(ipv4 address) { return &neighbours[address >> 24]; }

static bool known(void) { return neighbour(asked)->address == asked; }

static void arp_send(uint16_t operation, struct mac to_mac, ipv4 to)
{
	static struct { struct ethernet ethernet; struct arp arp; } __attribute__((packed, aligned(64))) frame;
	struct mac own = card_mac();
	frame.ethernet = (struct ethernet){ to_mac, own, swap16(KIND_ARP) };
	frame.arp = (struct arp){ .hardware = swap16(1), .protocol = swap16(KIND_IPV4), .hardware_length = 6,
				  .protocol_length = 4, .operation = swap16(operation), .from_mac = own,
				  .from = own_address, .to = to };
	if (operation == ARP_REPLY)
		frame.arp.to_mac = to_mac;
	card_send(&frame, sizeof frame);
}

bool resolve(ipv4 address, struct mac *into)
{
	asked = address;
	for (int times = 0; !known(); times++) {
		if (times == ASK_TIMES)
			return false;
		arp_send(ARP_REQUEST, broadcast, address);
		wait_for(known, now() + ASK_AGAIN);
	}
	*into = neighbour(address)->mac;
	return true;
}

void arp_receive(const uint8_t *frame, uint32_t length)
{
	const struct arp *arp = (const void *)(frame + sizeof(struct ethernet));
	if (length < sizeof(struct ethernet) + sizeof *arp || arp->protocol != swap16(KIND_IPV4))
		return;
	if (arp->from != 0)
		*neighbour(arp->from) = (struct neighbour){ arp->from, arp->from_mac };
	if (arp->operation == swap16(ARP_REQUEST) && own_address && arp->to == own_address)
		arp_send(ARP_REPLY, arp->from_mac, arp->from);
}

void ethernet_receive(const uint8_t *frame, uint32_t length)
{
	const struct ethernet *ethernet = (const void *)frame;
	struct mac own = card_mac();
	/* A promiscuous port's frames may come along: those for others are not ours to answer. */
	if (!(ethernet->to.byte[0] & 1) && memcmp(&ethernet->to, &own, sizeof own) != 0)
		return;
	if (ethernet->kind == swap16(KIND_ARP))
		arp_receive(frame, length);
	else if (ethernet->kind == swap16(KIND_IPV4))
		internet_receive(frame, length);
}
