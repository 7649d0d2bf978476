// What every stage of chaining shares: anchors, parameters, the gap penalty and a buffer aligned for vectors.
//
// Everything here has internal linkage: files that include it are built for different instruction sets, and an inline
// function of external linkage would be linked once, maybe in the version that this processor cannot run.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace chain {

// One exact match of a k-mer. x = strand<<63 | reference<<32 | end on the reference; y = flags<<40 | span<<32 | end on
// the read, counted on the strand of the match. Anchors come sorted by x.
struct Anchor {
    uint64_t x, y;
};

static inline int32_t pos_x(const Anchor& a) { return int32_t(uint32_t(a.x)); }
static inline int32_t pos_y(const Anchor& a) { return int32_t(uint32_t(a.y)); }
static inline int32_t span_of(const Anchor& a) { return int32_t(a.y >> 32 & 0xff); }
static inline int32_t segment_of(const Anchor& a) { return int32_t(a.y >> 48 & 0xff); }  // which read of a pair

constexpr int32_t kUnlimited = INT32_MAX;
constexpr int32_t kFarthest = 1 << 24;  // no distance may exceed this, and no penalty of a base 32: sums stay inside 32 bits

struct Params {
    int32_t max_dist_x, max_dist_y, bw;
    int32_t max_skip;  // kUnlimited: every predecessor in the window is looked at
    int32_t max_iter, min_cnt, min_score;
    float gap, skip;  // penalty of one base of gap, of one base between seeds
    bool cdna;
    int32_t n_seg;
};

static inline Params floored(Params q) {  // a window is never narrower than the band
    if (q.max_dist_x < q.bw) q.max_dist_x = q.bw;
    if (q.max_dist_y < q.bw && !q.cdna) q.max_dist_y = q.bw;
    return q;
}

// One read, no introns, nothing charged for the distance: the penalty is a function of the gap alone.
static inline bool simple(const Params& q) { return q.n_seg == 1 && !q.cdna && q.skip == 0.0f; }

// log2 as minimap2 approximates it: the exponent, plus a parabola of the mantissa. For v >= 2.
static inline float rough_log2(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    const float exponent = float(int32_t(bits >> 23 & 255) - 128);
    const uint32_t one_to_two = (bits & ~(255u << 23)) + (127u << 23);
    float m;
    std::memcpy(&m, &one_to_two, sizeof m);
    const float curve = (-0.34484843f * m + 2.02466578f) * m - 0.67487759f;
    return exponent + curve;
}

// Charged for a gap of `dd` and a step of `dg`; floats in this order and unfused, so build with -ffp-contract=off.
static inline float linear_part(const Params& q, int32_t dd, int32_t dg) { return q.gap * float(dd) + q.skip * float(dg); }
static inline float log_part(int32_t dd) { return dd >= 1 ? rough_log2(float(dd + 1)) : 0.0f; }
static inline int32_t penalty(const Params& q, int32_t dd, int32_t dg) {
    return int32_t(linear_part(q, dd, dg) + 0.5f * log_part(dd));
}

[[noreturn]] void out_of_memory();  // throws std::bad_alloc

namespace {
template <class T>
class Buffer {  // uninitialised, aligned to a cache line, with a vector's worth of room behind the end
  public:
    explicit Buffer(size_t n) {
        const size_t bytes = (n * sizeof(T) + 64 + 63) / 64 * 64;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (data_ == nullptr) out_of_memory();
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* data() { return data_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
};
}  // namespace

// penalty(dd) for dd = 0..bw of simple parameters
static inline void fill_penalties(const Params& q, int32_t* table) {
    for (int32_t dd = 0; dd <= q.bw; ++dd) table[dd] = penalty(q, dd, 0);
}

struct Scores {  // outputs of a DP over n anchors; `previous` is -1 where a chain begins
    int32_t* score;
    int64_t* previous;
    int32_t* peak;  // best score on the way that ends here
};

static inline void fill_peak(Scores out, int64_t i) {
    const int64_t from = out.previous[i];
    out.peak[i] = from >= 0 && out.peak[from] > out.score[i] ? out.peak[from] : out.score[i];
}

// First anchor from which i may be reached: same reference and strand, not too far. Never moves back.
static inline int64_t window_start(const Anchor* a, int64_t i, int64_t start, int32_t max_dist_x) {
    while (start < i && (a[i].x >> 32 != a[start].x >> 32 || a[i].x > a[start].x + uint64_t(max_dist_x))) ++start;
    return start;
}

enum class Backend { scalar, avx2, avx512, avx2_every_pair, avx512_every_pair };

// dispatch.cpp: whether this build and this processor have it; the DP by one of them. What a backend cannot do is the
// caller's to know: all but scalar want simple parameters and no limit on skips.
bool has(Backend backend);
void dp(Backend backend, const Anchor* a, int64_t n, const Params& params, Scores out);

// scalar.cpp, avx2.cpp, avx512.cpp
void dp_scalar(const Anchor* a, int64_t n, const Params& params, Scores out);
void dp_avx2(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune);
void dp_avx512(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune);

}  // namespace chain
