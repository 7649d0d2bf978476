// The chaining loop one pair at a time: every rule of minimap2 2.24, any parameters.
//
//   score(i) = max(span(i), max over j of gain(j, i) + score(j)),  j from i-1 back to the start of the window
//
// Ties go to the nearest j. An anchor j that is already the predecessor of one looked at before counts as a skip; more
// than max_skip of them end the search. `leader` is the best anchor still in reach; it is tried when the search ended
// before it.
#include <vector>

#include "types.h"

namespace chain {
namespace {

constexpr int32_t kNone = INT32_MIN;

struct Node {  // 16 bytes: all of a predecessor that the inner loop reads, but for its span
    int32_t x, y, score, previous;
};

// Gain of any parameters: pairs of reads, introns, distance charged.
int32_t gain_any(const Params& q, const Anchor& to, const Anchor& from) {
    const bool same = segment_of(to) == segment_of(from);
    const int32_t dq = int32_t(uint32_t(pos_y(to)) - uint32_t(pos_y(from)));
    if (dq <= 0 || dq > q.max_dist_x) return kNone;
    const int32_t dr = int32_t(uint32_t(to.x - from.x));
    if (same && (dr == 0 || dq > q.max_dist_y)) return kNone;
    const int32_t dd = dr > dq ? dr - dq : dq - dr;
    if (same && dd > q.bw) return kNone;
    if (q.n_seg > 1 && !q.cdna && same && dr > q.max_dist_y) return kNone;
    const int32_t dg = dr < dq ? dr : dq, span = span_of(from);
    int32_t gain = span < dg ? span : dg;
    if (dd == 0 && dg <= span) return gain;
    if (!same && dr == 0) return gain + 1;  // two reads of a pair that overlap
    if (!same || (q.cdna && dr > dq)) {     // an intron or the space within a pair: the cheaper of the two
        const float linear = linear_part(q, dd, dg), log = log_part(dd);
        return gain - int32_t(linear < log ? linear : log);
    }
    return gain - penalty(q, dd, dg);
}

template <bool Simple, bool Skips>
class Loop {
  public:
    Loop(const Anchor* a, int64_t n, const Params& q, Scores out)
        : a_(a), n_(n), q_(q), out_(out), node_(n), span_(n), seen_by_(Skips ? n : 0, 0), table_(q.bw + 1) {
        for (int64_t i = 0; i < n; ++i) {
            node_[i].x = pos_x(a[i]), node_[i].y = pos_y(a[i]);
            span_[i] = uint8_t(span_of(a[i]));
        }
        if (Simple) fill_penalties(q, table_.data());
    }

    void run() {
        int64_t leader = -1, start = 0;
        for (int64_t i = 0; i < n_; ++i) {
            start = window_start(a_, i, start, q_.max_dist_x);
            if (i - start > q_.max_iter) start = i - q_.max_iter;
            int32_t best = span_[i];
            int64_t from = -1;
            const int64_t end = search(i, start, best, from);
            if (leader < 0 || a_[i].x - a_[leader].x > uint64_t(q_.max_dist_x)) leader = best_in(start, i);
            if (leader >= 0 && leader < end) {
                const int32_t gain = gain_of(i, leader);
                if (gain != kNone && best < gain + node_[leader].score) best = gain + node_[leader].score, from = leader;
            }
            node_[i].score = out_.score[i] = best;
            node_[i].previous = int32_t(from);
            out_.previous[i] = from;
            fill_peak(out_, i);
            if (leader < 0 || (a_[i].x - a_[leader].x <= uint64_t(q_.max_dist_x) && node_[leader].score < best)) leader = i;
        }
    }

  private:
    int32_t gain_of(int64_t i, int64_t j) const {
        if (!Simple) return gain_any(q_, a_[i], a_[j]);
        const Node &to = node_[i], &from = node_[j];
        const int32_t dq = int32_t(uint32_t(to.y) - uint32_t(from.y));
        if (dq <= 0 || dq > q_.max_dist_x || dq > q_.max_dist_y) return kNone;
        const int32_t dr = int32_t(uint32_t(to.x) - uint32_t(from.x));
        if (dr == 0) return kNone;
        const int32_t dd = dr > dq ? dr - dq : dq - dr;
        if (dd > q_.bw) return kNone;
        const int32_t dg = dr < dq ? dr : dq, span = span_[j];
        return (span < dg ? span : dg) - table_[dd];
    }

    // Looks from i-1 back to `start`; returns where it ended (start - 1 when it saw all).
    int64_t search(int64_t i, int64_t start, int32_t& best, int64_t& from) {
        int32_t skips = 0;
        int64_t j = i - 1;
        for (; j >= start; --j) {
            int32_t score = gain_of(i, j);
            if (score == kNone) continue;
            score += node_[j].score;
            if (score > best) {
                best = score, from = j;
                if (Skips && skips > 0) --skips;
            } else if (Skips && seen_by_[j] == int32_t(i)) {
                if (++skips > q_.max_skip) break;
            }
            if (Skips && node_[j].previous >= 0) seen_by_[node_[j].previous] = int32_t(i);
        }
        return j;
    }

    int64_t best_in(int64_t start, int64_t i) const {  // the nearest of the best; -1 when there is none
        int32_t best = kNone;
        int64_t at = -1;
        for (int64_t j = i - 1; j >= start; --j)
            if (best < node_[j].score) best = node_[j].score, at = j;
        return at;
    }

    const Anchor* a_;
    int64_t n_;
    Params q_;
    Scores out_;
    Buffer<Node> node_;
    Buffer<uint8_t> span_;
    std::vector<int32_t> seen_by_;  // last i for which j was met as a predecessor
    Buffer<int32_t> table_;
};

}  // namespace

void dp_scalar(const Anchor* a, int64_t n, const Params& params, Scores out) {
    const Params q = floored(params);
    const bool skips = q.max_skip != kUnlimited;
    if (simple(q))
        skips ? Loop<true, true>(a, n, q, out).run() : Loop<true, false>(a, n, q, out).run();
    else
        skips ? Loop<false, true>(a, n, q, out).run() : Loop<false, false>(a, n, q, out).run();
}

}  // namespace chain
