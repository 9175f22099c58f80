/* wait.c - the one place where this guest sleeps.
 *
 * Interrupts are off at all times but in the halt itself. One that came a moment before is kept by
 * the host, and the halt ends at once; so nothing is missed between looking and sleeping.
 */
#include "guest.h"

static void halt(void)
{
	if (!interrupts_raised)
		hypercall(HC_HALT, 0, 0, 0); /* the host turns irq_enabled on */
	guest_data.irq_enabled = 0;
	interrupts_raised = 0;
}

bool wait_for(bool (*happened)(void), instant deadline)
{
	bool armed = false;
	for (;;) {
		console_serve();
		card_serve();
		if (happened && happened())
			break;
		if (deadline != NEVER && now() >= deadline)
			return false;
		if (deadline != NEVER) {
			wake_at(deadline);
			armed = true;
		}
		halt();
	}
	if (armed)
		wake_at(NEVER); /* sleep undisturbed */
	return true;
}
