/* Vectors of words: whole numbers of 32 bits, or four of 8. What a processor computes in fewer instructions is written
 * in its own; all ways come to the same bits. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef int32_t ints __attribute__((vector_size(WIDTH * 4), may_alias));
typedef int32_t loose_ints __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef vecWIDTH vec;
typedef looseWIDTH loose;
#define SPLAT splatWIDTH

static inline ints ints_of(int32_t x) { return (ints){0} + x; }

static inline ints lanes(void) {
    ints all;
    for (int i = 0; i < WIDTH; ++i) all[i] = i;
    return all;
}

/* Add the four products of each place: of unsigned numbers of x and signed ones of w. Where pairs of products are added
 * in 16 bits first, lists hold no weights whose pairs could exceed them (`words_saturate`). */
#if WIDTH == 16 && defined(__AVX512VNNI__)
#define SATURATES 0
static inline ints dot(ints sum, ints x, ints w) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
#elif WIDTH == 16 && defined(__AVX512BW__)
#define SATURATES 1
static inline ints dot(ints sum, ints x, ints w) {
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)x, (__m512i)w);
    return sum + (ints)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#elif WIDTH == 8 && defined(__AVXVNNI__)
#define SATURATES 0
static inline ints dot(ints sum, ints x, ints w) {
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
}
#elif WIDTH == 8 && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define SATURATES 0
static inline ints dot(ints sum, ints x, ints w) {
    return (ints)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
}
#elif WIDTH == 8 && defined(__AVX2__)
#define SATURATES 1
static inline ints dot(ints sum, ints x, ints w) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, (__m256i)w);
    return sum + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
#define SATURATES 0
static inline ints dot(ints sum, ints x, ints w) {
    sum += (x & 255) * ((w << 24) >> 24);
    sum += ((x >> 8) & 255) * ((w << 16) >> 24);
    sum += ((x >> 16) & 255) * ((w << 8) >> 24);
    return sum + ((x >> 24) & 255) * (w >> 24);
}
#endif

/* The nearest whole numbers, halves to even ones. */
static inline ints whole_of(vec x) {
#if WIDTH == 16 && defined(__AVX512F__)
    return (ints)_mm512_cvtps_epi32((__m512)x);
#elif WIDTH == 8 && defined(__AVX2__)
    return (ints)_mm256_cvtps_epi32((__m256)x);
#elif WIDTH == 4 && defined(__SSE2__)
    return (ints)_mm_cvtps_epi32((__m128)x);
#else
    ints all;
    for (int i = 0; i < WIDTH; ++i) all[i] = (int32_t)rintf(x[i]);
    return all;
#endif
}

/* Four vectors of sums as words: each plus zero, from least to largest. */
static inline ints packed(ints a, ints b, ints c, ints d, long zero, long least, long largest) {
#if WIDTH == 16 && defined(__AVX512BW__)
    const __m512i zeros = _mm512_set1_epi16(zero), low = _mm512_set1_epi16(least), high = _mm512_set1_epi16(largest);
    __m512i one = _mm512_packs_epi32((__m512i)a, (__m512i)b), other = _mm512_packs_epi32((__m512i)c, (__m512i)d);
    one = _mm512_min_epi16(_mm512_max_epi16(_mm512_adds_epi16(one, zeros), low), high);
    other = _mm512_min_epi16(_mm512_max_epi16(_mm512_adds_epi16(other, zeros), low), high);
    const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    return (ints)_mm512_shuffle_epi8(_mm512_packus_epi16(one, other), order);
#elif WIDTH == 8 && defined(__AVX2__)
    const __m256i zeros = _mm256_set1_epi16(zero), low = _mm256_set1_epi16(least), high = _mm256_set1_epi16(largest);
    __m256i one = _mm256_packs_epi32((__m256i)a, (__m256i)b), other = _mm256_packs_epi32((__m256i)c, (__m256i)d);
    one = _mm256_min_epi16(_mm256_max_epi16(_mm256_adds_epi16(one, zeros), low), high);
    other = _mm256_min_epi16(_mm256_max_epi16(_mm256_adds_epi16(other, zeros), low), high);
    const __m256i order = _mm256_set_epi32(
        0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400, 0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    return (ints)_mm256_shuffle_epi8(_mm256_packus_epi16(one, other), order);
#else
    ints all = {0};
    const ints four[] = {a, b, c, d};
    for (int q = 0; q < 4; ++q) {
        ints value = four[q];
        ints outside = value > 65535;
        value = (65535 & outside) | (value & ~outside);
        outside = value < -65535;
        value = ((-65535) & outside) | (value & ~outside);
        value += (int32_t)zero;
        outside = value < (int32_t)least;
        value = ((int32_t)least & outside) | (value & ~outside);
        outside = value > (int32_t)largest;
        value = ((int32_t)largest & outside) | (value & ~outside);
        all |= value << 8 * q;
    }
    return all;
#endif
}

/* One output of a list of words that lie anywhere. */
static inline int32_t dot_list(const int32_t *from, const int32_t *offsets, const int32_t *values, long count) {
    ints sum = {0};
    long k = 0;
    for (; k + WIDTH <= count; k += WIDTH) {
        ints x;
#if WIDTH == 16 && defined(__AVX512F__)
        x = (ints)_mm512_i32gather_epi32(_mm512_loadu_si512(offsets + k), from, 4);
#elif WIDTH == 8 && defined(__AVX2__)
        x = (ints)_mm256_i32gather_epi32((const int *)from, _mm256_loadu_si256((const __m256i *)(offsets + k)), 4);
#else
        for (int i = 0; i < WIDTH; ++i) x[i] = from[offsets[k + i]];
#endif
        sum = dot(sum, x, *(const loose_ints *)(values + k));
    }
    int32_t total = 0;
    for (int i = 0; i < WIDTH; ++i) total += sum[i];
    for (; k < count; ++k)
        for (int c = 0; c < 4; ++c) total += ((from[offsets[k]] >> 8 * c) & 255) * (int32_t)(int8_t)(values[k] >> 8 * c);
    return total;
}

/* What is added to the sums of one of four outputs. */
static inline vec residual_of(const quantized *a, ints word, long q) {
    const ints whole = ((word >> (int32_t)(8 * q)) & 255) - (int32_t)a->residual_zero;
    return __builtin_convertvector(whole, vec) * SPLAT((real)a->residual_factor);
}

/* No less than low and no more than high, and low for NaN; in two instructions where a processor has those. */
static inline vec within(vec x, real low, real high) {
#if WIDTH == 16 && defined(__AVX512F__)
    return (vec)_mm512_min_ps(_mm512_max_ps((__m512)x, _mm512_set1_ps(low)), _mm512_set1_ps(high));
#elif WIDTH == 8 && defined(__AVX2__)
    return (vec)_mm256_min_ps(_mm256_max_ps((__m256)x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
#elif WIDTH == 4 && defined(__SSE2__)
    return (vec)_mm_min_ps(_mm_max_ps((__m128)x, _mm_set1_ps(low)), _mm_set1_ps(high));
#else
    x = chooseWIDTH(x > low, x, SPLAT(low));
    return chooseWIDTH(x < high, x, SPLAT(high));
#endif
}

static inline vec hardsigmoid_within(vec x) { return within(x + 3, 0, 6) / 6; }
static inline vec hardswish_within(vec x) { return x * within(x + 3, 0, 6) / 6; }

/* An activation, and what its results are in units of the output. */
static __attribute__((noinline, unused)) void activate_words(const quantized *a, vec *reals, long count) {
    const real low = a->low, high = a->high;
    ACTIVATE
    if (!a->in_words) return;
    const vec inverse = SPLAT((real)a->inverse);
    for (long i = 0; i < count; ++i) reals[i] = within(reals[i] * inverse, -1e6f, 1e6f);
}
