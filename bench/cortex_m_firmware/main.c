/* Runs net_run on samples that the host hands in: reads `inputs`, writes `outputs` and `costs`, by semihosting.
 *
 * `costs` holds for each sample the ticks of SysTick that net_run took, and at its end the bytes of stack that were
 * ever used beside those in use before.
 */
#include <stdint.h>

#include "net.h"

#define PAINT 0xA5A5A5A5u

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_bottom[], stack_top[];

void reset(void);
static void fault(void);

/* The first two are all that the processor needs to begin; anything that goes wrong ends the run. */
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, 0, 0, fault, fault,
};

enum { OPEN = 0x01, CLOSE = 0x02, WRITE = 0x05, READ = 0x06, EXIT = 0x20 };
enum { MODE_READ = 1, MODE_WRITE = 5, APPLICATION_EXIT = 0x20026 };

static int ask_host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t code)
{
    const uint32_t argument[2] = {APPLICATION_EXIT, code};
    for (;;) ask_host(EXIT, argument);
}

static void fault(void) { leave(99); }

static int open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t argument[3] = {(uint32_t)name, mode, length};
    return ask_host(OPEN, argument);
}

/* Both return how many bytes were not transferred. */
static int transfer(int operation, int file, const void *data, uint32_t size)
{
    const uint32_t argument[3] = {(uint32_t)file, (uint32_t)data, size};
    return ask_host(operation, argument);
}

#define SYSTICK ((volatile uint32_t *)0xE000E010)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88)

static float input[NET_INPUT_SIZE], output[NET_OUTPUT_SIZE];

static uint32_t timed_run(void)
{
    SYSTICK[0] = 0;
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5; /* count the processor's clock, without an interrupt */
    net_run(input, output);
    return 0xFFFFFF - SYSTICK[2];
}

static void run_all(void)
{
    const int inputs = open_file("inputs", 6, MODE_READ);
    const int outputs = open_file("outputs", 7, MODE_WRITE), costs = open_file("costs", 5, MODE_WRITE);
    if (inputs < 0 || outputs < 0 || costs < 0) leave(1);
    volatile uint32_t *here; /* what lies below is free */
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (volatile uint32_t *at = stack_bottom; at < here; ++at) *at = PAINT;
    while (transfer(READ, inputs, input, sizeof input) == 0) {
        const uint32_t ticks = timed_run();
        if (transfer(WRITE, outputs, output, sizeof output) || transfer(WRITE, costs, &ticks, sizeof ticks)) leave(2);
    }
    volatile uint32_t *used = stack_bottom;
    while (used < here && *used == PAINT) ++used;
    const uint32_t stack = (uint32_t)(here - used) * sizeof(uint32_t);
    if (transfer(WRITE, costs, &stack, sizeof stack)) leave(2);
    const uint32_t first[1] = {(uint32_t)outputs}, second[1] = {(uint32_t)costs};
    ask_host(CLOSE, first);
    ask_host(CLOSE, second);
    leave(0);
}

void reset(void)
{
    const uint32_t *from = data_source;
    for (uint32_t *to = data_begin; to < data_end; ++to) *to = *from++;
    for (uint32_t *to = bss_begin; to < bss_end; ++to) *to = 0;
#ifdef __ARM_FP
    COPROCESSORS |= 0xFu << 20; /* switch the floating point unit on */
    __asm__ volatile("dsb\n isb");
#endif
    run_all();
}
