/* guest.h - what the files of this guest offer each other, in the order of the tour. */
#ifndef GUEST_H
#define GUEST_H

#include "lguest.h"

/* main.c: from the first C instruction to power-off. */
_Noreturn void power_off(void);
_Noreturn void crash(const char *reason);

/* traps.c: who is called when. */
extern volatile uint32_t interrupts_raised;	/* a bit each, set by entry.S */
void traps_start(void);

/* memory.c: page tables, and the bytes of libc that compilers take for granted. */
void memory_start(uint32_t pages);
void *map_device_page(uint32_t page_number);	/* NULL: too far above memory */
void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *one, const void *other, size_t bytes);

/* bus.c: finds devices and gives them to their drivers. An interrupt is a device's index plus 1. */
void bus_start(uint32_t page_number);

/* console.c: key 0. */
void console_start(struct device *device, uint32_t interrupt);
void console_serve(void);
/* Prints: %s text, %u decimal, %x hexadecimal, %i an IPv4 address. */
void print(const char *format, ...);

/* clock.c: microseconds. */
typedef uint64_t instant;
#define NEVER UINT64_MAX
void clock_start(void);
instant now(void);
void wake_at(instant when);
uint64_t divide(uint64_t dividend, uint32_t divisor);

/* wait.c: halts when there is nothing to do, and serves what comes meanwhile. */
bool wait_for(bool (*happened)(void), instant deadline);	/* false: the deadline passed */

/* disk.c: the first block device. */
#define SECTOR 512u
void disk_start(struct device *device, uint32_t interrupt);
uint32_t disk_sectors(void);
bool disk_read(uint32_t sector, void *into);
bool disk_write(uint32_t sector, const void *from);

/* card.c: the first network device: frames. */
#define FRAME_MAX 1514u
struct mac { uint8_t byte[6]; };
void card_start(struct device *device, uint32_t interrupt);
void card_serve(void);
bool card_present(void);
bool card_checksums_needed(void);
struct mac card_mac(void);
/* True if at least one port took it whole, or there was none to take it. */
bool card_send(const void *frame, uint32_t length);

/* ethernet.c: what kind of frame; ARP. */
typedef uint32_t ipv4;	/* as on the wire */
struct ethernet { struct mac to, from; uint16_t kind; } __attribute__((packed));
#define KIND_IPV4 0x0800
#define KIND_ARP 0x0806
static inline uint16_t swap16(uint16_t n) { return __builtin_bswap16(n); }
static inline uint32_t swap32(uint32_t n) { return __builtin_bswap32(n); }
void ethernet_receive(const uint8_t *frame, uint32_t length);
bool resolve(ipv4 address, struct mac *into);	/* asks on the wire if it must; false: nobody answered */
void arp_receive(const uint8_t *frame, uint32_t length);

/* internet.c: IPv4, ICMP echo, UDP. */
#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17
#define ECHO_REPLY 0
#define ECHO_REQUEST 8
struct internet {
	uint8_t version, service;
	uint16_t length, id, fragment;
	uint8_t hops, protocol;
	uint16_t checksum;
	ipv4 from, to;
} __attribute__((packed));
struct icmp { uint8_t type, code; uint16_t checksum, id, sequence; } __attribute__((packed));
struct udp { uint16_t from, to, length, checksum; } __attribute__((packed));
#define HEADERS (sizeof(struct ethernet) + sizeof(struct internet))
extern ipv4 own_address;
extern bool echo_served;		/* UDP port 7 sends back what it gets */
void internet_receive(const uint8_t *frame, uint32_t length);
void internet_headers(uint8_t *frame, struct mac to, ipv4 address, uint8_t protocol, uint32_t payload);
uint16_t checksum(const void *bytes, uint32_t length);
void discarded(uint32_t *datagrams, uint32_t *bytes);	/* what port 9 has got */

/* What jobs there are: jobs.c reads them from the kernel arguments, in their order. */
void jobs_run(const char *arguments);

/* The jobs. */
void ping(ipv4 first, ipv4 last, uint32_t count, uint32_t size, uint32_t interval_ms);
void ping_reply(ipv4 from, uint16_t id, uint16_t sequence);
void traffic(ipv4 to, uint32_t count, uint32_t size, uint32_t interval_ms);
void sink(uint32_t quiet_ms);
void disk_show(uint32_t sector);
void disk_store(uint32_t sector, const char *text);
void misdeed(const char *name);

#endif
