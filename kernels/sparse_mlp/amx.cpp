// Tiles (AMX) for many rows in bfloat16: the packed lines already are the tiles' layout, pairs of one step a row.
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "dot.h"

namespace sparse_mlp {
namespace {

constexpr int64_t kTileRows = 16, kTileSteps = 16;
constexpr int64_t kFewRows = 4;  // so few rows of an expert go faster through vectors (README.md)

struct alignas(64) Config {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
    // 0, 1: sums; 2: rows of x or of activations; 3, 4: weights; 5, 6, 7: as 2, 3, 4 for the last 8 steps.
    explicit Config(int n) {
        const int of[8] = {n, n, n, 16, 16, n, 8, 8};
        for (int i = 0; i < 8; ++i) rows[i] = static_cast<uint8_t>(of[i]), bytes[i] = i == 5 ? 32 : 64;
    }
};

inline void gate_up(const Shape& s, Stream& w, const uint32_t* x, float (*gate)[kLanes], float (*up)[kLanes]) {
    const int64_t stride = s.steps() * 4;
    _tile_zero(0);
    _tile_zero(1);
    int64_t k = 0;
    for (; k + kTileSteps <= s.steps(); k += kTileSteps, w.at += 2 * kTileSteps * kLine) {
        w.template ahead<2 * kTileSteps>();
        _tile_loadd(2, x + k, stride);
        _tile_loadd(3, w.at, 2 * kLine);
        _tile_loadd(4, w.at + kLine, 2 * kLine);
        _tile_dpbf16ps(0, 2, 3);
        _tile_dpbf16ps(1, 2, 4);
    }
    if (k < s.steps()) {
        w.template ahead<kTileSteps>();
        _tile_loadd(5, x + k, stride);
        _tile_loadd(6, w.at, 2 * kLine);
        _tile_loadd(7, w.at + kLine, 2 * kLine);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
        w.at += kTileSteps * kLine;
    }
    _tile_stored(0, gate, kLine);
    _tile_stored(1, up, kLine);
}

// One expert for rows [from, from + n): all are multiplied, a row that does not use it adds zeros.
inline void tiles(const Call& c, int64_t from, int n, int64_t e, Stream w) {
    const Shape& s = c.shape;
    alignas(64) uint32_t h[kTileRows][kLanes];
    for (int part = 0; part < 2; ++part) {
        alignas(64) float gate[kTileRows][kLanes], up[kTileRows][kLanes];
        gate_up(s, w, c.x + from * s.steps(), gate, up);
        for (int r = 0; r < n; ++r) {
            uint32_t* to = h[r] + part * kLanes / 2;
            if (c.active[(from + r) * s.experts + e]) activate<true>(gate[r], up[r], to);
            else std::memset(to, 0, kLine / 2);
        }
    }
    float* y = c.y + from * s.padded();
    const int64_t stride = s.padded() * 4;
    _tile_loadd(2, h, kLine);
    int64_t t = 0;
    for (; t + 2 <= s.tiles(); t += 2, w.at += 2 * kTileSteps * kLine) {
        w.template ahead<2 * kTileSteps>();
        _tile_loadd(0, y + t * kLanes, stride);
        _tile_loadd(3, w.at, kLine);
        _tile_loadd(1, y + (t + 1) * kLanes, stride);
        _tile_loadd(4, w.at + kTileSteps * kLine, kLine);
        _tile_dpbf16ps(0, 2, 3);
        _tile_dpbf16ps(1, 2, 4);
        _tile_stored(0, y + t * kLanes, stride);
        _tile_stored(1, y + (t + 1) * kLanes, stride);
    }
    if (t < s.tiles()) {
        _tile_loadd(0, y + t * kLanes, stride);
        _tile_loadd(3, w.at, kLine);
        _tile_dpbf16ps(0, 2, 3);
        _tile_stored(0, y + t * kLanes, stride);
    }
}

}  // namespace

bool amx_allowed() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    static const bool allowed = syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
    return allowed;
#else
    return false;
#endif
}

void run_amx(const Call& c) {
    for (int64_t from = 0; from < c.n; from += kTileRows) {
        const int64_t to = c.n < from + kTileRows ? c.n : from + kTileRows;
        const bool few = to - from <= kFewRows;
        const Config config(static_cast<int>(to - from));
        if (!few) _tile_loadconfig(&config);
        for_experts(c, from, to, [&](int64_t e, const Stream& w, int64_t users) {
            if (few || users <= kFewRows) vectors<Dot>(c, from, to, e, w);
            else tiles(c, from, static_cast<int>(to - from), e, w);
        });
        if (!few) _tile_release();
    }
}

}  // namespace sparse_mlp
