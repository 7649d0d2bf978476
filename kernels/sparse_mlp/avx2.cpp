// AVX2 with FMA: a line is two registers; bfloat16 is widened to floats.
#include <immintrin.h>

#include "body.h"

namespace sparse_mlp {
namespace {

struct Sixteen {
    __m256 low, high;
    void clear() { low = high = _mm256_setzero_ps(); }
    void load(const float* p) { low = _mm256_loadu_ps(p), high = _mm256_loadu_ps(p + 8); }
    void store(float* p) const { _mm256_storeu_ps(p, low), _mm256_storeu_ps(p + 8, high); }
    void fma(__m256 a, __m256 b, __m256 x) { low = _mm256_fmadd_ps(a, x, low), high = _mm256_fmadd_ps(b, x, high); }
};

inline __m256 spread(uint32_t bits) { return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits))); }

struct Single : Sixteen {
    static constexpr bool half = false;
    struct Line {
        __m256 low, high;
    };
    static Line line(const unsigned char* p) {
        const float* f = reinterpret_cast<const float*>(p);
        return {_mm256_load_ps(f), _mm256_load_ps(f + 8)};
    }
    void add(const Line& w, uint32_t x) { fma(w.low, w.high, spread(x)); }
};

struct Pair : Sixteen {
    static constexpr bool half = true;
    struct Line {
        __m256i low, high;
    };
    static Line line(const unsigned char* p) {
        const __m256i* v = reinterpret_cast<const __m256i*>(p);
        return {_mm256_load_si256(v), _mm256_load_si256(v + 1)};
    }
    static __m256 even(__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
    static __m256 odd(__m256i v) {
        return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
    }
    void add(const Line& w, uint32_t x) {
        fma(even(w.low), even(w.high), spread(x << 16));
        fma(odd(w.low), odd(w.high), spread(x & 0xffff0000u));
    }
};

}  // namespace

void run_avx2(const Call& c) { c.shape.half ? run<Pair>(c) : run<Single>(c); }
void route_avx2(const Routing& c) { c.shape.half ? route<Pair>(c) : route<Single>(c); }

}  // namespace sparse_mlp
