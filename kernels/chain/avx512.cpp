// Sixteen predecessors at a time. Built with the AVX-512 flags; run only where has(Backend::avx512) says so.
#include <immintrin.h>

#include "pull.h"

namespace chain {
namespace {

struct V {
    using I = __m512i;
    using M = uint32_t;  // a bit of each lane
    static constexpr int kLanes = 16, kShift = 4;
    static constexpr M kAll = 0xffff;

    static __mmask16 mask(M lanes) { return __mmask16(lanes); }
    static I all(int32_t v) { return _mm512_set1_epi32(v); }
    static I load(const int32_t* p) { return _mm512_load_si512(p); }
    static void store(int32_t* p, I v) { _mm512_store_si512(p, v); }
    static I add(I a, I b) { return _mm512_add_epi32(a, b); }
    static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
    static I absolute(I a) { return _mm512_abs_epi32(a); }
    static I smaller(I a, I b) { return _mm512_min_epi32(a, b); }
    // Tests answer for the lanes asked about, the others are 0.
    static M positive_up_to(I v, I most, M lanes) {
        return _mm512_mask_cmplt_epu32_mask(mask(lanes), _mm512_add_epi32(v, all(-1)), most);  // below 1 wraps far above
    }
    static M nonzero(I v, M lanes) { return _mm512_mask_test_epi32_mask(mask(lanes), v, v); }
    static M not_above(I v, I most, M lanes) { return _mm512_mask_cmple_epu32_mask(mask(lanes), v, most); }  // unsigned
    static M above(I v, I least, M lanes) { return _mm512_mask_cmpgt_epi32_mask(mask(lanes), v, least); }
    static M equal(I a, I b, M lanes) { return _mm512_mask_cmpeq_epi32_mask(mask(lanes), a, b); }
    static I lookup(const int32_t* table, I at, M lanes) {
        return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask(lanes), at, table, 4);
    }
    // Blocks of a group of 256 with an anchor whose diagonal is 0 to `most` above `edge`, modulo 2^16.
    static M blocks_near(const int16_t* diagonal, int16_t edge, uint16_t most) {
        alignas(32) uint32_t near[8];
        const I low = _mm512_set1_epi16(edge), width = _mm512_set1_epi16(int16_t(most));
        for (int k = 0; k < 8; ++k)
            near[k] = _mm512_cmple_epu16_mask(_mm512_sub_epi16(_mm512_load_si512(diagonal + 32 * k), low), width);
        const __m256i of_blocks = _mm256_load_si256(reinterpret_cast<const __m256i*>(near));
        return _mm256_test_epi16_mask(of_blocks, of_blocks);
    }
    static I put(I v, int lane, int32_t value) { return _mm512_mask_set1_epi32(v, __mmask16(1u << lane), value); }
    static int32_t highest(I v) { return _mm512_reduce_max_epi32(v); }
    static int32_t highest_of(I v, M lanes) { return _mm512_mask_reduce_max_epi32(mask(lanes), v); }
    static int last(M lanes) { return 31 - __builtin_clz(lanes); }
};

}  // namespace

void dp_avx512(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune) {
    dp_pull<V>(a, n, params, out, prune);
}

}  // namespace chain
