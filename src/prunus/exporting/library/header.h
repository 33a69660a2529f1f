/* {title}
 *
 * Written by prunus {version}; needs {kind}. Numbers are {real}, arrays are in rows (the last dimension runs fastest).
 *
{arrays}
 *
 *     struct {name}_program *program;
 *     const char *problem = {name}_create(&program, 1);
 *     const void *inputs[] = {{{input_names}}};
 *     void *outputs[] = {{{output_names}}};
 *     if (!problem) problem = {name}_run(program, inputs, outputs, batch);
 *     if (problem) fprintf(stderr, "%s\n", problem);
 *     {name}_free(program);
 */
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

struct {name}_program;

enum {{
    {name}_num_inputs = {num_inputs},
    {name}_num_outputs = {num_outputs},
{sizes}
}};

/* Make a program whose calls use up to so many threads; its weights are shared by all that are made. Returns NULL, or
 * what is wrong in a sentence; then *program is NULL. */
const char *{name}_create(struct {name}_program **program, long threads);

/* Compute the outputs of {batch}. Returns NULL, or what is wrong in a sentence. Only one thread at a
 * time may call it with the same program: make one for each. */
const char *{name}_run(
    struct {name}_program *program, const void *const *inputs, void *const *outputs, long batch);

/* Free a program; NULL is fine. No call may be running. */
void {name}_free(struct {name}_program *program);

#ifdef __cplusplus
}}
#endif

#endif
