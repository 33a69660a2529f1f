/* A function that is called as it is written: gcc 12 takes some that write to their workspace for ones that don't write,
 * after it has rewritten their loops (-fno-ivopts helps as well), and leaves calls of them out. */
#if defined(__has_attribute)
#if __has_attribute(noipa)
#define APART __attribute__((noipa))
#endif
#endif
#ifndef APART
#define APART
#endif

/* What a call needs besides its arrays.
 *
 * weights: the program's constants. work: a workspace for each thread, zeros the first time. most_single: if that many
 * samples or fewer are left beside whole blocks, they are computed singly. share_steps: whether several threads share
 * the steps of one task where there are fewer tasks than threads.
 */
typedef struct {
    const char *weights;
    real *work;
    long threads, most_single, share_steps;
} prunus_context;
