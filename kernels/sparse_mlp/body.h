// The loops, once, for every instruction set: `Lanes` is 16 floats and what can be done with a line of weights.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "types.h"

namespace sparse_mlp {

constexpr int64_t kAhead = 4096;  // bytes that are asked for before they are read; bench.py chose it

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
    template <int LINES>
    void ahead() const {
        const unsigned char* p = at + kAhead;
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

// One expert for ROWS rows: x and y are pointers to each row.
template <class Lanes, int ROWS>
void expert(const Shape& s, Stream w, const uint32_t* const* x, float* const* y) {
    constexpr bool half = Lanes::half;
    alignas(64) uint32_t h[ROWS][kNeurons];
    const int64_t steps = s.steps(), lines = s.lines_down(), per_half = half ? kLanes / 2 : kLanes;
    for (int part = 0; part < 2; ++part) {
        Lanes gate[ROWS], up[ROWS];
        for (int r = 0; r < ROWS; ++r) gate[r].clear(), up[r].clear();
        for (int64_t k = 0; k < steps; k += 2, w.at += 4 * kLine) {
            w.template ahead<4>();
            for (int u = 0; u < 2; ++u) {
                const auto g = Lanes::line(w.at + 2 * u * kLine), v = Lanes::line(w.at + (2 * u + 1) * kLine);
                for (int r = 0; r < ROWS; ++r) {
                    gate[r].add(g, x[r][k + u]);
                    up[r].add(v, x[r][k + u]);
                }
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            alignas(64) float g[kLanes], v[kLanes];
            gate[r].store(g);
            up[r].store(v);
            activate<half>(g, v, h[r] + part * per_half);
        }
    }
    for (int64_t t = 0; t < s.tiles(); ++t) {
        Lanes sum[ROWS];
        for (int r = 0; r < ROWS; ++r) sum[r].load(y[r] + t * kLanes);
        for (int64_t j = 0; j < lines; j += 4, w.at += 4 * kLine) {
            w.template ahead<4>();
            for (int u = 0; u < 4; ++u) {
                const auto line = Lanes::line(w.at + u * kLine);
                for (int r = 0; r < ROWS; ++r) sum[r].add(line, h[r][j + u]);
            }
        }
        for (int r = 0; r < ROWS; ++r) sum[r].store(y[r] + t * kLanes);
    }
}

template <class Lanes>
void rows_of(int n, const Shape& s, const Stream& w, const uint32_t* const* x, float* const* y) {
    switch (n) {
        case 1: return expert<Lanes, 1>(s, w, x, y);
        case 2: return expert<Lanes, 2>(s, w, x, y);
        case 3: return expert<Lanes, 3>(s, w, x, y);
        case 4: return expert<Lanes, 4>(s, w, x, y);
        case 5: return expert<Lanes, 5>(s, w, x, y);
        case 6: return expert<Lanes, 6>(s, w, x, y);
        case 7: return expert<Lanes, 7>(s, w, x, y);
        default: return expert<Lanes, 8>(s, w, x, y);
    }
}

template <class Lanes>
void run(const Call& c) {
    const Shape& s = c.shape;
    const int64_t size = s.expert_bytes();
    std::vector<int64_t> used;
    for (int64_t e = 0; e < s.experts; ++e) {
        bool any = false;
        for (int64_t r = 0; r < c.n; ++r) any |= c.active[r * s.experts + e];
        if (any) used.push_back(e);
    }
    const uint32_t* x[kRows];
    float* y[kRows];
    for (size_t i = 0; i < used.size(); ++i) {
        const unsigned char* at = c.weights + used[i] * size;
        const unsigned char* next = i + 1 < used.size() ? c.weights + used[i + 1] * size : at;
        const Stream stream{at, at + size, next};
        int rows = 0;
        for (int64_t r = 0; r < c.n; ++r) {
            if (!c.active[r * s.experts + used[i]]) continue;
            x[rows] = static_cast<const uint32_t*>(c.x) + r * s.steps();
            y[rows] = c.y + r * s.padded();
            if (++rows == kRows) rows_of<Lanes>(rows, s, stream, x, y), rows = 0;
        }
        if (rows) rows_of<Lanes>(rows, s, stream, x, y);
    }
}

}  // namespace sparse_mlp
