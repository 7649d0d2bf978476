// The unstable sort whose order of equal keys decides which chain takes a shared anchor.
//
// An in-place most-significant-digit radix sort over bytes from bit 56 down ("American flag"): items are carried to
// the next free place of their bucket, cycle by cycle, buckets in ascending order. Pieces of at most 64 items are
// finished by a stable insertion sort. Both the byte order and the cycle order are part of the contract: minimap2 sorts
// this way, and backtracking walks equal scores in the order that the sort leaves.
#pragma once

#include "types.h"

namespace chain {

struct Item {
    uint64_t key, value;
};

namespace sorting {

constexpr int64_t kSmall = 64;
constexpr int kBuckets = 256;

template <class T, class Key>
void insertion(T* items, int64_t n, Key key) {
    for (int64_t i = 1; i < n; ++i) {
        const T moved = items[i];
        int64_t hole = i;
        while (hole > 0 && key(moved) < key(items[hole - 1])) items[hole] = items[hole - 1], --hole;
        items[hole] = moved;
    }
}

template <class T, class Key>
void flag(T* items, int64_t n, int shift, Key key) {
    int64_t begin[kBuckets], next[kBuckets], end[kBuckets] = {};
    const auto bucket = [&](const T& item) { return int(key(item) >> shift & (kBuckets - 1)); };
    for (int64_t i = 0; i < n; ++i) ++end[bucket(items[i])];
    for (int64_t b = 0, sum = 0; b < kBuckets; ++b) {
        begin[b] = next[b] = sum;
        sum += end[b];
        end[b] = sum;
    }
    for (int home = 0; home < kBuckets; ++home)
        while (next[home] != end[home]) {
            T carried = items[next[home]];
            for (int b = bucket(carried); b != home; b = bucket(carried)) {  // put down, pick up what lay there
                const T lay_there = items[next[b]];
                items[next[b]++] = carried;
                carried = lay_there;
            }
            items[next[home]++] = carried;
        }
    if (shift == 0) return;
    for (int b = 0; b < kBuckets; ++b) {
        const int64_t size = end[b] - begin[b];
        if (size > kSmall)
            flag(items + begin[b], size, shift - 8, key);
        else if (size > 1)
            insertion(items + begin[b], size, key);
    }
}

}  // namespace sorting

template <class T, class Key>
void unstable_sort(T* items, int64_t n, Key key) {
    if (n <= sorting::kSmall)
        sorting::insertion(items, n, key);
    else
        sorting::flag(items, n, 56, key);
}

}  // namespace chain
