// AVX-512 with the bfloat16 dot product: 32 products a line.
#pragma once
#include <immintrin.h>

#include "body.h"

namespace sparse_mlp {
namespace {

struct Dot {
    static constexpr bool half = true;
    __m512 v;
    void clear() { v = _mm512_setzero_ps(); }
    void load(const float* p) { v = _mm512_loadu_ps(p); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    static __m512i line(const unsigned char* p) { return _mm512_load_si512(p); }
    void add(__m512i w, uint32_t x) {
        v = _mm512_dpbf16_ps(v, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x))));
    }
};

}  // namespace
}  // namespace sparse_mlp
