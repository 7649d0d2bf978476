// For the sanitizers: packs layers of awkward sizes, runs every loop that this processor has on memory of just the
// right size, and compares with the definition written once more in double precision.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "body.h"
#include "layer.h"

using namespace sparse_mlp;

namespace {

std::mt19937 random_bits;
int64_t upto(int64_t n) { return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(n)); }
std::vector<float> numbers(int64_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> all(static_cast<size_t>(n));
    for (float& v : all) v = normal(random_bits);
    return all;
}

float rounded(float v, bool half) {
    if (!half) return v;
    const uint32_t bits = to_bf16(v) << 16;
    std::memcpy(&v, &bits, 4);
    return v;
}

using Lines = std::unique_ptr<unsigned char, void (*)(void*)>;
Lines lines(int64_t bytes) { return {static_cast<unsigned char*>(std::aligned_alloc(64, static_cast<size_t>(bytes))), std::free}; }

struct Layer {
    Shape s;
    std::vector<float> gate, up, down;
    Lines packed{nullptr, std::free};
    Layer(int64_t hidden, int64_t experts, bool half) : s{hidden, experts, half} {
        for (auto* m : {&gate, &up, &down}) {
            *m = numbers(experts * kNeurons * hidden);
            for (float& v : *m) v = rounded(v / std::sqrt(static_cast<float>(hidden)), half);
        }
        packed = lines(s.expert_bytes() * experts);
        pack_experts(s, gate.data(), up.data(), down.data(), packed.get());
    }
};

// What row `x` gives, and how far a right answer may be: rounding of sums, and of activations near a tie.
void define(const Layer& l, const float* x, const bool* active, std::vector<double>& y, std::vector<double>& slack) {
    const int64_t hidden = l.s.hidden;
    y.assign(hidden, 0), slack.assign(hidden, 1e-9);
    for (int64_t i = 0; i < l.s.experts * kNeurons; ++i) {
        if (!active[i / kNeurons]) continue;
        double g = 0, u = 0, all_g = 0, all_u = 0;
        for (int64_t k = 0; k < hidden; ++k) {
            const double a = double{l.gate[i * hidden + k]} * x[k], b = double{l.up[i * hidden + k]} * x[k];
            g += a, u += b, all_g += std::fabs(a), all_u += std::fabs(b);
        }
        const double h = g / (1 + std::exp(-g)) * u, near = 4e-6 * (all_g * std::fabs(u) + std::fabs(g) * all_u) + 1e-9;
        const float kept = rounded(static_cast<float>(h), l.s.half);
        const double jump = near + (l.s.half ? std::fabs(rounded(static_cast<float>(h + near), true) - rounded(static_cast<float>(h - near), true)) : 0);
        for (int64_t k = 0; k < hidden; ++k) {
            y[k] += double{kept} * l.down[i * hidden + k];
            slack[k] += (jump + 4e-6 * std::fabs(h)) * std::fabs(l.down[i * hidden + k]);
        }
    }
}

bool round_of(int64_t& compared) {
    const bool half = upto(2);
    const Layer l(1 + upto(90), 1 + upto(5), half);
    const int64_t n = 1 + upto(20), hidden = l.s.hidden, experts = l.s.experts;
    std::vector<float> x = numbers(n * hidden);
    for (float& v : x) v = rounded(v, half);
    std::unique_ptr<bool[]> active(new bool[n * experts]), given(new bool[n * experts]);
    const int64_t share = upto(5);
    for (int64_t i = 0; i < n * experts; ++i) active[i] = upto(4) < share;
    const bool united = upto(2);
    for (int64_t i = 0; i < n * experts; ++i) {
        given[i] = active[i];
        for (int64_t r = 0; united && r < n; ++r) given[i] = given[i] || active[r * experts + i % experts];
    }
    const std::vector<float> router = numbers(experts * hidden), bias = numbers(experts);
    Lines routing = lines(router_bytes(l.s));
    pack_router(l.s, router.data(), routing.get());
    for (int loop = 0; loop < static_cast<int>(Loop::count); ++loop) {
        if (!runs(static_cast<Loop>(loop), half)) continue;
        std::vector<float> out(n * hidden);
        mlp(l.s, l.packed.get(), {x.data(), false, n}, active.get(), united, out.data(), static_cast<Loop>(loop));
        std::unique_ptr<bool[]> chosen(new bool[n * experts]);
        decide(l.s, routing.get(), bias.data(), {x.data(), false, n}, chosen.get(), static_cast<Loop>(loop));
        std::vector<double> right, slack;
        for (int64_t r = 0; r < n; ++r) {
            define(l, x.data() + r * hidden, given.get() + r * experts, right, slack);
            for (int64_t k = 0; k < hidden; ++k, ++compared)
                if (!(std::fabs(out[r * hidden + k] - right[k]) <= slack[k])) {
                    std::printf("%s, half %d, %ld x %ld: row %ld, %ld: %g, not %g within %g\n", kLoops[loop], half, hidden, experts, r, k, out[r * hidden + k], right[k], slack[k]);
                    return false;
                }
            for (int64_t e = 0; e < experts; ++e) {
                double logit = bias[e];
                for (int64_t k = 0; k < hidden; ++k) logit += double{rounded(router[e * hidden + k], half)} * x[r * hidden + k];
                if (std::fabs(logit) > 1e-3 && chosen[r * experts + e] != (logit > 0)) {
                    std::printf("%s: router of expert %ld, logit %g\n", kLoops[loop], e, logit);
                    return false;
                }
            }
        }
    }
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
    random_bits.seed(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1u);
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    int64_t rounds = 0, compared = 0;
    for (; std::chrono::steady_clock::now() < end; ++rounds)
        if (!round_of(compared)) return 1;
    std::printf("%ld rounds, %ld numbers compared\n", rounds, compared);
}
