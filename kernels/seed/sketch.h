// Minimizers of a sequence: of every w consecutive k-mers the one of smallest hash, all of them where several tie.
//
// A k-mer and its reverse complement are one: the smaller of the two is hashed, and a k-mer that is its own reverse
// complement has no strand and takes no part. Hashes are a bijection on 2k bits, so that equal hashes are equal
// k-mers. With homopolymer compression a run of one base counts as one base. An ambiguous base ends what came before.
// The order and the edge cases are minimap2's (Li 2016 and 2018; robust winnowing: Schleimer 2003), checked anchor by
// anchor in tests/kernels/test_seed_oracle.py; reference.py says the same in Python.
#pragma once

#include <array>
#include <cstdint>

#include "pair.h"

namespace seed {

constexpr uint64_t kNone = UINT64_MAX;
constexpr int kMaxSpan = 255;  // a span has 8 bits
constexpr int kMaxK = 28;      // 56 bits of k-mer beside them

inline constexpr std::array<uint8_t, 256> kCode = [] {  // A C G T/U -> 0 1 2 3, everything else is ambiguous
    std::array<uint8_t, 256> code{};
    for (auto& c : code) c = 4;
    const char* letters = "AaCcGgTtUu";
    for (int i = 0; letters[i]; ++i) code[uint8_t(letters[i])] = uint8_t(i < 8 ? i / 2 : 3);
    return code;
}();

// Thomas Wang's invertible integer hash, on the bits of `mask`.
inline uint64_t hash_bits(uint64_t v, uint64_t mask) {
    v = (~v + (v << 21)) & mask;
    v ^= v >> 24;
    v = v * 265 & mask;
    v ^= v >> 14;
    v = v * 21 & mask;
    v ^= v >> 28;
    return (v + (v << 31)) & mask;
}

// The last w k-mers, and which of them is the smallest. A minimizer is x = hash << 8 | span,
// y = sequence << 32 | last base << 1 | strand; a place without a k-mer holds kNone.
template <class Emit>
class Window {
  public:
    Window(int w, int k, Emit& emit) : w_(w), full_(w + k - 1), emit_(emit) { slot_.fill(Pair{kNone, kNone}); }

    // `bases` is how many unambiguous bases have come since the last ambiguous one, this one included.
    void push(Pair now, int64_t bases) {
        slot_[at_] = now;
        if (bases == full_ && valid()) ties(at_, false);  // the first full window: older equals were not written yet
        if (now.x <= best_.x) {
            if (bases > full_ && valid()) emit_(best_);
            best_ = now, best_at_ = at_;
        } else if (at_ == best_at_) {  // the smallest has left the window
            if (bases >= full_ && valid()) emit_(best_);
            find();
            if (bases >= full_ && valid()) ties(at_, true);
        }
        at_ = at_ + 1 == w_ ? 0 : at_ + 1;
    }

    void finish() {
        if (valid()) emit_(best_);
    }

  private:
    bool valid() const { return best_.x != kNone; }
    void find() {  // the newest of the smallest
        best_.x = kNone;
        for (int n = 1, j = at_; n <= w_; ++n) {
            j = j + 1 == w_ ? 0 : j + 1;  // oldest first, `at_` last
            if (slot_[j].x <= best_.x) best_ = slot_[j], best_at_ = j;
        }
    }
    void ties(int newest, bool with_newest) {
        for (int n = 1, j = newest; n < w_ + int(with_newest); ++n) {
            j = j + 1 == w_ ? 0 : j + 1;
            if (slot_[j].x == best_.x && slot_[j].y != best_.y) emit_(slot_[j]);
        }
    }

    std::array<Pair, 256> slot_;
    Pair best_{kNone, kNone};
    int w_, at_ = 0, best_at_ = 0;
    int64_t full_;
    Emit& emit_;
};

// Length in bases of the last k runs.
class RunSpan {
  public:
    void clear() { count_ = first_ = sum_ = 0; }
    int64_t push(int64_t run, int k) {
        ring_[(first_ + count_++) & 31] = run;
        sum_ += run;
        if (count_ > k) {
            sum_ -= ring_[first_];
            first_ = (first_ + 1) & 31;
            --count_;
        }
        return sum_;
    }

  private:
    std::array<int64_t, 32> ring_{};
    int count_ = 0, first_ = 0;
    int64_t sum_ = 0;
};

// Calls emit(Pair) for each minimizer of bases[0, n). 0 < w < 256, 0 < k <= 28, n < 2^31.
template <class Emit>
void sketch(const uint8_t* bases, int64_t n, int k, int w, bool hpc, uint32_t sequence, Emit&& emit) {
    const int top = 2 * (k - 1);
    const uint64_t mask = (uint64_t(1) << 2 * k) - 1;
    uint64_t forward = 0, reverse = 0;
    int64_t filled = 0, span = k;
    RunSpan runs;
    Window window(w, k, emit);
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t code = kCode[bases[i]];
        Pair now{kNone, kNone};
        if (code < 4) {
            if (hpc) {
                int64_t run = 1;
                while (i + 1 < n && kCode[bases[i + 1]] == code) ++run, ++i;  // i: last base of the run
                span = runs.push(run, k);
            }
            forward = (forward << 2 | code) & mask;
            reverse = reverse >> 2 | (3 - code) << top;
            if (forward == reverse) continue;
            if (++filled >= k && span <= kMaxSpan) {
                const bool strand = reverse < forward;
                now.x = hash_bits(strand ? reverse : forward, mask) << 8 | uint64_t(span);
                now.y = uint64_t(sequence) << 32 | uint64_t(i) << 1 | uint64_t(strand);
            }
        } else {
            filled = 0;
            runs.clear();
        }
        window.push(now, filled);
    }
    window.finish();
}

}  // namespace seed
