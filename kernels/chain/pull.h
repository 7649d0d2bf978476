// The exact loop over predecessors, a vector of V::kLanes of them at a time. Simple parameters, no limit on skips.
//
// Anchors lie in blocks of kLanes. For each block that is whole, bound[b] = max over its j of score(j) + span(j), which
// no gain can exceed; looking backwards, a block whose bound is not above the best score so far cannot change the
// answer (ties go to the nearer anchor, which was looked at before). On a real chain the best score is near the end of
// the window and almost every older block falls away unseen. In repeats, where scores say little, a second test looks
// at 16 bits of each anchor's diagonal (x - y): a block without any near that of i falls away too. Both tests are made
// for a group of kLanes blocks at once. The block that is still growing stays in a register.
//
// Included by files built for one instruction set: no templates of the standard library here, or the linker might
// give their code, built for that set, to everyone.
#pragma once

#include "types.h"

namespace chain {

struct Columns {  // the anchors, one column each, padded to whole vectors
    int32_t *x, *y, *span, *bound, *table;
    int16_t* diagonal;  // x - y in units of kUnit bases, the low 16 bits
    int64_t n;
};

constexpr int kUnitShift = 3, kUnit = 1 << kUnitShift;

static inline int16_t coarse_diagonal(int32_t x, int32_t y) { return int16_t((uint32_t(x) - uint32_t(y)) >> kUnitShift); }

template <class V, bool Prune, bool Capped>
class Pull {
    using I = typename V::I;
    using M = typename V::M;
    static constexpr int kLanes = V::kLanes, kShift = V::kShift;

  public:
    Pull(const Anchor* a, const Columns& c, const Params& q, Scores out) : a_(a), c_(c), q_(q), out_(out) {
        max_q_ = V::all(q.max_dist_x < q.max_dist_y ? q.max_dist_x : q.max_dist_y);
        band_ = V::all(q.bw);
        const int32_t either_side = q.bw / kUnit + 1;
        near_ = either_side < 1 << 14 ? uint16_t(2 * either_side) : UINT16_MAX;  // a very wide band: all are near
        to_edge_ = int16_t(either_side);
    }

    void run() {
        int64_t start = 0, leader = -1;
        I growing = V::all(0);  // scores of the block of i, as far as they are known
        for (int64_t i = 0; i < c_.n; ++i) {
            const int lane = int(i & (kLanes - 1));
            start = window_start(a_, i, start, q_.max_dist_x);
            if (Capped && i - start > q_.max_iter) start = i - q_.max_iter;
            to_x_ = V::all(c_.x[i]), to_y_ = V::all(c_.y[i]);
            best_ = c_.span[i], from_ = -1, least_ = V::all(best_);
            if (lane != 0 && start < i) look(i >> kShift, growing, within(i >> kShift, start, i));
            if (start < (i & ~int64_t(kLanes - 1))) look_back(i, (i >> kShift) - 1, start);
            if (Capped) follow(i, start, leader);
            out_.score[i] = best_, out_.previous[i] = from_;
            fill_peak(out_, i);
            growing = V::put(growing, lane, best_);
            if (lane == kLanes - 1) {
                V::store(out_.score + i - lane, growing);  // whole, so that the next load need not wait for pieces
                c_.bound[i >> kShift] = V::highest(V::add(growing, V::load(c_.span + i - lane)));
            }
        }
    }

  private:
    static M within(int64_t block, int64_t start, int64_t stop) {  // lanes of `block` in [start, stop)
        M lanes = V::kAll;
        if (start > block << kShift) lanes &= V::kAll << int(start - (block << kShift));
        if (stop < (block + 1) << kShift) lanes &= V::kAll >> int(((block + 1) << kShift) - stop);
        return lanes;
    }

    // One vector of predecessors against i: takes the best of those above what is known, the nearest of equals.
    void look(int64_t block, I scores, M lanes) {
        const int64_t at = block << kShift;
        const I dq = V::sub(to_y_, V::load(c_.y + at)), dr = V::sub(to_x_, V::load(c_.x + at));
        const I dd = V::absolute(V::sub(dr, dq));
        M ok = V::positive_up_to(dq, max_q_, V::nonzero(dr, V::not_above(dd, band_, lanes)));
        if (ok == 0) return;
        const I gain = V::smaller(V::load(c_.span + at), V::smaller(dr, dq));
        const I reached = V::sub(V::add(gain, scores), V::lookup(c_.table, dd, ok));
        ok = V::above(reached, least_, ok);
        if (ok == 0) return;
        best_ = V::highest_of(reached, ok);
        least_ = V::all(best_);
        from_ = at + V::last(V::equal(reached, least_, ok));
    }

    void look_back(int64_t i, int64_t block, int64_t start) {  // whole blocks, from the nearest to that of `start`
        const int64_t oldest = start >> kShift;
        if (!Prune) {
            for (; block >= oldest; --block) look(block, V::load(out_.score + (block << kShift)), within(block, start, c_.n));
            return;
        }
        if (c_.bound[block] > best_) look(block, V::load(out_.score + (block << kShift)), within(block, start, c_.n));
        const int16_t edge = int16_t(coarse_diagonal(c_.x[i], c_.y[i]) - to_edge_);
        for (int64_t stop = block; stop > oldest; stop = (stop - 1) & ~int64_t(kLanes - 1)) {  // groups of [.., stop)
            const int64_t group = (stop - 1) >> kShift;
            const I bounds = V::load(c_.bound + (group << kShift));
            M hopeful = V::above(bounds, least_, within(group, oldest, stop));
            if (hopeful == 0) continue;
            hopeful &= V::blocks_near(c_.diagonal + (group << 2 * kShift), edge, near_);
            while (hopeful != 0) {
                const int lane = V::last(hopeful);
                const int64_t each = (group << kShift) + lane;
                look(each, V::load(out_.score + (each << kShift)), within(each, start, c_.n));
                hopeful = V::above(bounds, least_, hopeful & ~(M(1) << lane));
            }
        }
    }

    // Where max_iter cuts the window, the best anchor still in reach is tried too.
    void follow(int64_t i, int64_t start, int64_t& leader) {
        const uint64_t reach = uint64_t(q_.max_dist_x);
        if (leader < 0 || a_[i].x - a_[leader].x > reach) {
            leader = -1;
            int32_t best = INT32_MIN;
            for (int64_t j = i - 1; j >= start; --j)
                if (best < out_.score[j]) best = out_.score[j], leader = j;
        }
        if (leader >= 0 && leader < start - 1) try_one(i, leader);
        if (leader < 0 || (a_[i].x - a_[leader].x <= reach && out_.score[leader] < best_)) leader = i;
    }

    void try_one(int64_t i, int64_t j) {
        const int32_t dq = int32_t(uint32_t(c_.y[i]) - uint32_t(c_.y[j])), dr = int32_t(uint32_t(c_.x[i]) - uint32_t(c_.x[j]));
        if (dq <= 0 || dq > q_.max_dist_x || dq > q_.max_dist_y || dr == 0) return;
        const int32_t dd = dr > dq ? dr - dq : dq - dr, dg = dr < dq ? dr : dq;
        if (dd > q_.bw) return;
        const int32_t reached = (c_.span[j] < dg ? c_.span[j] : dg) - c_.table[dd] + out_.score[j];
        if (best_ < reached) best_ = reached, from_ = j;
    }

    const Anchor* a_;
    Columns c_;
    Params q_;
    Scores out_;
    I max_q_, band_, to_x_, to_y_, least_;
    uint16_t near_;
    int16_t to_edge_;
    int32_t best_ = 0;
    int64_t from_ = -1;
};

template <class V>
void dp_pull(const Anchor* a, int64_t n, const Params& params, Scores out, bool prune) {
    if (n == 0) return;
    const Params q = floored(params);
    const int64_t group = V::kLanes * V::kLanes, whole = (n + group) / group * group;
    Buffer<int32_t> x(whole), y(whole), span(whole), bound(whole / V::kLanes), table(q.bw + 1);
    Buffer<int16_t> diagonal(whole);
    Buffer<int32_t> score(whole);  // the caller's array may be unaligned and ends with the last anchor
    bool capped = false;
    for (int64_t i = 0, start = 0; i < n; ++i) {
        x[i] = pos_x(a[i]), y[i] = pos_y(a[i]), span[i] = span_of(a[i]);
        diagonal[i] = coarse_diagonal(x[i], y[i]);
        start = window_start(a, i, start, q.max_dist_x);
        capped |= i - start > q.max_iter;
    }
    for (int64_t i = n; i < whole; ++i) x[i] = y[i] = span[i] = diagonal[i] = 0;
    std::memset(score.data(), 0, size_t(whole) * sizeof(int32_t));
    std::memset(bound.data(), 0, size_t(whole / V::kLanes) * sizeof(int32_t));
    fill_penalties(q, table.data());
    const Columns c{x.data(), y.data(), span.data(), bound.data(), table.data(), diagonal.data(), n};
    const Scores inner{score.data(), out.previous, out.peak};
    if (prune)
        capped ? Pull<V, true, true>(a, c, q, inner).run() : Pull<V, true, false>(a, c, q, inner).run();
    else
        capped ? Pull<V, false, true>(a, c, q, inner).run() : Pull<V, false, false>(a, c, q, inner).run();
    std::memcpy(out.score, score.data(), size_t(n) * sizeof(int32_t));
}

}  // namespace chain
