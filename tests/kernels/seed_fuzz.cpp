// Feeds the headers of kernels/seed what no caller should: run under the address and undefined-behaviour sanitizers.
// Prints what it did, so that a run that did nothing is seen. Same seed, same work.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "anchors.h"
#include "regions.h"

using namespace seed;

namespace {

std::mt19937_64 rng;
uint64_t below(uint64_t n) { return n == 0 ? 0 : rng() % n; }

std::string bases(size_t n, int kind) {
    static const char* alphabets[] = {"ACGT", "A", "AT", "ACGTN", "acgtnRYKMSWu"};
    std::string out;
    const std::string alphabet = kind < 5 ? alphabets[kind] : "";
    while (out.size() < n) out.push_back(alphabet.empty() ? char(below(256)) : alphabet[below(alphabet.size())]);
    return out;
}

std::string sequence(size_t longest) {
    std::string out = bases(below(longest), int(below(6)));
    const std::string unit = bases(1 + below(60), int(below(2)));
    for (size_t n = below(20); n > 0; --n) out += unit;
    return out + bases(below(longest), int(below(6)));
}

const uint8_t* bytes(const std::string& s) { return reinterpret_cast<const uint8_t*>(s.data()); }

struct Made {
    Arrays arrays;
    std::vector<int32_t> lengths;
    IndexView view(int k, int w, bool hpc) const {
        return {arrays.bucket.data(), arrays.keys.data(),   arrays.start.data(),  arrays.places.data(),
                arrays.bucket.size() - 1, arrays.keys.size(), arrays.places.size(), lengths.data(),
                lengths.size(), k, w, hpc};
    }
};

Made build(const std::vector<std::string>& references, int k, int w, bool hpc) {
    Made made;
    std::vector<Pair> pairs;
    for (size_t i = 0; i < references.size(); ++i) {
        sketch(bytes(references[i]), int64_t(references[i].size()), k, w, hpc, uint32_t(i),
               [&](const Pair& m) { pairs.push_back({m.x >> 8, m.y}); });
        made.lengths.push_back(int32_t(references[i].size()));
    }
    made.arrays = arrange(std::move(pairs), k);
    return made;
}

template <class T>
void damage(std::vector<T>& values) {
    if (!values.empty()) values[below(values.size())] = below(2) ? T(rng()) : T(below(100));
}

size_t anchors_seen = 0, hits_seen = 0, refused = 0, damaged_but_whole = 0;

void one_read(const IndexView& index, const std::string& read, const std::vector<int32_t>& lengths) {
    const SeedOptions opt{int32_t(below(8)), int32_t(below(300)), int32_t(below(600)), below(2) ? 0.01f : 0.0f};
    const Seeds seeds = find_seeds(index, bytes(read), int32_t(read.size()), opt);
    anchors_seen += seeds.anchors.size();
    std::vector<Pair> a = seeds.anchors;  // cut into chains anyhow: not what chaining gives, but anchors of this read
    std::vector<uint64_t> chains, used = seeds.used;
    for (size_t left = a.size(); left > 0;) {
        const size_t n = 1 + below(std::min<size_t>(left, 40));
        chains.push_back((below(4) ? below(1u << 31) : INT32_MAX - below(3)) << 32 | n);
        left -= n;
    }
    if (below(3) == 0)  // no order at all, positions anywhere
        for (Pair& p : a) p = {below(4) ? rng() : 0x7fffffff - below(3), rng() & 0xffffffffffull};
    if (below(4) == 0) damage(chains);
    if (below(4) == 0) damage(used);
    const char* bad = flaw(a.data(), a.size(), chains.data(), chains.size(), int32_t(read.size()), lengths.data(),
                           lengths.size());
    if (bad) {
        ++refused;
        return;
    }
    const size_t name = std::min<size_t>(read.size(), 20);
    const Read about{read.data(), name, int32_t(read.size()), seeds.repetitive, used.data(), int32_t(used.size())};
    const RegionOptions opt2{0.5f, below(2) ? 0.8f : 3.0f * float(below(2)), int32_t(below(8)), 30, int32_t(below(5000)), 40};
    hits_seen += regions(a.data(), chains.data(), chains.size(), about, lengths.data(), 11, opt2).size();
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    rng.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
    for (int round = 0; round < rounds; ++round) {
        const int k = 1 + int(below(28)), w = below(8) ? 1 + int(below(20)) : 255;
        const bool hpc = below(2);
        std::vector<std::string> references;
        for (size_t n = below(4); n > 0; --n) references.push_back(sequence(800));
        Made made = build(references, k, w, hpc);
        if (made.view(k, w, hpc).flaw()) {
            std::printf("a good index was refused: %s\n", made.view(k, w, hpc).flaw());
            return 1;
        }
        if (below(3) == 0) {  // damaged arrays are refused, or harmless
            switch (below(4)) {
                case 0: damage(made.arrays.bucket); break;
                case 1: damage(made.arrays.keys); break;
                case 2: damage(made.arrays.start); break;
                default: damage(made.arrays.places);
            }
            if (made.view(k, w, hpc).flaw()) {
                ++refused;
                continue;
            }
            ++damaged_but_whole;
        }
        for (int n = 0; n < 4; ++n) {
            std::string read = sequence(400);
            if (!references.empty() && below(2)) read += references[below(references.size())];
            one_read(made.view(k, w, hpc), read, made.lengths);
        }
    }
    std::printf("%zu anchors %zu hits %zu refused %zu damaged\n", anchors_seen, hits_seen, refused, damaged_but_whole);
    return 0;
}
