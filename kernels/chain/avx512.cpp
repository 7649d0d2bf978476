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

    static I all(int32_t v) { return _mm512_set1_epi32(v); }
    static I load(const int32_t* p) { return _mm512_load_si512(p); }
    static void store(int32_t* p, I v) { _mm512_store_si512(p, v); }
    static I add(I a, I b) { return _mm512_add_epi32(a, b); }
    static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
    static I absolute(I a) { return _mm512_abs_epi32(a); }
    static I smaller(I a, I b) { return _mm512_min_epi32(a, b); }
    static M positive_up_to(I v, I most) {
        return _mm512_cmplt_epu32_mask(_mm512_add_epi32(v, all(-1)), most);  // 0 and below wrap to far above
    }
    static M nonzero(I v) { return _mm512_test_epi32_mask(v, v); }
    static M not_above(I v, I most) { return _mm512_cmple_epu32_mask(v, most); }
    static M above(I v, I least) { return _mm512_cmpgt_epi32_mask(v, least); }
    static M equal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
    static I lookup(const int32_t* table, I at, M lanes) {
        return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), __mmask16(lanes), at, table, 4);
    }
    static I put(I v, int lane, int32_t value) { return _mm512_mask_set1_epi32(v, __mmask16(1u << lane), value); }
    static int32_t highest(I v) { return _mm512_reduce_max_epi32(v); }
    static int32_t highest_of(I v, M lanes) { return _mm512_mask_reduce_max_epi32(__mmask16(lanes), v); }
    static int last(M lanes) { return 31 - __builtin_clz(lanes); }
};

}  // namespace

void dp_avx512(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune) {
    dp_pull<V>(a, n, params, out, prune);
}

}  // namespace chain
