// The loops, once, for every instruction set: `Lanes` is 16 floats and what can be done with a line of weights.
#pragma once
#include <cmath>
#include <cstring>

#include "types.h"

namespace sparse_mlp {
namespace {  // built once for each instruction set: the linker must not give one's copy to another

constexpr int64_t kAhead = 4096, kAheadSingle = 2048;  // bytes asked for before they are read (README.md)

// exp by a polynomial on [-ln2/2, ln2/2], within 2 units of the last place: a plain loop over it becomes vectors.
inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float t = x * 1.44269504088896341f;
    const float n = static_cast<float>(static_cast<int32_t>(t + (t < 0 ? -0.5f : 0.5f)));
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

inline uint32_t to_bf16(float v) {  // nearest, ties to even; a number that is none stays one
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Where the stream goes on: the expert that is read now, then the next one.
struct Stream {
    const unsigned char* at;
    const unsigned char* end;
    const unsigned char* next;
    template <int LINES, bool HALF = true>
    void ahead() const {
        const unsigned char* p = at + (HALF ? kAhead : kAheadSingle);
        if (p >= end) p = next + (p - end);
        for (int i = 0; i < LINES; ++i) __builtin_prefetch(p + i * kLine, 0, 2);
    }
};

// silu(gate) * up of one half for one row, as the down lines take it.
template <bool HALF>
inline void activate(const float* gate, const float* up, uint32_t* out) {
    float h[kLanes];
    for (int i = 0; i < kLanes; ++i) h[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
    if (HALF) {
        for (int i = 0; i < kLanes / 2; ++i) out[i] = to_bf16(h[2 * i]) | (to_bf16(h[2 * i + 1]) << 16);
    } else {
        std::memcpy(out, h, sizeof h);
    }
}

// Two lines a step (gate and up; in a router 16 experts and 16 more) for ROWS rows: what each row's products add up to.
template <class Lanes, int ROWS>
inline void two_lines(int64_t steps, Stream& w, const uint32_t* const* x, float (*first)[kLanes], float (*second)[kLanes]) {
    Lanes gate[ROWS], up[ROWS];
    for (int r = 0; r < ROWS; ++r) gate[r].clear(), up[r].clear();
    for (int64_t k = 0; k < steps; k += 2, w.at += 4 * kLine) {
        w.template ahead<4, Lanes::half>();
        for (int u = 0; u < 2; ++u) {
            const auto g = Lanes::line(w.at + 2 * u * kLine), v = Lanes::line(w.at + (2 * u + 1) * kLine);
            for (int r = 0; r < ROWS; ++r) {
                gate[r].add(g, x[r][k + u]);
                up[r].add(v, x[r][k + u]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) gate[r].store(first[r]), up[r].store(second[r]);
}

// One expert for ROWS rows: x and y are pointers to each row.
template <class Lanes, int ROWS>
void expert(const Shape& s, Stream w, const uint32_t* const* x, float* const* y) {
    constexpr bool half = Lanes::half;
    alignas(64) uint32_t h[ROWS][kNeurons];
    const int64_t lines = s.lines_down(), per_half = half ? kLanes / 2 : kLanes;
    for (int part = 0; part < 2; ++part) {
        alignas(64) float gate[ROWS][kLanes], up[ROWS][kLanes];
        two_lines<Lanes, ROWS>(s.steps(), w, x, gate, up);
        for (int r = 0; r < ROWS; ++r) activate<half>(gate[r], up[r], h[r] + part * per_half);
    }
    for (int64_t t = 0; t < s.tiles(); ++t) {
        Lanes sum[ROWS];
        for (int r = 0; r < ROWS; ++r) sum[r].load(y[r] + t * kLanes);
        for (int64_t j = 0; j < lines; j += 4, w.at += 4 * kLine) {
            w.template ahead<4, Lanes::half>();
            for (int u = 0; u < 4; ++u) {
                const auto line = Lanes::line(w.at + u * kLine);
                for (int r = 0; r < ROWS; ++r) sum[r].add(line, h[r][j + u]);
            }
        }
        for (int r = 0; r < ROWS; ++r) sum[r].store(y[r] + t * kLanes);
    }
}

template <class Do>
inline void for_rows(int n, const Do& work) {  // the number of rows as a constant
    switch (n) {
        case 1: return work.template operator()<1>();
        case 2: return work.template operator()<2>();
        case 3: return work.template operator()<3>();
        case 4: return work.template operator()<4>();
        case 5: return work.template operator()<5>();
        case 6: return work.template operator()<6>();
        case 7: return work.template operator()<7>();
        default: return work.template operator()<8>();
    }
}

// Visits the experts that rows [from, to) use, in order: visit(expert, where its weights stream from, rows that use it).
template <class Visit>
inline void for_experts(const Call& c, int64_t from, int64_t to, const Visit& visit) {
    const Shape& s = c.shape;
    const int64_t size = s.expert_bytes();
    const auto rows = [&](int64_t e) {
        int64_t count = 0;
        for (int64_t r = from; r < to; ++r) count += c.active[r * s.experts + e];
        return count;
    };
    for (int64_t all = 0; all < s.experts; ++all)  // the walks to their pages take as long as half an expert: start them all
        if (rows(all)) __builtin_prefetch(c.weights + all * size, 0, 2);
    int64_t e = 0, users = 0;
    while (e < s.experts && !(users = rows(e))) ++e;
    while (e < s.experts) {
        int64_t next = e + 1, others = 0;
        while (next < s.experts && !(others = rows(next))) ++next;
        const unsigned char* at = c.weights + e * size;
        visit(e, Stream{at, at + size, next < s.experts ? c.weights + next * size : at}, users);
        e = next, users = others;
    }
}

// One expert for those of the rows [from, to) that use it, eight at a time.
template <class Lanes>
inline void vectors(const Call& c, int64_t from, int64_t to, int64_t e, const Stream& w) {
    const Shape& s = c.shape;
    const uint32_t* x[kRows];
    float* y[kRows];
    int rows = 0;
    const auto flush = [&] {
        for_rows(rows, [&]<int ROWS> { expert<Lanes, ROWS>(s, w, x, y); });
        rows = 0;
    };
    for (int64_t r = from; r < to; ++r) {
        if (!c.active[r * s.experts + e]) continue;
        x[rows] = c.x + r * s.steps();
        y[rows] = c.y + r * s.padded();
        if (++rows == kRows) flush();
    }
    if (rows) flush();
}

template <class Lanes>
void run(const Call& c) {
    for_experts(c, 0, c.n, [&](int64_t e, const Stream& w, int64_t) { vectors<Lanes>(c, 0, c.n, e, w); });
}

template <class Lanes>
void route(const Routing& c) {
    const Shape& s = c.shape;
    for (int64_t from = 0; from < c.n; from += kRows) {
        const int rows = static_cast<int>(c.n - from < kRows ? c.n - from : kRows);
        const uint32_t* x[kRows];
        for (int r = 0; r < rows; ++r) x[r] = c.x + (from + r) * s.steps();
        const unsigned char* end = c.weights + router_bytes(s);
        Stream w{c.weights, end, c.weights};
        for (int64_t b = 0; b < router_blocks(s); ++b) {
            alignas(64) float logit[2][kRows][kLanes];
            for_rows(rows, [&]<int ROWS> { two_lines<Lanes, ROWS>(s.steps(), w, x, logit[0], logit[1]); });
            const int64_t count = s.experts - b * kNeurons < kNeurons ? s.experts - b * kNeurons : kNeurons;
            for (int r = 0; r < rows; ++r)
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t e = b * kNeurons + i;
                    c.active[(from + r) * s.experts + e] = logit[i / kLanes][r][i % kLanes] + c.bias[e] > 0;
                }
        }
    }
}

}  // namespace
}  // namespace sparse_mlp
