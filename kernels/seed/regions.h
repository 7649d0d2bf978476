// From chains to hits: coordinates, which hit is primary, which of the others to keep, mapping quality, divergence.
//
// All of it follows minimap2 2.24 without base alignment, down to the order in which ties are broken and to single
// precision where it uses single precision, so that its PAF comes out byte for byte.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pair.h"

namespace seed {

struct RegionOptions {
    float mask_level = 0.5f;  // overlap with a better hit, as a share of the shorter, that makes a hit secondary
    float pri_ratio = 0.8f;   // a secondary scores at least this share of its primary
    int32_t best_n = 5;       // secondaries kept of a read
    int32_t min_diff = 30;    // or at most this much less than its primary: 2 k
    int32_t min_strand_score = 4000;  // one on the other strand is looked at again if it scores more: 0.8 max_gap
    int32_t min_chain_score = 40;
};

struct Hit {
    int32_t id, parent, sequence, reverse, query_start, query_end, start, end;
    int32_t score, count, first, matches, block, mapq = 0, second = 0, rivals = 0;  // first: index of its anchor
    float divergence = -1.0f;
    bool other_strand = false;  // kept for the sake of its strand until divergence is known
};

constexpr int32_t kNoParent = -1;

inline int32_t low(uint64_t v) { return int32_t(uint32_t(v)); }
inline int32_t span_of(const Pair& a) { return int32_t(a.y >> 32 & 0xff); }
inline int32_t step(uint64_t from, uint64_t to) { return int32_t(uint32_t(to) - uint32_t(from)); }

inline uint64_t hash64(uint64_t v) {
    v = ~v + (v << 21);
    v ^= v >> 24;
    v *= 265;
    v ^= v >> 14;
    v *= 21;
    v ^= v >> 28;
    return v + (v << 31);
}

inline uint32_t hash32(uint32_t v) {
    v += ~(v << 15);
    v ^= v >> 10;
    v += v << 3;
    v ^= v >> 6;
    v += ~(v << 11);
    return v ^ v >> 16;
}

// What breaks ties between hits of equal score: the read's name (signed chars, base 31), its length, a seed.
inline uint32_t read_hash(const char* name, size_t n, int32_t read_length, uint32_t seed) {
    uint32_t h = 0;
    for (size_t i = 0; i < n && name[i]; ++i) h = h * 31 + uint32_t(int32_t(static_cast<signed char>(name[i])));
    return hash32(h ^ (hash32(uint32_t(read_length)) + hash32(seed)));
}

inline void measure(Hit& hit, const Pair* a, int32_t read_length) {
    const Pair &head = a[hit.first], &tail = a[hit.first + hit.count - 1];
    const int32_t span = span_of(head);
    hit.reverse = int32_t(head.x >> 63);
    hit.sequence = int32_t(head.x << 1 >> 33);
    hit.start = std::max(low(head.x + 1 - uint64_t(span)), 0);  // with homopolymers the reference's span may be shorter
    hit.end = low(tail.x + 1);
    const int32_t from = low(head.y + 1 - uint64_t(span)), to = low(tail.y + 1);
    hit.query_start = hit.reverse ? read_length - to : from;
    hit.query_end = hit.reverse ? read_length - from : to;
    uint32_t matches = uint32_t(span), block = uint32_t(span);
    for (int32_t i = hit.first + 1; i < hit.first + hit.count; ++i) {
        const int32_t own = span_of(a[i]), along = step(a[i - 1].x, a[i].x), across = step(a[i - 1].y, a[i].y);
        block += uint32_t(std::max(along, across));
        matches += uint32_t(along > own && across > own ? own : std::min(along, across));
    }
    hit.matches = int32_t(matches), hit.block = int32_t(block);
}

// Hits from the best score down; equal scores in the order of a hash of read and first anchor.
inline std::vector<Hit> hits_of(const Pair* a, const uint64_t* chains, size_t n, int32_t read_length, uint32_t hash) {
    std::vector<Pair> order(n);
    uint64_t at = 0;
    for (size_t i = 0; i < n; ++i) {
        order[i] = {chains[i] ^ uint32_t(hash64((hash64(a[at].x) + hash64(a[at].y)) ^ hash)),
                    at << 32 | uint32_t(chains[i])};
        at += uint32_t(chains[i]);
    }
    radix_sort(order.data(), n);
    std::vector<Hit> hits(n);
    for (size_t i = 0; i < n; ++i) {
        const Pair& from = order[n - 1 - i];
        Hit& hit = hits[i];
        hit.id = int32_t(i), hit.parent = kNoParent;
        hit.score = int32_t(from.x >> 32), hit.count = low(from.y), hit.first = int32_t(from.y >> 32);
        measure(hit, a, read_length);
    }
    return hits;
}

inline int32_t overlap(const Hit& p, const Hit& q) {
    return std::max(0, std::min(p.query_end, q.query_end) - std::max(p.query_start, q.query_start));
}

// Bases of `hit` that no earlier primary covers.
inline int32_t uncovered(const Hit& hit, const std::vector<Hit>& hits, const std::vector<int32_t>& primaries) {
    std::vector<std::pair<int32_t, int32_t>> parts;
    for (int32_t p : primaries) {
        const Hit& better = hits[p];
        if (overlap(better, hit) == 0) continue;
        parts.emplace_back(std::max(better.query_start, hit.query_start), std::min(better.query_end, hit.query_end));
    }
    if (parts.empty()) return -1;
    std::sort(parts.begin(), parts.end());
    int32_t sum = 0, to = hit.query_start;
    for (auto [begin, end] : parts) {
        sum += std::max(0, begin - to);
        to = std::max(to, end);
    }
    return sum + std::max(0, hit.query_end - to);
}

// A hit whose bases of the read lie mostly under a better one gets that one as its parent.
inline void set_parents(std::vector<Hit>& hits, float mask_level) {
    std::vector<int32_t> primaries;
    for (size_t i = 0; i < hits.size(); ++i) {
        Hit& hit = hits[i];
        hit.id = int32_t(i);
        bool own = true;
        const int32_t bare = i == 0 ? -1 : uncovered(hit, hits, primaries);
        for (size_t j = 0; bare >= 0 && own && j < primaries.size(); ++j) {
            Hit& better = hits[primaries[j]];
            const int32_t shared = overlap(better, hit);
            if (shared == 0) continue;
            const int32_t p = better.query_end - better.query_start, q = hit.query_end - hit.query_start;
            if (float(shared) / float(std::min(p, q)) - float(bare) / float(std::max(p, q)) <= mask_level) continue;
            own = false;
            hit.parent = better.parent;
            better.second = std::max(better.second, hit.score);
            better.rivals += hit.count >= better.count;
        }
        if (own) {
            primaries.push_back(int32_t(i));
            hit.parent = int32_t(i), hit.rivals = 0;
        }
    }
}

inline bool same_place(const Hit& p, const Hit& q) {
    return p.query_start == q.query_start && p.query_end == q.query_end && p.sequence == q.sequence &&
           p.start == q.start && p.end == q.end;
}

// Renumber after some were taken out; a parent that is gone leaves kNoParent.
inline void renumber(std::vector<Hit>& hits) {
    int32_t most = -1;
    for (const Hit& hit : hits) most = std::max(most, hit.id);
    std::vector<int32_t> now(size_t(most + 1), kNoParent);
    for (size_t i = 0; i < hits.size(); ++i) now[size_t(hits[i].id)] = int32_t(i);
    for (size_t i = 0; i < hits.size(); ++i) {
        hits[i].id = int32_t(i);
        hits[i].parent = hits[i].parent < 0 ? kNoParent : now[size_t(hits[i].parent)];
    }
}

// Keep primaries and the best_n best secondaries near enough to theirs, or long and on the other strand.
inline void select(std::vector<Hit>& hits, const RegionOptions& opt) {
    if (opt.pri_ratio <= 0.0f) return;
    int32_t kept = 0;
    size_t out = 0;
    const size_t n = hits.size();
    for (size_t i = 0; i < n; ++i) {
        const Hit hit = hits[i];
        // A parent comes before its children and is never taken out, but may have moved up: as in minimap2, it is
        // looked for where it was, and what stands there now may be another hit.
        const Hit& parent = hits[size_t(hit.parent)];
        if (hit.parent == int32_t(i)) {
            hits[out++] = hit;
        } else if (kept >= opt.best_n) {
            continue;
        } else if (float(hit.score) >= float(parent.score) * opt.pri_ratio ||
                   int64_t(hit.score) + opt.min_diff >= parent.score) {
            if (same_place(hit, parent)) continue;
            hits[out++] = hit, ++kept;
        } else if (hit.score > opt.min_strand_score && hit.reverse != parent.reverse) {
            hits[out] = hit, hits[out++].other_strand = true, ++kept;
        }
    }
    hits.resize(out);
    if (out != n) renumber(hits);
}

// Last read base of an anchor, on the read's own strand.
inline int32_t own_base(const Pair& a, int32_t read_length) {
    const int32_t last = low(a.y);
    return a.x >> 63 ? read_length - 1 - (last + 1 - span_of(a)) : last;
}

// Divergence from the share of the read's minimizers, between the ends of the hit, that are in its chain.
inline void set_divergence(std::vector<Hit>& hits, const Pair* a, const uint64_t* used, int32_t n, int32_t read_length,
                           const int32_t* lengths) {
    if (n == 0) return;
    uint64_t spans = 0;
    for (int32_t i = 0; i < n; ++i) spans += used[i] >> 32 & 0xff;
    const float mean = float(spans) / float(n);
    for (Hit& hit : hits) {
        auto base = [&](int32_t i) {
            return own_base(a[hit.reverse ? hit.first + hit.count - 1 - i : hit.first + i], read_length);
        };
        const int32_t begin = base(0);
        const uint64_t* from =
            std::lower_bound(used, used + n, begin, [](uint64_t u, int32_t at) { return low(u) < at; });
        hit.divergence = -1.0f;
        if (from == used + n || low(*from) != begin) continue;
        int32_t matched = 1, total = 1;
        for (const uint64_t* each = from + 1; each != used + n && matched < hit.count; ++each)
            if (base(matched) == low(*each)) ++matched, total = int32_t(each - from) + 1;
        // One more for each side where read and reference go on. At the end minimap2 too looks at the hit's start.
        total += float(hit.query_start) > mean && float(hit.start) > mean;
        total += float(read_length - hit.query_start) > mean && float(lengths[hit.sequence] - hit.end) > mean;
        hit.divergence =
            matched >= total ? 0.0f : float(1.0 - std::pow(double(matched) / total, 1.0 / double(mean)));
    }
}

// A hit kept for its strand alone stays if it is about as similar as its parent, or very similar.
inline void drop_dissimilar(std::vector<Hit>& hits) {
    size_t out = 0;
    for (size_t i = 0; i < hits.size(); ++i) {
        const Hit hit = hits[i];
        if (!hit.other_strand || hit.divergence < hits[size_t(hit.parent)].divergence * 5.0f || hit.divergence < 0.01f)
            hits[out++] = hit;
    }
    hits.resize(out);
}

// From 0 to 60, by the lead over the second best score, the anchors, and how much of the read is repetitive.
inline void set_mapq(std::vector<Hit>& hits, int32_t min_chain_score, int32_t repetitive) {
    int64_t sum = 0;
    for (const Hit& hit : hits) sum += hit.parent == hit.id ? hit.score : 0;
    const float unique = float(sum) / float(sum + repetitive);
    for (Hit& hit : hits) {
        hit.mapq = 0;
        if (hit.parent != hit.id) continue;
        const float by_score = (hit.score > 100 ? 1.0f : 0.01f * float(hit.score)) * unique;
        const float by_count = hit.count > 10 ? 1.0f : 0.1f * float(hit.count);
        const float x = float(std::max(hit.second, min_chain_score)) / float(hit.score);
        const float quality = std::min(by_score, by_count) * 40.0f * (1.0f - x) * std::log(float(hit.score));
        const int32_t rivals = int32_t(4.343f * std::log(float(hit.rivals + 1)) + .499f);
        hit.mapq = quality > 0.0f ? std::clamp(int32_t(quality) - rivals, 0, 60) : 0;
    }
}

// Null, or why these chains of these anchors cannot be a read's.
inline const char* flaw(const Pair* a, size_t n, const uint64_t* chains, size_t n_chains, int32_t read_length,
                        const int32_t* lengths, size_t sequences) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n_chains; ++i) {
        if (uint32_t(chains[i]) == 0 || int64_t(chains[i]) >> 32 <= 0) return "a chain has no anchor or no score";
        sum += uint32_t(chains[i]);
    }
    if (sum != n || n > INT32_MAX) return "the chains' counts do not add up to the anchors";
    for (size_t i = 0; i < n; ++i)
        if (const uint64_t sequence = a[i].x << 1 >> 33; sequence >= sequences || low(a[i].x) < 0 ||
            low(a[i].x) >= lengths[sequence] || low(a[i].y) < 0 || low(a[i].y) >= read_length)
            return "an anchor lies outside the read or the reference";
    return nullptr;
}

struct Read {
    const char* name;
    size_t name_length;
    int32_t length, repetitive;
    const uint64_t* used;
    int32_t n_used;
};

inline std::vector<Hit> regions(const Pair* a, const uint64_t* chains, size_t n_chains, const Read& read,
                                const int32_t* lengths, uint32_t tie_seed, const RegionOptions& opt) {
    const uint32_t hash = read_hash(read.name, read.name_length, read.length, tie_seed);
    std::vector<Hit> hits = hits_of(a, chains, n_chains, read.length, hash);
    set_parents(hits, opt.mask_level);
    select(hits, opt);
    set_divergence(hits, a, read.used, read.n_used, read.length, lengths);
    drop_dissimilar(hits);
    set_mapq(hits, opt.min_chain_score, read.repetitive);
    return hits;
}

}  // namespace seed
