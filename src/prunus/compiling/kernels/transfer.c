/* Samples from the caller's arrays into the workspace, and results back.
 *
 * In blocks that is a transposition: there a sample's numbers lie beside each other, here those of one element. Whole
 * blocks are transposed in registers, square by square. Places are runs: where each begins here and there, and the steps
 * from one element to the next.
 */

/* Whether runs can be moved in squares: the last one of a run lies over the one before where they don't come out even. */
static int in_squares(const prunus_frame *frame, const transfer *a) {
    return SQUARES && frame->count == a->unit && a->length >= WIDTH && a->here_step == a->unit && a->there_step == 1;
}

void load_input(const prunus_frame *frame, const transfer *a, long part, long parts) {
    const int32_t *here = CONSTANTS(int32_t, here_at), *there = CONSTANTS(int32_t, there_at);
    const real *array = (const real *)frame->inputs[a->array] + frame->sample * a->size;
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts, unit = a->unit;
    for (long run = first; run < last; ++run) {
        real *const to = WORK + here[run];
        const real *const from = array + there[run];
        if (unit > 1 && in_squares(frame, a)) {
            for (long i = 0; i < a->length; i += WIDTH) {
                const long at = i + WIDTH <= a->length ? i : a->length - WIDTH;
                for (long lane = 0; lane < unit; lane += WIDTH) {
                    vec rows[WIDTH];
                    for (int row = 0; row < WIDTH; ++row) rows[row] = *(const loose *)(from + (lane + row) * a->size + at);
                    transpose(rows);
                    for (int row = 0; row < WIDTH; ++row) *(loose *)(to + (at + row) * unit + lane) = rows[row];
                }
            }
        } else if (unit == 1 && a->here_step == 1 && a->there_step == 1) {
            copy_numbers(to, from, a->length);
        } else { /* lanes without a sample get the first one's numbers again */
            for (long i = 0; i < a->length; ++i)
                for (long lane = 0; lane < unit; ++lane)
                    to[i * a->here_step + lane] = from[i * a->there_step + (lane < frame->count ? lane * a->size : 0)];
        }
    }
}

/* Whole numbers, which become those that are computed with; lanes without a sample get the first one's again. */
#define LOAD(type)                                                                                                 \
    for (long run = first; run < last; ++run)                                                                      \
        for (long lane = 0; lane < unit; ++lane) {                                                                 \
            const long sample = frame->sample + (lane < frame->count ? lane : 0);                                  \
            const type *restrict const from = (const type *)frame->inputs[a->array] + sample * a->size + there[run]; \
            real *restrict const to = WORK + here[run] + lane;                                                     \
            for (long i = 0; i < a->length; ++i) to[i * a->here_step] = (real)from[i * a->there_step];             \
        }                                                                                                          \
    break;

void load_integers(const prunus_frame *frame, const transfer *a, long part, long parts) {
    const int32_t *here = CONSTANTS(int32_t, here_at), *there = CONSTANTS(int32_t, there_at);
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts, unit = a->unit;
    switch (a->integer_type) { /* in the order of INTEGER_TYPES */
    case 0: LOAD(uint8_t)
    case 1: LOAD(int8_t)
    case 2: LOAD(int16_t)
    case 3: LOAD(int32_t)
    case 4: LOAD(int64_t)
    case 5: LOAD(_Bool)
    }
}

/* Rows of a table by their numbers; a number that no row has is told as the layer's, negative. */
void look_up(const prunus_frame *frame, const lookup *a, long part, long parts) {
    const int32_t *sources = CONSTANTS(int32_t, sources_at), *outputs = CONSTANTS(int32_t, outputs_at);
    const real *table = CONSTANTS(real, table_at);
    const long first = a->count * part / parts, last = a->count * (part + 1) / parts;
    for (long i = first; i < last; ++i)
        for (long lane = 0; lane < a->unit; ++lane) {
            const real number = (WORK + sources[i])[lane];
            const int is_row = number >= 0 && number < a->rows;
            if (!is_row) __atomic_store_n(frame->refused, -a->layer, __ATOMIC_RELAXED);
            const real *restrict const row = table + (is_row ? (long)number : 0) * a->width;
            real *restrict const to = WORK + outputs[i] + lane;
            for (long j = 0; j < a->width; ++j) to[j * a->step] = row[j];
        }
}

void store_output(const prunus_frame *frame, const transfer *a, long part, long parts) {
    const int32_t *here = CONSTANTS(int32_t, here_at), *there = CONSTANTS(int32_t, there_at);
    real *array = (real *)frame->outputs[a->array] + frame->sample * a->size;
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts, unit = a->unit;
    for (long run = first; run < last; ++run) {
        const real *const from = WORK + here[run];
        real *const to = array + there[run];
        if (unit > 1 && in_squares(frame, a)) {
            for (long i = 0; i < a->length; i += WIDTH) {
                const long at = i + WIDTH <= a->length ? i : a->length - WIDTH;
                for (long lane = 0; lane < unit; lane += WIDTH) {
                    vec rows[WIDTH];
                    for (int row = 0; row < WIDTH; ++row) rows[row] = *(const loose *)(from + (at + row) * unit + lane);
                    transpose(rows);
                    for (int row = 0; row < WIDTH; ++row) *(loose *)(to + (lane + row) * a->size + at) = rows[row];
                }
            }
        } else if (unit == 1 && a->here_step == 1 && a->there_step == 1) {
            copy_numbers(to, from, a->length);
        } else {
            for (long lane = 0; lane < frame->count; ++lane)
                for (long i = 0; i < a->length; ++i)
                    to[lane * a->size + i * a->there_step] = from[i * a->here_step + lane];
        }
    }
}

/* Remember a layer that is about to read an infinity or NaN, whose weights that are left out may not be. */
void look_for_nonfinite(const prunus_frame *frame, const look *a, long part, long parts) {
    const int32_t *starts = CONSTANTS(int32_t, starts_at);
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts;
    int bad = 0;
    for (long run = first; run < last; ++run)
        for (long i = 0; i < a->length; ++i)
            for (long lane = 0; lane < a->unit; ++lane) bad |= nonfinite1((WORK + starts[run])[i * a->step + lane]);
    if (bad) __atomic_store_n(frame->refused, a->layer, __ATOMIC_RELAXED);
}
