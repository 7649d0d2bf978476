// Where each minimizer of the reference stands: four flat arrays, built once, read by any number of threads.
//
//   bucket     u32[2^b + 1]  keys of bucket i are keys[bucket[i] .. bucket[i+1]); a hash falls in bucket hash mod 2^b
//   keys       u64[n]        distinct hashes, ascending within a bucket
//   start      u32[n + 1]    places of key i are places[start[i] .. start[i+1])
//   places     u64[m]        sequence << 32 | last base << 1 | strand, ascending within a key
//
// About four keys share a bucket, so a look-up is two or three cache misses. Memory: 8 bytes a minimizer, 12 a distinct
// one, and 1 to 2 for its share of a bucket.
#pragma once

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <vector>

#include "sketch.h"

namespace seed {

struct Arrays {
    std::vector<uint32_t> bucket;
    std::vector<uint64_t> keys;
    std::vector<uint32_t> start;
    std::vector<uint64_t> places;
};

// Sorts (hash, place) pairs into the four arrays; takes the pairs apart.
inline Arrays arrange(std::vector<Pair>&& pairs, int k) {
    if (pairs.size() >= UINT32_MAX) throw std::length_error("seed index: more than 4,294,967,294 minimizers");
    const int bits = std::clamp(int(std::bit_width(pairs.size() / 4)) - 1, 1, std::min(2 * k, 28));
    const size_t buckets = size_t(1) << bits;
    std::vector<uint32_t> edge(buckets + 1, 0);
    for (const Pair& p : pairs) ++edge[(p.x & (buckets - 1)) + 1];
    for (size_t b = 0; b < buckets; ++b) edge[b + 1] += edge[b];
    std::vector<Pair> sorted(pairs.size());
    {
        std::vector<uint32_t> at(edge.begin(), edge.end() - 1);
        for (const Pair& p : pairs) sorted[at[p.x & (buckets - 1)]++] = p;
    }
    pairs.clear();
    pairs.shrink_to_fit();
    Arrays out;
    out.bucket.reserve(buckets + 1);
    out.places.reserve(sorted.size());
    for (size_t b = 0; b < buckets; ++b) {
        out.bucket.push_back(uint32_t(out.keys.size()));
        auto first = sorted.begin() + edge[b], last = sorted.begin() + edge[b + 1];
        std::sort(first, last, [](const Pair& p, const Pair& q) { return p.x != q.x ? p.x < q.x : p.y < q.y; });
        for (auto each = first; each != last; ++each) {
            if (each == first || each->x != out.keys.back()) {
                out.keys.push_back(each->x);
                out.start.push_back(uint32_t(out.places.size()));
            }
            out.places.push_back(each->y);
        }
    }
    out.bucket.push_back(uint32_t(out.keys.size()));
    out.start.push_back(uint32_t(out.places.size()));
    out.keys.shrink_to_fit();
    out.start.shrink_to_fit();
    return out;
}

struct Places {
    const uint64_t* first = nullptr;
    uint32_t n = 0;
};

// A view of the four arrays; they must outlive it.
struct IndexView {
    const uint32_t* bucket;
    const uint64_t* keys;
    const uint32_t* start;
    const uint64_t* places;
    size_t buckets, n_keys, n_places;
    const int32_t* length;  // of each reference sequence
    size_t n_sequences;
    int k, w;
    bool hpc;

    // Null, or what is wrong with the arrays: after this, no look-up can leave them.
    const char* flaw() const {
        if (k < 1 || k > kMaxK || w < 1 || w > 255) return "k must be 1 to 28 and w 1 to 255";
        if (buckets == 0 || !std::has_single_bit(buckets)) return "the number of buckets is no power of two";
        if (bucket[0] != 0 || bucket[buckets] != n_keys) return "buckets do not cover the keys";
        for (size_t b = 0; b < buckets; ++b)
            if (bucket[b] > bucket[b + 1]) return "buckets overlap";
        if (start[0] != 0 || start[n_keys] != n_places) return "keys do not cover the places";
        for (size_t i = 0; i < n_keys; ++i)
            if (start[i] >= start[i + 1]) return "a key has no place";
        for (size_t i = 0; i < n_places; ++i) {
            const uint64_t sequence = places[i] >> 32;
            if (sequence >= n_sequences || int64_t(uint32_t(places[i]) >> 1) >= length[sequence])
                return "a place lies outside its sequence";
        }
        return nullptr;
    }

    // What a look-up will need soon: its bucket, and when that has come, its keys.
    void fetch_bucket(uint64_t hash) const { __builtin_prefetch(bucket + (hash & (buckets - 1))); }
    void fetch_keys(uint64_t hash) const {
        const size_t at = bucket[hash & (buckets - 1)];
        __builtin_prefetch(keys + at);
        __builtin_prefetch(start + at);
    }

    Places find(uint64_t hash) const {
        const size_t b = hash & (buckets - 1);
        const uint64_t *first = keys + bucket[b], *last = keys + bucket[b + 1];
        const uint64_t* at = last - first > 8 ? std::lower_bound(first, last, hash) : first;
        while (at != last && *at < hash) ++at;
        if (at == last || *at != hash) return {};
        const size_t i = size_t(at - keys);
        return {places + start[i], start[i + 1] - start[i]};
    }
};

}  // namespace seed
