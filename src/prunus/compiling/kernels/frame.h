#include <stdint.h>

/* What every kernel is given beside its arguments.
 *
 * constants: the program's weights, tables and arguments. work: the workspace of a thread. inputs, outputs: the caller's
 * arrays. sample, count: which samples are computed. refused: takes the number of a layer that was to read an infinity
 * or NaN, or less the number of one that was to look up a row that is not there.
 */
typedef struct {
    const char *constants;
    void *work;
    const void *const *inputs;
    void *const *outputs;
    long sample, count;
    long *refused;
} prunus_frame;

/* One call of a kernel; several threads share it in parts. */
typedef void prunus_kernel(const prunus_frame *frame, const void *arguments, long part, long parts);
typedef struct {
    prunus_kernel *kernel;
    const void *arguments;
} prunus_step;

/* Where a tile begins in the source, the output and the residual, and how many outputs there are from there to the end
 * of its row. */
typedef struct { int32_t source, output, residual, room; } contraction_tile;

/* Keep a pointer in a register of its own: else compilers precompute the sum of every step and distance for each access,
 * and keep those in more registers than there are. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* Keep a vector that is used several times in its register: else compilers read it anew for each use. */
#if defined(__AVX512F__)
#define LOADED(vector) __asm__("" : "+v"(vector))
#elif defined(__x86_64__)
#define LOADED(vector) __asm__("" : "+x"(vector))
#elif defined(__aarch64__)
#define LOADED(vector) __asm__("" : "+w"(vector))
#else
#define LOADED(vector)
#endif
