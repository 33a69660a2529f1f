/* Functions of each element, one after the other over a tile that stays in the nearest cache.
 *
 * Operands are views of the workspace, arrays of constants, or a number. A view is runs of equal length: where each
 * begins, and the step from one element to the next. Results of steps lie in slots, each a tile; the last step's result
 * is stored. Without steps the only operand is: a copy.
 */

enum { TILE = 2048 / sizeof(real), SLOTS = 16, IN_WORK = 0, IN_CONSTANTS = 1, IS_NUMBER = 2, SHORT = 3 * WIDTH };

typedef void apply_function(real *to, const real *x, const real *y, real a, real b, long n);

static inline void copy_numbers(real *restrict to, const real *restrict from, long n) {
    long i = 0;
    for (; i + WIDTH <= n; i += WIDTH) *(loose *)(to + i) = *(const loose *)(from + i);
    for (; i < n; ++i) to[i] = from[i];
}

static inline void fill_numbers(real *to, real value, long n) {
    const vec all = SPLAT(value);
    long i = 0;
    for (; i + WIDTH <= n; i += WIDTH) *(loose *)(to + i) = all;
    for (; i < n; ++i) to[i] = value;
}

/* Bring numbers that are some steps apart together; every other one is taken out of vectors. */
static inline void pick_numbers(real *restrict to, const real *restrict from, long step, long n) {
    long i = 0;
    if (step == 0) { fill_numbers(to, *from, n); return; }
    if (step == 2) for (; i + WIDTH < n; i += WIDTH) *(loose *)(to + i) = every_other(from + 2 * i);
    for (; i < n; ++i) to[i] = from[i * step];
}

/* Bring elements `from` to `from + length` of some runs into one piece. */
static void gather(real *restrict to, const prunus_frame *frame, const operand *x, long run, long runs, long from, long length, long unit) {
    const int32_t *starts = (const int32_t *)(frame->constants + x->starts_at);
    const real *numbers = (const real *)(frame->constants + x->numbers_at);
    for (long r = run; r < run + runs; ++r, to += length * unit) {
        const real *source = (x->kind == IN_WORK ? WORK : numbers) + starts[r] + from * x->step;
        if (x->kind == IN_CONSTANTS && unit > 1) {
            for (long i = 0; i < length; ++i) fill_numbers(to + i * unit, source[i * x->step], unit);
        } else if (x->step == unit) {
            copy_numbers(to, source, length * unit);
        } else if (unit == 1) {
            pick_numbers(to, source, x->step, length);
        } else {
            for (long i = 0; i < length; ++i) copy_numbers(to + i * unit, source + i * x->step, unit);
        }
    }
}

/* Bring a piece to where elements of some runs lie in the workspace. */
static void scatter(const real *restrict from_piece, const prunus_frame *frame, const tape *a, long run, long runs, long from, long length) {
    const int32_t *starts = CONSTANTS(int32_t, output_at);
    const long unit = a->unit;
    for (long r = run; r < run + runs; ++r, from_piece += length * unit) {
        real *restrict to = WORK + starts[r] + from * a->output_step;
        if (a->output_step == unit) {
            copy_numbers(to, from_piece, length * unit);
        } else if (unit == 1) {
            for (long i = 0; i < length; ++i) to[i * a->output_step] = from_piece[i];
        } else {
            for (long i = 0; i < length; ++i) copy_numbers(to + i * a->output_step, from_piece + i * unit, unit);
        }
    }
}

/* Where an operand lies in one piece already; 0 where it does not. */
static const real *in_place(const prunus_frame *frame, const operand *x, long run, long runs, long from, long length, long unit) {
    const int whole = runs == 1 && (x->step == unit || length == 1) && (x->kind == IN_WORK || unit == 1);
    if (!whole) return 0;
    const int32_t start = ((const int32_t *)(frame->constants + x->starts_at))[run];
    return (x->kind == IN_WORK ? WORK : (const real *)(frame->constants + x->numbers_at)) + start + from * x->step;
}

/* A copy: run by run. */
static void copy_runs(const prunus_frame *frame, const tape *a, const operand *x, long first, long last) {
    const int32_t *to_starts = CONSTANTS(int32_t, output_at), *from_starts = (const int32_t *)(frame->constants + x->starts_at);
    const long unit = a->unit, length = a->length, from_step = x->step, to_step = a->output_step;
    const int whole = from_step == unit && to_step == unit;
    for (long run = first; run < last; ++run) {
        const real *from = WORK + from_starts[run];
        real *restrict to = WORK + to_starts[run];
        if (whole) copy_numbers(to, from, length * unit);
        else if (unit == 1 && to_step == 1) pick_numbers(to, from, from_step, length);
        else if (unit == 1) for (long i = 0; i < length; ++i) to[i * to_step] = from[i * from_step];
        else for (long i = 0; i < length; ++i) copy_numbers(to + i * to_step, from + i * from_step, unit);
    }
}

void run_tape(const prunus_frame *frame, const tape *a, long part, long parts) {
    real slots[SLOTS][TILE] __attribute__((aligned(64)));
    const real *values[SLOTS];
    const operand *operands = CONSTANTS(operand, operands_at);
    const step *steps = CONSTANTS(step, steps_at);
    const long unit = a->unit, most = TILE / unit;
    if (a->steps == 0 && operands->kind == IN_WORK && (a->runs > 1 || parts == 1)) {
        copy_runs(frame, a, operands, a->runs * part / parts, a->runs * (part + 1) / parts);
        return;
    }
    for (long i = 0; i < a->operands; ++i) {
        values[i] = slots[i];
        if (operands[i].kind == IS_NUMBER) fill_numbers(slots[i], operands[i].number, TILE);
    }
    /* short runs together, others where they lie, long ones in pieces; threads share runs, or elements of an only one */
    const long together = a->length * unit < SHORT && a->length < most ? most / a->length : 1;
    const long shared = a->runs > 1 ? a->runs : a->length;
    const long first = shared * part / parts, last = shared * (part + 1) / parts;
    const long run_first = a->runs > 1 ? first : 0, run_last = a->runs > 1 ? last : last > first;
    const long from_first = a->runs > 1 ? 0 : first, from_last = a->runs > 1 ? a->length : last;
    for (long run = run_first; run < run_last; run += together) {
        const long runs = run_last - run < together ? run_last - run : together;
        for (long from = from_first, length; from < from_last; from += length) {
            length = from_last - from < most ? from_last - from : most;
            const long n = runs * length * unit;
            real *const whole = runs == 1 && (a->output_step == unit || length == 1)
                ? WORK + CONSTANTS(int32_t, output_at)[run] + from * a->output_step : 0;
            for (long i = 0; i < a->operands; ++i) {
                if (operands[i].kind == IS_NUMBER) continue;
                values[i] = in_place(frame, operands + i, run, runs, from, length, unit);
                if (values[i]) continue;
                real *const to = a->steps == 0 && whole ? whole : slots[i];
                gather(to, frame, operands + i, run, runs, from, length, unit);
                values[i] = to;
            }
            const real *result = values[0];
            for (long i = 0; i < a->steps; ++i) {
                real *const to = i == a->steps - 1 && whole ? whole : slots[steps[i].result];
                apply_functions[steps[i].function](to, values[steps[i].first], values[steps[i].second], steps[i].a, steps[i].b, n);
                result = values[steps[i].result] = to;
            }
            if (result != whole) scatter(result, frame, a, run, runs, from, length);
        }
    }
}
