// AVX-512: a line is one register. bfloat16 without the dot product instruction is widened to floats.
#include <immintrin.h>

#include "body.h"

namespace sparse_mlp {
namespace {

struct Single {
    static constexpr bool half = false;
    __m512 v;
    void clear() { v = _mm512_setzero_ps(); }
    void load(const float* p) { v = _mm512_loadu_ps(p); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    static __m512 line(const unsigned char* p) { return _mm512_load_ps(reinterpret_cast<const float*>(p)); }
    void add(__m512 w, uint32_t x) { v = _mm512_fmadd_ps(w, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(x))), v); }
};

struct Pair {
    static constexpr bool half = true;
    __m512 v;
    struct Line {
        __m512 even, odd;
    };
    void clear() { v = _mm512_setzero_ps(); }
    void load(const float* p) { v = _mm512_loadu_ps(p); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    static Line line(const unsigned char* p) {
        const __m512i both = _mm512_load_si512(p);
        return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
    }
    void add(const Line& w, uint32_t x) {
        v = _mm512_fmadd_ps(w.even, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(x << 16))), v);
        v = _mm512_fmadd_ps(w.odd, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(x & 0xffff0000u))), v);
    }
};

}  // namespace

void run_avx512(const Call& c) { c.shape.half ? run<Pair>(c) : run<Single>(c); }
void route_avx512(const Routing& c) { c.shape.half ? route<Pair>(c) : route<Single>(c); }

}  // namespace sparse_mlp
