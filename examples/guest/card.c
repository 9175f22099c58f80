/* card.c - the first network card: frames to and from the wire.
 *
 * The wire is a page that all guests of a segment share: a list of addresses, six bytes a slot. A
 * card's slot is its port. Who writes an address into its slot is there; bit 0 of it, which no
 * card's own address has, wishes for every frame. A frame goes as a letter to each slot that wants
 * it, under the key of the slot's place in that page.
 */
#include "guest.h"

#define SLOTS (PAGE_SIZE / sizeof(struct mac))
#define WORDS_IN_TWO 3	/* two slots are three words: most are empty, and passed over by words */
#define EVERYTHING 0x01	/* in a slot's first byte; the same bit makes a destination multicast */
#define BUFFERS 8
#define FRAME_MIN 14u

static volatile struct mac *slots;
static struct mac own;
static uint32_t own_slot, key;
static uint16_t features;
static struct dma received[BUFFERS];
static uint8_t buffers[BUFFERS][2048] __attribute__((aligned(PAGE_SIZE)));

/* Keys are multiples of 4, slots of 6 bytes: a key is the slot's number in words. */
static uint32_t key_of(uint32_t slot) { return key + 4 * slot; }

void card_start(struct device *device, uint32_t interrupt)
{
	slots = map_device_page(device->page_number);
	if (!slots) {
		device->status |= STATUS_FAILED;
		return;
	}
	features = device->features;
	key = device->page_number * PAGE_SIZE;
	own_slot = features & NET_SLOT;
	own = (struct mac){ { 2, 0, guest_data.guest_id & 0xFF, guest_data.guest_id >> 8, 0, 0 } };

	for (int i = 0; i < BUFFERS; i++)
		received[i] = (struct dma){ .address = { physical(buffers[i]) }, .length = { FRAME_MAX } };
	if (!hypercall(HC_BIND_DMA, key_of(own_slot), physical(received), BUFFERS << 8 | interrupt)) {
		slots = NULL;
		device->status |= STATUS_FAILED;
		return;
	}
	/* The first byte last: with it the slot is in use. */
	for (int i = sizeof own - 1; i >= 0; i--)
		slots[own_slot].byte[i] = own.byte[i];
	device->status |= STATUS_WORKS;
}

bool card_present(void) { return slots != NULL; }
bool card_checksums_needed(void) { return !(features & NET_NO_CHECKSUMS); }
struct mac card_mac(void) { return own; }

static bool wanted(struct mac slot, const struct mac *to)
{
	if (!slot.byte[0])
		return false; /* nobody there */
	if ((to->byte[0] | slot.byte[0]) & EVERYTHING)
		return true;
	return memcmp(&slot, to, sizeof slot) == 0;
}

/* Whether the port took it whole. */
static bool send_to(uint32_t slot, const void *frame, uint32_t length)
{
	static struct dma letter;
	letter = (struct dma){ .address = { physical(frame) }, .length = { length } };
	hypercall(HC_SEND_DMA, key_of(slot), physical(&letter), 0);
	return letter.used_length == length;
}

bool card_send(const void *frame, uint32_t length)
{
	const struct mac *to = frame;
	const volatile uint32_t *two = (const volatile uint32_t *)slots;
	uint32_t addressed = 0, taken = 0;

	if (!slots)
		return false;
	/* SLOTS is even. */
	for (uint32_t even = 0; even < SLOTS; even += 2, two += WORDS_IN_TWO) {
		if (!(two[0] | two[1] | two[2]))
			continue;
		for (uint32_t slot = even; slot < even + 2; slot++) {
			struct mac peer;
			for (uint32_t i = 0; i < sizeof peer; i++)
				peer.byte[i] = slots[slot].byte[i];
			if (slot == own_slot || !wanted(peer, to))
				continue;
			addressed++;
			taken += send_to(slot, frame, length);
		}
	}
	return taken > 0 || addressed == 0;
}

void card_serve(void)
{
	static uint32_t next;
	/* The host fills them in turn; a full round without a frame ends it. */
	for (uint32_t empty = 0; empty < BUFFERS; next = (next + 1) % BUFFERS) {
		uint32_t length = received[next].used_length;
		if (!length) {
			empty++;
			continue;
		}
		empty = 0;
		if (length >= FRAME_MIN && length <= FRAME_MAX)
			ethernet_receive(buffers[next], length);
		received[next].used_length = 0; /* the host may fill it again */
	}
}
