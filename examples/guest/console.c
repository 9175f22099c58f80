/* console.c - letters to and from key 0.
 *
 * Output is collected to whole lines: a hypercall costs more than a letter. Of the input only one
 * letter means something: `q` powers off.
 */
#include <stdarg.h>

#include "guest.h"

#define CONSOLE_KEY 0

/* In one page each, as a piece of DMA must be: aligned to their size. */
static char line[256] __attribute__((aligned(256)));
static char typed[256] __attribute__((aligned(256)));
static uint32_t line_length;
static struct dma input;

static void flush(void)
{
	static struct dma output;
	output = (struct dma){ .address = { physical(line) }, .length = { line_length } };
	hypercall(HC_SEND_DMA, CONSOLE_KEY, physical(&output), 0);
	line_length = 0;
}

static void put(char letter)
{
	if (letter == '\n')
		put('\r'); /* the host's terminal is raw */
	line[line_length++] = letter;
	if (letter == '\n' || line_length == sizeof line)
		flush();
}

static void put_number(uint32_t number, uint32_t base)
{
	if (number >= base)
		put_number(number / base, base);
	put("0123456789abcdef"[number % base]);
}

void print(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		switch (*++format) {
		case 's':
			for (const char *text = va_arg(arguments, const char *); *text; text++)
				put(*text);
			break;
		case 'u':
			put_number(va_arg(arguments, uint32_t), 10);
			break;
		case 'x':
			put_number(va_arg(arguments, uint32_t), 16);
			break;
		case 'i': {
			uint32_t address = swap32(va_arg(arguments, ipv4));
			for (int shift = 24; shift >= 0; shift -= 8) {
				put_number(address >> shift & 0xFF, 10);
				if (shift)
					put('.');
			}
			break;
		}
		}
	}
	va_end(arguments);
}

void console_start(struct device *device, uint32_t interrupt)
{
	input = (struct dma){ .address = { physical(typed) }, .length = { sizeof typed } };
	hypercall(HC_BIND_DMA, CONSOLE_KEY, physical(&input), 1 << 8 | interrupt);
	device->status |= STATUS_WORKS;
}

void console_serve(void)
{
	uint32_t length = input.used_length;
	if (!length)
		return;
	for (uint32_t i = 0; i < length && i < sizeof typed; i++)
		if (typed[i] == 'q')
			power_off();
	input.used_length = 0; /* the host may fill it again */
}
