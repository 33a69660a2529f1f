/* Planes of words: means, products with a factor of each channel, tables.
 *
 * Each word's plane consists of runs; from_at and to_at say where those begin, word by word. */
#define UNROLLED _Pragma("GCC unroll 4")

static inline void store_words(int32_t *to, ints value, long count) {
    if (count >= WIDTH) *(loose_ints *)to = value;
    else for (long i = 0; i < count; ++i) to[i] = value[i];
}

/* How many words lie beside each other in a run: all, or the samples of an element; the runs' elements else. */
#define BESIDE(a) ((a)->unit == 1 && (a)->from_step == 1 && (a)->to_step == 1 ? (a)->length : (a)->unit)
#define APART(a) ((a)->unit == 1 && (a)->from_step == 1 && (a)->to_step == 1 ? 1 : (a)->length)

/* Sums of up to 256 words are added in 16 bits: of channels 0 and 2, and of 1 and 3. */
enum { MOST_IN_16_BITS = 256 };

static inline void add_words(ints *pairs, ints x) {
    pairs[0] += x & 0x00FF00FF;
    pairs[1] += (x >> 8) & 0x00FF00FF;
}

static inline void flush_words(ints *sums, ints *pairs) {
    UNROLLED for (int c = 0; c < 4; ++c) sums[c] += (pairs[c & 1] >> 16 * (c >> 1)) & 0xFFFF;
    pairs[0] = pairs[1] = (ints){0};
}

void words_mean(const prunus_frame *frame, const planes *a, long part, long parts) {
    const int32_t *from = CONSTANTS(int32_t, from_at), *to = CONSTANTS(int32_t, to_at);
    int32_t *const work = (int32_t *)frame->work;
    const long beside = a->unit == 1 && a->from_step == 1 ? a->length : a->unit;
    const long apart = beside == a->unit ? a->length : 1;
    const int32_t shift = (int32_t)(a->runs * a->length * a->from_zero);
    const vec factor = SPLAT((float)a->factor);
    for (long word = a->words * part / parts; word < a->words * (part + 1) / parts; ++word) {
        for (long sample = 0; sample < a->unit; sample += WIDTH) {
            ints sums[4] = {0}, pairs[2] = {0}, whole[4];
            long added = 0;
            for (long run = 0; run < a->runs; ++run) {
                const int32_t *row = work + from[word * a->runs + run] + sample;
                for (long i = 0; i < apart; ++i, row += a->from_step) {
                    const long count = a->unit == 1 ? beside : WIDTH;
                    for (long at = 0; at < count; at += WIDTH) {
                        const ints x = *(const loose_ints *)(row + at);
                        add_words(pairs, x & (ints)(lanes() < (int32_t)(count - at)));
                        if (++added % MOST_IN_16_BITS == 0) flush_words(sums, pairs);
                    }
                }
            }
            flush_words(sums, pairs);
            UNROLLED for (int c = 0; c < 4; ++c) {
                if (a->unit > 1) continue;
                int32_t total = 0;
                for (int i = 0; i < WIDTH; ++i) total += sums[c][i];
                sums[c] = ints_of(total);
            }
            UNROLLED for (int c = 0; c < 4; ++c) whole[c] = whole_of(__builtin_convertvector(sums[c] - shift, vec) * factor);
            const ints mean = packed(whole[0], whole[1], whole[2], whole[3], a->to_zero, 0, 255);
            store_words(work + to[word] + sample, mean, a->unit);
        }
    }
}

static inline ints times_factors(ints x, const vec *factors, int32_t zero, long to_zero) {
    ints whole[4];
    UNROLLED for (int c = 0; c < 4; ++c) {
        const vec real = __builtin_convertvector(((x >> 8 * c) & 255) - zero, vec) * factors[c];
        whole[c] = whole_of(within(real, -1024, 1024));
    }
    return packed(whole[0], whole[1], whole[2], whole[3], to_zero, 0, 255);
}

void words_product(const prunus_frame *frame, const planes *a, long part, long parts) {
    const int32_t *from = CONSTANTS(int32_t, from_at), *to = CONSTANTS(int32_t, to_at);
    const int32_t *factors_at = CONSTANTS(int32_t, factors_at);
    int32_t *const work = (int32_t *)frame->work;
    const long beside = BESIDE(a), apart = APART(a);
    const vec factor = SPLAT((float)a->factor);
    for (long word = a->words * part / parts; word < a->words * (part + 1) / parts; ++word) {
        for (long sample = 0; sample < a->unit; sample += WIDTH) {
            vec factors[4];
            UNROLLED for (int c = 0; c < 4; ++c) {
                const int32_t at = factors_at[4 * word + c];
                factors[c] = SPLAT(at < 0 ? 0 : WORK[at]);
                if (at >= 0 && a->unit > 1) factors[c] = *(const loose *)(WORK + at + sample);
                factors[c] = factors[c] * factor;
            }
            for (long run = 0; run < a->runs; ++run) {
                const int32_t *row = work + from[word * a->runs + run] + sample;
                int32_t *out = work + to[word * a->runs + run] + sample;
                const long count = a->unit == 1 ? beside : WIDTH;
                for (long i = 0; i < apart; ++i, row += a->from_step, out += a->to_step)
                    for (long at = 0; at < count; at += WIDTH) {
                        const ints x = *(const loose_ints *)(row + at);
                        store_words(out + at, times_factors(x, factors, a->from_zero, a->to_zero), count - at);
                    }
            }
        }
    }
}

void words_function(const prunus_frame *frame, const planes *a, long part, long parts) {
    const int32_t *from = CONSTANTS(int32_t, from_at), *to = CONSTANTS(int32_t, to_at);
    const uint8_t *const table = CONSTANTS(uint8_t, table_at);
    const long beside = BESIDE(a), apart = APART(a), runs = a->words * a->runs;
    for (long run = runs * part / parts; run < runs * (part + 1) / parts; ++run) {
        const uint32_t *row = (const uint32_t *)frame->work + from[run];
        uint32_t *out = (uint32_t *)frame->work + to[run];
        for (long i = 0; i < apart; ++i, row += a->from_step, out += a->to_step)
            for (long at = 0; at < beside; ++at) {
                const uint32_t x = row[at];
                out[at] = table[x & 255] | table[x >> 8 & 255] << 8 | table[x >> 16 & 255] << 16
                    | (uint32_t)table[x >> 24] << 24;
            }
    }
}
