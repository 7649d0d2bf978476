// Eight predecessors at a time. Built with the AVX2 flags; run only where has(Backend::avx2) says so.
#include <immintrin.h>

#include "pull.h"

namespace chain {
namespace {

struct V {
    using I = __m256i;
    using M = uint32_t;  // a bit of each lane
    static constexpr int kLanes = 8, kShift = 3;
    static constexpr M kAll = 0xff;

    static M bits(I lanes) { return M(_mm256_movemask_ps(_mm256_castsi256_ps(lanes))); }
    static I spread(M lanes) {  // all ones in each lane whose bit is set
        const I own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        return _mm256_cmpeq_epi32(_mm256_and_si256(all(int32_t(lanes)), own), own);
    }
    static I all(int32_t v) { return _mm256_set1_epi32(v); }
    static I load(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const I*>(p)); }
    static void store(int32_t* p, I v) { _mm256_store_si256(reinterpret_cast<I*>(p), v); }
    static I add(I a, I b) { return _mm256_add_epi32(a, b); }
    static I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
    static I absolute(I a) { return _mm256_abs_epi32(a); }
    static I smaller(I a, I b) { return _mm256_min_epi32(a, b); }
    // Tests answer for the lanes asked about, the others are 0.
    static M positive_up_to(I v, I most, M lanes) {
        return lanes & bits(_mm256_andnot_si256(_mm256_cmpgt_epi32(v, most), _mm256_cmpgt_epi32(v, _mm256_setzero_si256())));
    }
    static M nonzero(I v, M lanes) { return lanes & ~bits(_mm256_cmpeq_epi32(v, _mm256_setzero_si256())); }
    static M not_above(I v, I most, M lanes) { return lanes & bits(_mm256_cmpeq_epi32(_mm256_min_epu32(v, most), v)); }
    static M above(I v, I least, M lanes) { return lanes & bits(_mm256_cmpgt_epi32(v, least)); }
    static M equal(I a, I b, M lanes) { return lanes & bits(_mm256_cmpeq_epi32(a, b)); }
    static I lookup(const int32_t* table, I at, M lanes) {
        return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), table, at, spread(lanes), 4);
    }
    // Blocks of a group of 64 with an anchor whose diagonal is 0 to `most` above `edge`, modulo 2^16.
    static M blocks_near(const int16_t* diagonal, int16_t edge, uint16_t most) {
        const I low = _mm256_set1_epi16(edge), width = _mm256_set1_epi16(int16_t(most));
        M blocks = 0;
        for (int k = 0; k < 4; ++k) {  // two blocks at a time: the halves of a vector
            const I above = _mm256_sub_epi16(_mm256_load_si256(reinterpret_cast<const I*>(diagonal) + k), low);
            const M near = M(_mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_min_epu16(above, width), above)));
            blocks |= M((near & 0xffff) != 0) << 2 * k | M(near >> 16 != 0) << (2 * k + 1);
        }
        return blocks;
    }
    static I put(I v, int lane, int32_t value) { return _mm256_blendv_epi8(v, all(value), spread(1u << lane)); }
    static int32_t highest(I v) {
        __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        return _mm_cvtsi128_si32(half);
    }
    static int32_t highest_of(I v, M lanes) { return highest(_mm256_blendv_epi8(all(INT32_MIN), v, spread(lanes))); }
    static int last(M lanes) { return 31 - __builtin_clz(lanes); }
};

}  // namespace

void dp_avx2(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune) {
    dp_pull<V>(a, n, params, out, prune);
}

}  // namespace chain
