/* What other programs call. It is built for any processor of its kind, and asks this one before anything else runs.
 *
 * Before it stand, as macros, the names of what is called and the sizes of the program. */
#include <stdlib.h>

#define VISIBLE __attribute__((visibility("default")))
#define AS_TEXT(word) #word
#define TEXT(word) AS_TEXT(word)

struct PROGRAM {
    prunus_program program;
    void *memory;
};

static int can_run(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return SUPPORTED;
#else
    return 1;
#endif
}

VISIBLE const char *CREATE(struct PROGRAM **made, long threads) {
    if (!made) return "there is no place for the program: give the address of a pointer";
    *made = NULL;
    if (threads < 1 || threads > MOST_THREADS) return "threads must be from 1 to " TEXT(MOST_THREADS);
    if (!can_run()) return "this processor lacks what the program was built for: " KIND;
    struct PROGRAM *program = malloc(sizeof *program);
    char *memory = program ? calloc(WORK_BYTES * (size_t)threads + ALIGNMENT, 1) : NULL;
    if (!memory) {
        free(program);
        return "there is not enough memory";
    }
    program->memory = memory;
    program->program = (prunus_program){
        .constants = prunus_constants,
        .work = memory + (ALIGNMENT - (uintptr_t)memory % ALIGNMENT) % ALIGNMENT,
        .block_steps = block_steps,
        .single_steps = single_steps,
        .block_count = sizeof block_steps / sizeof *block_steps,
        .single_count = sizeof single_steps / sizeof *single_steps,
        .block = BLOCK,
        .work_bytes = WORK_BYTES,
        .threads = threads,
        .most_single = MOST_SINGLE,
        .share_steps = SHARE_STEPS,
    };
    *made = program;
    return NULL;
}

VISIBLE const char *RUN(struct PROGRAM *program, const void *const *inputs, void *const *outputs, long batch) {
    if (!program) return "there is no program: " TEXT(CREATE) " makes one";
    if (batch < 0) return "batch must not be negative";
    if (batch == 0) return NULL;
    if (FIXED_BATCH && batch != FIXED_BATCH) return "it takes batches of " TEXT(FIXED_BATCH) " only";
    if (!inputs || !outputs) return "inputs and outputs must be arrays of pointers";
    for (int i = 0; i < NUM_INPUTS; ++i)
        if (!inputs[i]) return "a pointer of inputs is null";
    for (int i = 0; i < NUM_OUTPUTS; ++i)
        if (!outputs[i]) return "a pointer of outputs is null";
    const long layer = prunus_run(&program->program, inputs, outputs, batch);
    if (layer < 0) return "a number of an input is none of a row of the table that is looked up with it";
    return layer ? "a layer was to read an infinity or NaN" : NULL;
}

VISIBLE void FREE(struct PROGRAM *program) {
    if (program) free(program->memory);
    free(program);
}
