const int32_t words_saturate = SATURATES;

/* Whole numbers of 8 bits, four neighbouring channels in a word of 32: to them, and back.
 *
 * A run is a row of words, and the rows of up to four channels beside it: where each begins, less than 0 for a channel
 * that is not there. */
static inline int32_t word_of(float x, float factor, long zero) {
    const float whole = rintf(x * factor) + (float)zero;
    return whole < 0 ? 0 : whole < 255 ? (int32_t)whole : whole >= 255 ? 255 : 0;
}

static inline ints words_of(vec x, vec factor, vec zero) {
    return whole_of(within(x * factor, -1024, 1024)) + __builtin_convertvector(zero, ints);
}

void quantize(const prunus_frame *frame, const words *a, long part, long parts) {
    const int32_t *to = CONSTANTS(int32_t, words_at), *from = CONSTANTS(int32_t, reals_at);
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts, unit = a->unit;
    const float factor = (float)a->factor, zero = (float)a->zero;
    const ints padding = ints_of(a->zero);
    for (long run = first; run < last; ++run) {
        const long dense = unit > 1 || (a->words_step == 1 && a->reals_step == 1);
        const long count = dense && unit == 1 ? a->length : unit;
        for (long i = 0; i < (count == unit ? a->length : 1); ++i) {
            int32_t *const word = (int32_t *)frame->work + to[run] + i * a->words_step;
            long at = 0;
            for (; at + WIDTH <= count; at += WIDTH) {
                ints channels[4];
                for (int c = 0; c < 4; ++c) {
                    const int32_t begin = from[4 * run + c];
                    channels[c] = padding;
                    if (begin >= 0)
                        channels[c] = words_of(*(const loose *)(WORK + begin + i * a->reals_step + at), SPLAT(factor), SPLAT(zero));
                }
                *(loose_ints *)(word + at) = packed(channels[0], channels[1], channels[2], channels[3], 0, 0, 255);
            }
            for (; at < count; ++at) {
                int32_t all = 0;
                for (int c = 0; c < 4; ++c) {
                    const int32_t begin = from[4 * run + c];
                    const uint32_t one = begin < 0 ? a->zero : word_of(WORK[begin + i * a->reals_step + at], factor, a->zero);
                    all |= (int32_t)(one << 8 * c);
                }
                word[at] = all;
            }
        }
    }
}

void dequantize(const prunus_frame *frame, const words *a, long part, long parts) {
    const int32_t *from = CONSTANTS(int32_t, words_at), *to = CONSTANTS(int32_t, reals_at);
    const long first = a->runs * part / parts, last = a->runs * (part + 1) / parts, unit = a->unit;
    const float factor = (float)a->factor;
    const int32_t zero = a->zero;
    for (long run = first; run < last; ++run) {
        const long dense = unit > 1 || (a->words_step == 1 && a->reals_step == 1);
        const long count = dense && unit == 1 ? a->length : unit;
        for (long i = 0; i < (count == unit ? a->length : 1); ++i) {
            const int32_t *const word = (const int32_t *)frame->work + from[run] + i * a->words_step;
            for (int c = 0; c < 4 && to[4 * run + c] >= 0; ++c) {
                real *const out = WORK + to[4 * run + c] + i * a->reals_step;
                long at = 0;
                for (; at + WIDTH <= count; at += WIDTH) {
                    const ints whole = ((*(const loose_ints *)(word + at) >> 8 * c) & 255) - zero;
                    *(loose *)(out + at) = __builtin_convertvector(whole, vec) * SPLAT(factor);
                }
                for (; at < count; ++at) out[at] = (real)(((word[at] >> 8 * c) & 255) - zero) * factor;
            }
        }
    }
}

/* Words of channels of other words. In a run all lie beside each other, here and there. */
void regroup(const prunus_frame *frame, const regrouping *a, long part, long parts) {
    const int32_t *table = CONSTANTS(int32_t, table_at);
    int32_t *const work = (int32_t *)frame->work;
    for (long run = a->runs * part / parts; run < a->runs * (part + 1) / parts; ++run) {
        const int32_t *const entry = table + 10 * run, *const pick = entry + 2;
        int32_t *const to = work + entry[0];
        const long count = entry[1] * a->unit;
        long i = 0;
        for (; i + WIDTH <= count; i += WIDTH) {
            ints all = {0};
            for (int c = 0; c < 4; ++c) {
                ints one = ints_of(a->zero);
                if (pick[2 * c + 1] >= 0) one = (*(const loose_ints *)(work + pick[2 * c] + i) >> pick[2 * c + 1]) & 255;
                all |= one << 8 * c;
            }
            *(loose_ints *)(to + i) = all;
        }
        for (; i < count; ++i) {
            uint32_t all = 0;
            for (int c = 0; c < 4; ++c) {
                uint32_t one = a->zero;
                if (pick[2 * c + 1] >= 0) one = ((uint32_t)work[pick[2 * c] + i] >> pick[2 * c + 1]) & 255;
                all |= one << 8 * c;
            }
            to[i] = (int32_t)all;
        }
    }
}

/* Write what has to lie around a value to all of it. */
void fill_words(const prunus_frame *frame, const fill *a, long part, long parts) {
    int32_t *const to = (int32_t *)frame->work + a->output;
    for (long i = a->size * part / parts; i < a->size * (part + 1) / parts; ++i) to[i] = (int32_t)a->word;
}
