// From a read to the anchors that chaining takes: places where a minimizer of the read stands in the reference.
//
// An anchor is x = reverse << 63 | sequence << 32 | last reference base,
// y = flags << 40 | span << 32 | last read base, counted on the strand of the hit; anchors come sorted by x, in the
// order of radix_sort. Frequent minimizers are left out, except that a long stretch of them may keep its rarest few.
#pragma once

#include "index.h"

namespace seed {

constexpr uint64_t kTandem = uint64_t(1) << 42;  // the neighbouring minimizer of the read is the same k-mer

struct SeedOptions {
    int32_t mid_occ = 10;        // a minimizer with more places than this is frequent
    int32_t max_max_occ = 4095;  // one with more than this is never rescued
    int32_t occ_dist = 500;      // one frequent minimizer is rescued for so many bases without any other; 0: none
    float q_occ_frac = 0.01f;    // share of a read's minimizers above which a repeat within the read is left out
};

struct Seeds {
    std::vector<Pair> anchors;
    std::vector<uint64_t> used;  // span << 32 | last read base, of each minimizer that gave anchors, ascending
    int32_t repetitive = 0;      // bases of the read under minimizers left out as frequent
    int32_t minimizers = 0;
};

struct Match {
    Places places;
    uint32_t last, span;  // last read base
    bool reverse, tandem, dropped;
};

// A k-mer that fills more than `frac` of the read, and occurs more than max_occ times in it, is left out.
inline void drop_repeats_of_read(std::vector<Pair>& minimizers, int32_t max_occ, float frac) {
    const size_t n = minimizers.size();
    if (n <= size_t(std::max(max_occ, 0)) || frac <= 0.0f || max_occ <= 0) return;
    const auto too_often = [&](size_t count) { return count > size_t(max_occ) && float(count) > float(n) * frac; };
    std::array<uint32_t, 4096> rough{};  // counts by the low bits of the hash: hardly a read needs the sort below
    for (const Pair& m : minimizers) ++rough[m.x >> 8 & (rough.size() - 1)];
    if (!too_often(*std::max_element(rough.begin(), rough.end()))) return;
    std::vector<uint64_t> keys(n), bad;
    for (size_t i = 0; i < n; ++i) keys[i] = minimizers[i].x;
    std::sort(keys.begin(), keys.end());
    for (size_t first = 0, i = 1; i <= n; ++i) {
        if (i < n && keys[i] == keys[first]) continue;
        if (too_often(i - first)) bad.push_back(keys[first]);
        first = i;
    }
    if (!bad.empty())
        std::erase_if(minimizers, [&](const Pair& p) { return std::binary_search(bad.begin(), bad.end(), p.x); });
}

inline std::vector<Match> look_up(const IndexView& index, const std::vector<Pair>& minimizers) {
    constexpr size_t kAhead = 16;  // look-ups under way at once: a fifth less time on 80 Mb, none less on a bacterium
    std::vector<Match> found;
    found.reserve(minimizers.size());
    for (size_t i = 0; i < minimizers.size(); ++i) {
        const Pair& m = minimizers[i];
        if (i + 2 * kAhead < minimizers.size()) index.fetch_bucket(minimizers[i + 2 * kAhead].x >> 8);
        if (i + kAhead < minimizers.size()) index.fetch_keys(minimizers[i + kAhead].x >> 8);
        const Places places = index.find(m.x >> 8);
        if (places.n == 0) continue;
        const bool tandem = (i > 0 && m.x >> 8 == minimizers[i - 1].x >> 8) ||
                            (i + 1 < minimizers.size() && m.x >> 8 == minimizers[i + 1].x >> 8);
        found.push_back({places, uint32_t(m.y) >> 1, uint32_t(m.x & 0xff), bool(m.y & 1), tandem, false});
    }
    return found;
}

// In each stretch of frequent minimizers between two others, keep the rarest: one for every occ_dist bases.
inline void rescue(std::vector<Match>& found, int32_t read_length, const SeedOptions& opt) {
    constexpr int64_t kMost = 128;
    const size_t n = found.size();
    auto frequent = [&](size_t i) { return int64_t(found[i].places.n) > opt.mid_occ; };
    std::vector<uint64_t> rarest;
    for (size_t first = 0; first < n;) {
        if (!frequent(first)) {
            ++first;
            continue;
        }
        size_t last = first;
        while (last < n && frequent(last)) ++last;
        const int64_t from = first == 0 ? 0 : int64_t(found[first - 1].last);
        const int64_t to = last == n ? int64_t(read_length) : int64_t(found[last].last);
        const int64_t keep = std::min(kMost, int64_t(double(to - from) / opt.occ_dist + .499));
        rarest.clear();
        for (size_t i = first; i < last; ++i) {
            found[i].dropped = true;
            rarest.push_back(uint64_t(found[i].places.n) << 32 | i);  // of equally rare ones, the first
        }
        const size_t kept = std::min(size_t(std::max(keep, int64_t(0))), rarest.size());
        std::partial_sort(rarest.begin(), rarest.begin() + ptrdiff_t(kept), rarest.end());
        for (size_t i = 0; i < kept; ++i) {
            Match& match = found[uint32_t(rarest[i])];
            match.dropped = int64_t(match.places.n) > opt.max_max_occ;
        }
        first = last;
    }
}

inline void choose(std::vector<Match>& found, int32_t read_length, const SeedOptions& opt) {
    if (opt.occ_dist > 0 && opt.max_max_occ > opt.mid_occ && found.size() > 1) return rescue(found, read_length, opt);
    if (opt.occ_dist > 0 && opt.max_max_occ > opt.mid_occ) return;  // a single match is never left out
    for (Match& match : found) match.dropped = int64_t(match.places.n) > opt.mid_occ;
}

// Bases covered by matches that were left out; overlapping ones count once.
inline int32_t repetitive_bases(const std::vector<Match>& found) {
    int64_t sum = 0, from = 0, to = 0;
    for (const Match& match : found) {
        if (!match.dropped) continue;
        const int64_t end = int64_t(match.last) + 1, begin = end - match.span;
        if (begin > to) {
            sum += to - from;
            from = begin;
        }
        to = end;
    }
    return int32_t(sum + to - from);
}

inline Pair anchor(uint64_t place, const Match& match, int32_t read_length) {
    const bool reverse = bool(place & 1) != match.reverse;
    const uint64_t last = reverse ? uint64_t(read_length) - (match.last + 1 - match.span) - 1 : match.last;
    return {uint64_t(reverse) << 63 | (place & 0xffffffff00000000) | uint32_t(place) >> 1,
            (match.tandem ? kTandem : 0) | uint64_t(match.span) << 32 | last};
}

inline Seeds find_seeds(const IndexView& index, const uint8_t* bases, int32_t n, const SeedOptions& opt) {
    Seeds out;
    std::vector<Pair> minimizers;
    minimizers.reserve(size_t(n) * 2 / size_t(index.w + 1) + 16);
    sketch(bases, n, index.k, index.w, index.hpc, 0, [&](const Pair& m) { minimizers.push_back(m); });
    out.minimizers = int32_t(minimizers.size());
    drop_repeats_of_read(minimizers, opt.mid_occ, opt.q_occ_frac);
    std::vector<Match> found = look_up(index, minimizers);
    choose(found, n, opt);
    out.repetitive = repetitive_bases(found);
    size_t total = 0;
    for (const Match& match : found) total += match.dropped ? 0 : match.places.n;
    out.anchors.reserve(total);
    for (const Match& match : found) {
        if (match.dropped) continue;
        out.used.push_back(uint64_t(match.span) << 32 | match.last);
        for (uint32_t i = 0; i < match.places.n; ++i)
            out.anchors.push_back(anchor(match.places.first[i], match, n));
    }
    radix_sort(out.anchors.data(), out.anchors.size());
    return out;
}

}  // namespace seed
