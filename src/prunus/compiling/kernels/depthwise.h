/* Sums of the four channels of a vector of words, in four vectors: `sums[0]` to `sums[3]`.
 *
 * Where a processor multiplies pairs of numbers of 16 bits and adds them, each vector holds the four channels of every
 * fourth word, as unpacking leaves them; else each holds one channel of all words. */
#if WIDTH == 16 && defined(__AVX512BW__)
static inline ints of_channels(const void *four, long channel) {
    (void)channel;
    return (ints)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)four));
}
static inline void add_pair(ints *sums, ints x, ints y, const int32_t *weights) {
    const __m512i pair = (__m512i)of_channels(weights, 0), none = _mm512_setzero_si512();
    const __m512i low = _mm512_unpacklo_epi8((__m512i)x, (__m512i)y), high = _mm512_unpackhi_epi8((__m512i)x, (__m512i)y);
    sums[0] += (ints)_mm512_madd_epi16(_mm512_unpacklo_epi8(low, none), pair);
    sums[1] += (ints)_mm512_madd_epi16(_mm512_unpackhi_epi8(low, none), pair);
    sums[2] += (ints)_mm512_madd_epi16(_mm512_unpacklo_epi8(high, none), pair);
    sums[3] += (ints)_mm512_madd_epi16(_mm512_unpackhi_epi8(high, none), pair);
}
static inline ints packed_channels(const ints *whole, long zero, long least, long largest) {
    const __m512i zeros = _mm512_set1_epi16(zero), from = _mm512_set1_epi16(least), to = _mm512_set1_epi16(largest);
    __m512i one = _mm512_packs_epi32((__m512i)whole[0], (__m512i)whole[1]);
    __m512i other = _mm512_packs_epi32((__m512i)whole[2], (__m512i)whole[3]);
    one = _mm512_min_epi16(_mm512_max_epi16(_mm512_adds_epi16(one, zeros), from), to);
    other = _mm512_min_epi16(_mm512_max_epi16(_mm512_adds_epi16(other, zeros), from), to);
    return (ints)_mm512_packus_epi16(one, other);
}
#elif WIDTH == 8 && defined(__AVX2__)
static inline ints of_channels(const void *four, long channel) {
    (void)channel;
    return (ints)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)four));
}
static inline void add_pair(ints *sums, ints x, ints y, const int32_t *weights) {
    const __m256i pair = (__m256i)of_channels(weights, 0), none = _mm256_setzero_si256();
    const __m256i low = _mm256_unpacklo_epi8((__m256i)x, (__m256i)y), high = _mm256_unpackhi_epi8((__m256i)x, (__m256i)y);
    sums[0] += (ints)_mm256_madd_epi16(_mm256_unpacklo_epi8(low, none), pair);
    sums[1] += (ints)_mm256_madd_epi16(_mm256_unpackhi_epi8(low, none), pair);
    sums[2] += (ints)_mm256_madd_epi16(_mm256_unpacklo_epi8(high, none), pair);
    sums[3] += (ints)_mm256_madd_epi16(_mm256_unpackhi_epi8(high, none), pair);
}
static inline ints packed_channels(const ints *whole, long zero, long least, long largest) {
    const __m256i zeros = _mm256_set1_epi16(zero), from = _mm256_set1_epi16(least), to = _mm256_set1_epi16(largest);
    __m256i one = _mm256_packs_epi32((__m256i)whole[0], (__m256i)whole[1]);
    __m256i other = _mm256_packs_epi32((__m256i)whole[2], (__m256i)whole[3]);
    one = _mm256_min_epi16(_mm256_max_epi16(_mm256_adds_epi16(one, zeros), from), to);
    other = _mm256_min_epi16(_mm256_max_epi16(_mm256_adds_epi16(other, zeros), from), to);
    return (ints)_mm256_packus_epi16(one, other);
}
#elif WIDTH == 4 && defined(__SSE2__)
static inline ints of_channels(const void *four, long channel) {
    (void)channel;
    return (ints)_mm_loadu_si128((const __m128i *)four);
}
static inline void add_pair(ints *sums, ints x, ints y, const int32_t *weights) {
    const __m128i pair = (__m128i)of_channels(weights, 0), none = _mm_setzero_si128();
    const __m128i low = _mm_unpacklo_epi8((__m128i)x, (__m128i)y), high = _mm_unpackhi_epi8((__m128i)x, (__m128i)y);
    sums[0] += (ints)_mm_madd_epi16(_mm_unpacklo_epi8(low, none), pair);
    sums[1] += (ints)_mm_madd_epi16(_mm_unpackhi_epi8(low, none), pair);
    sums[2] += (ints)_mm_madd_epi16(_mm_unpacklo_epi8(high, none), pair);
    sums[3] += (ints)_mm_madd_epi16(_mm_unpackhi_epi8(high, none), pair);
}
static inline ints packed_channels(const ints *whole, long zero, long least, long largest) {
    const __m128i zeros = _mm_set1_epi16(zero), from = _mm_set1_epi16(least), to = _mm_set1_epi16(largest);
    __m128i one = _mm_packs_epi32((__m128i)whole[0], (__m128i)whole[1]);
    __m128i other = _mm_packs_epi32((__m128i)whole[2], (__m128i)whole[3]);
    one = _mm_min_epi16(_mm_max_epi16(_mm_adds_epi16(one, zeros), from), to);
    other = _mm_min_epi16(_mm_max_epi16(_mm_adds_epi16(other, zeros), from), to);
    return (ints)_mm_packus_epi16(one, other);
}
#else
static inline ints of_channels(const void *four, long channel) {
    int32_t one;
    __builtin_memcpy(&one, (const char *)four + 4 * channel, 4);
    return ints_of(one);
}
static inline void add_pair(ints *sums, ints x, ints y, const int32_t *weights) {
    for (int c = 0; c < 4; ++c) {
        sums[c] += ((x >> 8 * c) & 255) * (int32_t)(int16_t)weights[c];
        sums[c] += ((y >> 8 * c) & 255) * (weights[c] >> 16);
    }
}
static inline ints packed_channels(const ints *whole, long zero, long least, long largest) {
    return packed(whole[0], whole[1], whole[2], whole[3], zero, least, largest);
}
#endif
