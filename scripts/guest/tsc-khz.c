/* Prints the frequency of this machine's time stamp counter in kHz, for tsc_early_khz= of a guest:
 * a kernel under QEMU's TCG that has to find it out itself hangs at times when the machine is busy.
 * Measured, since /proc/cpuinfo tells the current frequency and the kernel's log may have wrapped. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(void)
{
	uint64_t time = nanoseconds(), ticks = __rdtsc(), elapsed;

	do
		elapsed = nanoseconds() - time;
	while (elapsed < 50000000);
	ticks = __rdtsc() - ticks;
	printf("%.0f\n", (double)ticks * 1e6 / (double)elapsed);
	return 0;
}
