// An in-place radix sort (American flag sort), the one whose order of equal keys minimap2's output depends on.
//
// Digits of 8 bits from the top of a 64-bit key; each pass permutes in cycles, which is not stable; parts of at most
// 64 elements are finished by a stable insertion sort. Any other sort of the same keys is a sort too, but ties come
// out in another order, and with them other anchors head a chain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace seed {

struct Pair {
    uint64_t x, y;
};

inline uint64_t sort_key(const Pair& p) { return p.x; }
inline uint64_t sort_key(uint64_t v) { return v; }

template <class T>
void insertion_sort(T* first, T* last) {
    for (T* next = first + 1; next < last; ++next) {
        const T hand = *next;
        T* hole = next;
        for (; hole > first && sort_key(hand) < sort_key(hole[-1]); --hole) *hole = hole[-1];
        *hole = hand;
    }
}

template <class T>
void flag_sort(T* first, T* last, int shift) {
    constexpr int kDigits = 256;
    constexpr ptrdiff_t kSmall = 64;
    if (last - first <= kSmall) {
        if (last - first > 1) insertion_sort(first, last);
        return;
    }
    auto digit = [shift](const T& v) { return int(sort_key(v) >> shift & (kDigits - 1)); };
    size_t count[kDigits] = {};
    for (T* each = first; each != last; ++each) ++count[digit(*each)];
    T *head[kDigits], *tail[kDigits];  // what of a digit's place is still unsorted
    T* at = first;
    for (int d = 0; d < kDigits; ++d) head[d] = at, tail[d] = at += count[d];
    for (int d = 0; d < kDigits; ++d) {
        while (head[d] != tail[d]) {
            int home = digit(*head[d]);
            if (home == d) {
                ++head[d];
                continue;
            }
            T hand = *head[d];  // follow the cycle that begins here until something comes home
            for (; home != d; home = digit(hand)) std::swap(hand, *head[home]++);
            *head[d]++ = hand;
        }
    }
    if (shift == 0) return;
    for (int d = 0; d < kDigits; ++d) flag_sort(tail[d] - count[d], tail[d], shift - 8);
}

template <class T>
void radix_sort(T* first, T* last) {
    flag_sort(first, last, 56);
}

}  // namespace seed
