// Every stage on anchors made to be awkward, for the sanitizers: fuzz SECONDS SEED. Exit code 0 when all agreed.
//
// Built by tests/kernels/test_chain_sanitizers.py with -fsanitize=address,undefined from the same sources as the module.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "backtrack.h"
#include "one_source_run.h"
#include "rmq.h"
#include "sort.h"
#include "types.h"

using namespace chain;

namespace {

std::mt19937_64 random_bits;
int64_t pick(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint64_t(high - low + 1)); }
template <class T>
T one_of(std::initializer_list<T> all) {
    return all.begin()[pick(0, int64_t(all.size()) - 1)];
}

// Lines, clouds, stacks of equal positions, positions at the ends of what is allowed, spans of 0 to 255.
std::vector<Anchor> make_anchors(int64_t n) {
    const int kind = int(pick(0, 5));
    const int64_t far = one_of<int64_t>({1, 30, 500, 6000, 100'000, INT32_MAX / 2});
    std::vector<Anchor> made(n);
    for (Anchor& a : made) {
        uint64_t x = uint64_t(pick(0, far)), y = uint64_t(pick(0, far));
        if (kind <= 1) y = uint64_t(std::clamp<int64_t>(int64_t(x) + pick(-40, 40) * kind, 0, INT32_MAX / 2));
        if (kind == 2) x = x / 64 * 64, y = y / 64 * 64;
        if (kind == 3) x = uint64_t(INT32_MAX) - x;
        const uint64_t references = kind == 4 ? 0x7fffffff : 1;
        a.x = uint64_t(pick(0, 1)) << 63 | uint64_t(pick(0, int64_t(references))) << 32 | x;
        a.y = uint64_t(kind == 5 ? pick(0, 255) : 15) << 32 | y;
    }
    unstable_sort(made.data(), n, [](const Anchor& a) { return a.x; });
    return made;
}

Params make_params() {
    Params q{};
    q.max_dist_x = one_of({1, 50, 5000, kFarthest}), q.max_dist_y = one_of({1, 50, 5000, kFarthest});
    q.bw = one_of({0, 1, 500, 70'000}), q.max_skip = one_of({0, 2, 25, kUnlimited, kUnlimited, kUnlimited});
    q.max_iter = one_of({1, 17, 5000}), q.min_cnt = one_of({0, 1, 3}), q.min_score = one_of({0, 5, 40});
    q.gap = one_of({0.0f, 0.12f, 0.152f, 32.0f}), q.skip = one_of({0.0f, 0.0f, 0.0f, 0.01f, 32.0f});
    q.cdna = pick(0, 5) == 0, q.n_seg = pick(0, 5) == 0 ? 2 : 1;
    return q;
}

struct Result {
    explicit Result(size_t n) : score(n), peak(n), previous(n) {}  // of exactly n: a write past the end is seen
    Scores scores() { return {score.data(), previous.data(), peak.data()}; }
    bool operator==(const Result&) const = default;
    std::vector<int32_t> score, peak;
    std::vector<int64_t> previous;
};

bool agree(const std::vector<Anchor>& a, const Params& q) {
    const int64_t n = int64_t(a.size());
    Result exact(n);
    dp(Backend::scalar, a.data(), n, q, exact.scores());
    compact(a.data(), backtrack(exact.score.data(), exact.previous.data(), n, q));
    bool same = true;
    if (simple(q) && q.max_skip == kUnlimited) {
        for (const Backend b : {Backend::avx2, Backend::avx512, Backend::avx2_every_pair, Backend::avx512_every_pair}) {
            if (!has(b)) continue;
            Result other(n);
            dp(b, a.data(), n, q, other.scores());
            same = same && other == exact;
        }
        const Limits small{int(pick(1, 600)), int(pick(1, 3)), int(pick(1, 300)), pick(0, 3000), pick(0, 9000)};
        set_order(int(pick(1, 9)));
        for (const Kernels* kernels : {&kernels_portable, &kernels_shuffled}) {
            Result first(n), again(n);
            run_one_source({{a.data(), n, first.scores()}, {a.data(), n, again.scores()}}, q, *kernels, small, int(pick(1, 3)));
            same = same && first == exact && again == exact;
        }
    }
    Result joined(n);
    const int32_t limit = one_of({0, 25, kUnlimited}), cap = one_of({1, 30, 100'000});
    const JoinParams join{q.max_dist_y, one_of({0, 20, 1000}), q.bw, limit, cap, q.gap, q.skip};
    dp_rmq(a.data(), n, join, joined.scores());
    Result by_tree(n);
    dp_rmq(a.data(), n, join, by_tree.scores(), true);
    same = same && by_tree == joined;
    compact(a.data(), backtrack(joined.score.data(), joined.previous.data(), n, q));
    return same;
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
    random_bits.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
    const auto began = std::chrono::steady_clock::now();
    const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); };
    long rounds = 0;
    for (; passed() < seconds; ++rounds) {
        const int64_t few = one_of<int64_t>({0, 1, 2, pick(3, 70), pick(3, 1200)});
        const int64_t n = pick(0, 99) == 0 ? pick(4000, 9000) : few;  // enough for groups of pieces in the long join
        if (!agree(make_anchors(n), make_params())) {
            std::printf("round %ld: backends differ\n", rounds);
            return 1;
        }
    }
    std::printf("%ld rounds\n", rounds);
    return 0;
}
