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
#define GLANCE 16	/* even */
#define EVERYTHING 0x01	/* in a slot's first byte; the same bit makes a destination multicast */
#define BUFFERS 8
#define FRAME_MIN 14u

static volatile struct mac *slots;
static struct mac own;
static uint32_t own_slot, key;
static uint16_t features;
/* No slot from here on was in use when all were looked at. Even. */
static uint32_t in_use = SLOTS;
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

static bool is_mac(struct mac slot, const struct mac *to) { return memcmp(&slot, to, sizeof slot) == 0; }

static bool wanted(struct mac slot, const struct mac *to)
{
	if (!slot.byte[0])
		return false; /* nobody there */
	return (to->byte[0] | slot.byte[0]) & EVERYTHING || is_mac(slot, to);
}

/* Whether the port took it whole. */
static bool send_to(uint32_t slot, const void *frame, uint32_t length)
{
	static struct dma letter;
	letter = (struct dma){ .address = { physical(frame) }, .length = { length } };
	hypercall(HC_SEND_DMA, key_of(slot), physical(&letter), 0);
	return letter.used_length == length;
}

/* What became of a frame. */
struct sending {
	uint32_t addressed, taken;
	bool found;		/* a slot has the address it goes to */
	uint32_t last_used;	/* the last slot that was in use, and one */
};

/* Sends it to those of the slots `from` to `to`, both even, that want it. */
static void offer(struct sending *sending, uint32_t from, uint32_t to, const void *frame, uint32_t length)
{
	const struct mac *destination = frame;
	const volatile uint32_t *two = (const volatile uint32_t *)slots + from / 2 * WORDS_IN_TWO;

	for (uint32_t even = from; even < to; even += 2, two += WORDS_IN_TWO) {
		if (!(two[0] | two[1] | two[2]))
			continue;
		sending->last_used = even + 2;
		for (uint32_t slot = even; slot < even + 2; slot++) {
			struct mac peer;
			for (uint32_t i = 0; i < sizeof peer; i++)
				peer.byte[i] = slots[slot].byte[i];
			if (slot == own_slot || !wanted(peer, destination))
				continue;
			sending->found |= is_mac(peer, destination);
			sending->addressed++;
			sending->taken += send_to(slot, frame, length);
		}
	}
}

/* All slots are looked at for what all are to have, and for whom is not where others were. Else a few of the rest are,
 * where somebody may be by now who wants everything: it is a page of memory that is in no cache. */
bool card_send(const void *frame, uint32_t length)
{
	static uint32_t glance;
	struct sending sending = { 0 };

	if (!slots)
		return false;
	offer(&sending, 0, in_use, frame, length);
	if (!sending.found) {
		offer(&sending, in_use, SLOTS, frame, length);
		in_use = sending.last_used;
	} else if (in_use < SLOTS) {
		if (glance < in_use || glance >= SLOTS)
			glance = in_use;
		uint32_t end = glance + GLANCE < SLOTS ? glance + GLANCE : SLOTS;
		offer(&sending, glance, end, frame, length);
		if (sending.last_used > in_use)
			in_use = sending.last_used;
		glance = end;
	}
	return sending.taken > 0 || sending.addressed == 0;
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
