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
