// minimap2's mg_lchain_rmq: linear gaps by range query, nearby anchors one by one.
//
// For anchor i, of all j within max_dist that lie before it on the read, the one of lowest
// -(score(j) + gap/2 * (x(j) + y(j))) is tried; that is the best one when only the gap is charged. Then, unless that
// one continues i without a gap, those within inner_dist are tried one by one, nearest on the read first, since there
// the logarithm of the gap counts.
#include "rmq.h"

#include <algorithm>
#include <vector>

#include "shelf.h"
#include "tree.h"

namespace chain {
namespace {

struct Gain {
    int32_t score, width;
    bool seamless;  // no gap and overlapping or touching seeds
};

class Join {
  public:
    Join(const Anchor* a, int64_t n, JoinParams q, Scores out)
        : a_(a), n_(n), q_(q), out_(out), seen_by_(n, 0),
          tabled_(q.skip == 0.0f ? std::min(q.bw, 1023) : -1), table_(tabled_ + 1) {
        if (q_.max_dist < q_.bw) q_.max_dist = q_.bw;
        if (q_.inner_dist >= q_.max_dist) q_.inner_dist = 0;
        costs_.gap = q_.gap, costs_.skip = q_.skip, costs_.bw = tabled_;
        fill_penalties(costs_, table_.data());
    }

    void run() {
        for (int64_t i = 0; i < n_; ++i) {
            admit_before(i);
            retire(wide_, i, wide_start_, q_.max_dist);
            if (q_.inner_dist > 0) retire(near_, i, near_start_, q_.inner_dist);
            best_ = span_of(a_[i]), from_ = -1;
            const int32_t y = pos_y(a_[i]);
            const int32_t at = wide_.lowest_between({y - q_.max_dist, INT32_MAX}, {y, 0});
            if (at != Tree::kNil) {
                const int64_t j = wide_[at].key.i;
                const Gain gain = gain_of(a_[i], a_[j]);
                if (gain.width <= q_.bw && gain.score + out_.score[j] > best_) best_ = gain.score + out_.score[j], from_ = j;
                if (!gain.seamless && y > 0) try_near(i, y);
            }
            out_.score[i] = best_, out_.previous[i] = from_;
            fill_peak(out_, i);
        }
    }

  private:
    Gain gain_of(const Anchor& to, const Anchor& from) const {
        const int32_t dq = int32_t(uint32_t(pos_y(to)) - uint32_t(pos_y(from)));
        const int32_t dr = int32_t(uint32_t(to.x - from.x));
        const int32_t dd = dr > dq ? dr - dq : dq - dr, dg = dr < dq ? dr : dq, span = span_of(from);
        int32_t score = span < dg ? span : dg;
        if (dd <= q_.bw && (dd != 0 || dq > span))  // beyond the band nobody asks
            score -= dd <= tabled_ ? table_[dd] : penalty(costs_, dd, dg);
        return {score, dd, dd == 0 && dg <= span};
    }

    void admit_before(int64_t i) {  // anchors of one position become predecessors together, when the next one is met
        if (admitted_ == i || a_[admitted_].x == a_[i].x) return;
        for (int64_t j = admitted_; j < i; ++j) {
            const int32_t along = int32_t(uint32_t(pos_x(a_[j])) + uint32_t(pos_y(a_[j])));
            const double cost = -(out_.score[j] + 0.5 * q_.gap * along);
            wide_.insert({pos_y(a_[j]), int32_t(j)}, cost);
            if (q_.inner_dist > 0) near_.insert({pos_y(a_[j]), int32_t(j)});
        }
        admitted_ = i;
    }

    template <class Set>
    void retire(Set& set, int64_t i, int64_t& start, int32_t reach) {
        for (; start < i; ++start) {
            const bool within = a_[i].x >> 32 == a_[start].x >> 32 && a_[i].x <= a_[start].x + uint64_t(reach);
            if (within && set.size() <= q_.size_cap) return;
            set.erase({pos_y(a_[start]), int32_t(start)});
        }
    }

    void try_near(int64_t i, int32_t y) {
        int32_t skips = 0;
        near_.walk_down({y - 1, INT32_MAX}, [&](const Shelf::Key& key) {
            if (key.y < y - q_.inner_dist) return false;
            const int64_t j = key.i;
            const Gain gain = gain_of(a_[i], a_[j]);
            if (gain.width > q_.bw) return true;
            if (gain.score + out_.score[j] > best_) {
                best_ = gain.score + out_.score[j], from_ = j;
                if (skips > 0) --skips;
            } else if (seen_by_[j] == i && ++skips > q_.max_skip) {
                return false;
            }
            if (out_.previous[j] >= 0) seen_by_[out_.previous[j]] = i;
            return true;
        });
    }

    const Anchor* a_;
    int64_t n_;
    JoinParams q_;
    Params costs_{};
    Scores out_;
    std::vector<int64_t> seen_by_;
    int32_t tabled_;  // gaps up to this one are in the table: those of anchors tried one by one
    Buffer<int32_t> table_;
    Tree wide_;
    Shelf near_;
    int64_t admitted_ = 0, wide_start_ = 0, near_start_ = 0;
    int32_t best_ = 0;
    int64_t from_ = -1;
};

}  // namespace

void dp_rmq(const Anchor* a, int64_t n, const JoinParams& params, Scores out) { Join(a, n, params, out).run(); }

}  // namespace chain
