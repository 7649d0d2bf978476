// Packing, rows in the loops' own format, and the choice of loop.
#include "layer.h"

#include <cstring>
#include <vector>

#include "body.h"

#ifdef SPARSE_MLP_X86
#include <cpuid.h>
#endif

namespace sparse_mlp {
namespace {

// Writes weights in the order of the lines: one float, or a pair of bfloat16, at a time.
struct Writer {
    bool half;
    unsigned char* at;
    void put(float first, float second) {
        uint32_t bits;
        if (half) bits = to_bf16(first) | (to_bf16(second) << 16);
        else std::memcpy(&bits, &first, 4);
        std::memcpy(at, &bits, 4);
        at += 4;
    }
};

bool has(Loop loop) {
    if (loop == Loop::portable) return true;
#ifdef SPARSE_MLP_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool dot = avx512 && __builtin_cpu_supports("avx512bf16");
    if (loop == Loop::avx2) return avx2;
    if (loop == Loop::avx512) return avx512;
    if (loop == Loop::avx512_bf16) return dot;
    if (loop == Loop::amx && dot) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile) && amx_allowed();
    }
#endif
    return false;
}

// The rows as the loops take them: padded with zeros, in pairs of bfloat16 where the weights are.
const uint32_t* prepared(const Shape& s, const Rows& rows) {
    static thread_local std::vector<uint32_t> room;
    room.resize(static_cast<size_t>(rows.n * s.steps()));
    for (int64_t r = 0; r < rows.n; ++r) {
        uint32_t* to = room.data() + r * s.steps();
        if (s.half) {
            auto* pairs = reinterpret_cast<unsigned char*>(to);
            if (rows.x_half) {
                std::memcpy(pairs, static_cast<const uint16_t*>(rows.x) + r * s.hidden, s.hidden * 2);
            } else {
                const float* row = static_cast<const float*>(rows.x) + r * s.hidden;
                for (int64_t i = 0; i < s.hidden; ++i) {
                    const uint16_t bits = static_cast<uint16_t>(to_bf16(row[i]));
                    std::memcpy(pairs + 2 * i, &bits, 2);
                }
            }
            std::memset(pairs + s.hidden * 2, 0, (s.padded() - s.hidden) * 2);
        } else {
            if (rows.x_half) {
                const uint16_t* row = static_cast<const uint16_t*>(rows.x) + r * s.hidden;
                for (int64_t i = 0; i < s.hidden; ++i) to[i] = static_cast<uint32_t>(row[i]) << 16;
            } else {
                std::memcpy(to, static_cast<const float*>(rows.x) + r * s.hidden, s.hidden * 4);
            }
            std::memset(to + s.hidden, 0, (s.padded() - s.hidden) * 4);
        }
    }
    return room.data();
}

const bool* union_of(const Shape& s, const bool* active, int64_t n) {
    static thread_local std::vector<unsigned char> room;
    room.assign(static_cast<size_t>(n * s.experts), 0);
    for (int64_t r = 0; r < n; ++r)
        for (int64_t e = 0; e < s.experts; ++e) room[e] |= active[r * s.experts + e];
    for (int64_t r = 1; r < n; ++r) std::memcpy(room.data() + r * s.experts, room.data(), s.experts);
    return reinterpret_cast<const bool*>(room.data());
}

SPARSE_MLP_INLINE uint64_t read_lines(const unsigned char* from, int64_t bytes) {
    constexpr int kWords = 4 * kLine / 8, kNear = 1024;  // asked for so far ahead a plain stream is fastest
    uint64_t sum[kWords] = {};
    for (int64_t i = 0; i + 4 * kLine <= bytes; i += 4 * kLine) {
        for (int line = 0; line < 4; ++line) __builtin_prefetch(from + i + kNear + line * kLine, 0, 2);
        uint64_t words[kWords];
        std::memcpy(words, from + i, sizeof words);
        for (int k = 0; k < kWords; ++k) sum[k] ^= words[k];
    }
    uint64_t all = 0;
    for (uint64_t each : sum) all ^= each;
    return all;
}

#ifdef SPARSE_MLP_X86
__attribute__((target("avx2"))) uint64_t read_avx2(const unsigned char* from, int64_t bytes) { return read_lines(from, bytes); }
#endif

}  // namespace

bool runs(Loop loop, bool half) {
    static const auto known = [] {
        std::vector<bool> found;
        for (int i = 0; i < static_cast<int>(Loop::count); ++i) found.push_back(has(static_cast<Loop>(i)));
        return found;
    }();
    return known[static_cast<int>(loop)] && (half || loop < Loop::avx512_bf16);
}

void pack_experts(const Shape& s, const float* gate, const float* up, const float* down, unsigned char* to) {
    const int64_t hidden = s.hidden, per = s.half ? 2 : 1;
    Writer out{s.half, to};
    for (int64_t e = 0; e < s.experts; ++e) {
        const auto value = [&](const float* m, int64_t neuron, int64_t column) {
            return column < hidden ? m[(e * kNeurons + neuron) * hidden + column] : 0.0f;
        };
        for (int part = 0; part < 2; ++part)
            for (int64_t k = 0; k < s.steps(); ++k)
                for (const float* m : {gate, up})
                    for (int i = 0; i < kLanes; ++i) {
                        const int64_t n = part * kLanes + i;
                        out.put(value(m, n, k * per), s.half ? value(m, n, k * 2 + 1) : 0.0f);
                    }
        for (int64_t t = 0; t < s.tiles(); ++t)
            for (int64_t j = 0; j < s.lines_down(); ++j)
                for (int i = 0; i < kLanes; ++i) {
                    const int64_t c = t * kLanes + i;
                    out.put(value(down, j * per, c), s.half ? value(down, j * 2 + 1, c) : 0.0f);
                }
    }
}

void pack_router(const Shape& s, const float* weights, unsigned char* to) {
    const int64_t per = s.half ? 2 : 1;
    Writer out{s.half, to};
    const auto value = [&](int64_t e, int64_t column) {
        return e < s.experts && column < s.hidden ? weights[e * s.hidden + column] : 0.0f;
    };
    for (int64_t b = 0; b < router_blocks(s); ++b)
        for (int64_t k = 0; k < s.steps(); ++k)
            for (int64_t e = b * kNeurons; e < (b + 1) * kNeurons; ++e)
                out.put(value(e, k * per), s.half ? value(e, k * 2 + 1) : 0.0f);
}

void mlp(const Shape& s, const unsigned char* weights, const Rows& rows, const bool* active, bool united, float* y, Loop loop) {
    static thread_local std::vector<float> room;
    const bool direct = s.padded() == s.hidden;
    float* out = y;
    const uint32_t* x = prepared(s, rows);  // first: y may be x
    if (!direct) room.resize(static_cast<size_t>(rows.n * s.padded())), out = room.data();
    std::memset(out, 0, static_cast<size_t>(rows.n * s.padded()) * 4);
    if (united && rows.n > 1) active = union_of(s, active, rows.n);
    const Call call{s, weights, x, out, active, rows.n};
    switch (loop) {
#ifdef SPARSE_MLP_X86
        case Loop::avx2: run_avx2(call); break;
        case Loop::avx512: run_avx512(call); break;
        case Loop::avx512_bf16: run_avx512_bf16(call); break;
        case Loop::amx: run_amx(call); break;
#endif
        default: run_portable(call);
    }
    if (!direct)
        for (int64_t r = 0; r < rows.n; ++r) std::memcpy(y + r * s.hidden, out + r * s.padded(), s.hidden * 4);
}

void decide(const Shape& s, const unsigned char* router, const float* bias, const Rows& rows, bool* active, Loop loop) {
    const Routing routing{s, router, bias, prepared(s, rows), active, rows.n};
    switch (loop) {
#ifdef SPARSE_MLP_X86
        case Loop::avx2: return route_avx2(routing);
        case Loop::avx512: return route_avx512(routing);
        case Loop::avx512_bf16:
        case Loop::amx: return route_avx512_bf16(routing);
#endif
        default: return route_portable(routing);
    }
}

uint64_t read_all(const unsigned char* from, int64_t bytes) {
#ifdef SPARSE_MLP_X86
    if (runs(Loop::avx2, false)) return read_avx2(from, bytes);
#endif
    return read_lines(from, bytes);
}

}  // namespace sparse_mlp
