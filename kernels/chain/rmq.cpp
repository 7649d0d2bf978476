// minimap2's mg_lchain_rmq: linear gaps by range query, nearby anchors one by one.
//
// For anchor i, of all j within max_dist that lie before it on the read, the one of lowest
// -(score(j) + gap/2 * (x(j) + y(j))) is tried; that is the best one when only the gap is charged. Then, unless that
// one continues i without a gap, those within inner_dist are tried one by one, nearest on the read first, since there
// the logarithm of the gap counts.
//
// Anchors in reach lie on a shelf. minimap2 keeps them in a balanced tree, whose shape decides between equal costs:
// where the shelf says that costs are equal, such a tree is brought up to date and asked.
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
    Join(const Anchor* a, int64_t n, JoinParams q, Scores out, bool by_tree)
        : a_(a), n_(n), q_(q), out_(out), by_tree_(by_tree), seen_by_(n, 0),
          tabled_(q.skip == 0.0f ? std::min(q.bw, 1023) : -1), table_(tabled_ + 1) {
        if (q_.max_dist < q_.bw) q_.max_dist = q_.bw;
        if (q_.inner_dist >= q_.max_dist) q_.inner_dist = 0;
        costs_.gap = q_.gap, costs_.skip = q_.skip, costs_.bw = tabled_;
        fill_penalties(costs_, table_.data());
    }

    void run() {
        for (int64_t i = 0; i < n_; ++i) {
            take_in(i);
            best_ = span_of(a_[i]), from_ = -1;
            const int32_t y = pos_y(a_[i]);
            const int64_t j = lowest_before(i, y);
            if (j >= 0) {
                const Gain gain = gain_of(a_[i], a_[j]);
                const int32_t score = gain.score + out_.score[j];
                if (gain.width <= q_.bw && score > best_) best_ = score, from_ = j;
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

    struct Seen {  // anchors in reach when i is looked at: those from `start` up to `admitted`
        int64_t i, admitted, start;
        int64_t left() const { return admitted - start; }
    };

    // Anchors of one position become predecessors together, when the next one is met.
    template <class Add>
    void admit(int64_t i, int64_t& admitted, Add add) const {
        if (admitted == i || a_[admitted].x == a_[i].x) return;
        for (; admitted < i; ++admitted) add(admitted);
    }

    void retire(Seen& seen, int32_t reach) const {
        const uint64_t x = a_[seen.i].x;
        for (; seen.start < seen.admitted; ++seen.start) {
            const uint64_t oldest = a_[seen.start].x;
            if (x >> 32 == oldest >> 32 && x <= oldest + uint64_t(reach) && seen.left() <= q_.size_cap) return;
        }
    }

    int64_t key(int64_t j) const { return key_of(pos_y(a_[j]), int32_t(j)); }

    double cost_of(int64_t j) const {
        const int32_t along = int32_t(uint32_t(pos_x(a_[j])) + uint32_t(pos_y(a_[j])));
        return -(out_.score[j] + 0.5 * q_.gap * along);
    }

    void take_in(int64_t i) {  // brings both shelves up to i
        admit(i, wide_seen_.admitted, [this](int64_t j) {
            const double cost = cost_of(j);
            wide_.insert(key(j), cost);
            if (q_.inner_dist > 0) near_.insert(key(j), cost);
        });
        wide_seen_.i = near_seen_.i = i;
        retire(wide_seen_, q_.max_dist);
        wide_.retire(int32_t(wide_seen_.start), wide_seen_.left());
        if (wide_seen_.left() == 0) empty_ = wide_seen_;
        if (q_.inner_dist == 0) return;
        near_seen_.admitted = wide_seen_.admitted;
        retire(near_seen_, q_.inner_dist);
        near_.retire(int32_t(near_seen_.start), near_seen_.left());
    }

    // The anchor of lowest cost before y; of equal ones the one that minimap2's tree gives. -1: none.
    int64_t lowest_before(int64_t i, int32_t y) {
        const int64_t low = key_of(y - q_.max_dist, INT32_MAX), high = key_of(y, 0);
        const Shelf::Found found = wide_.lowest_between(low, high);
        if (found.index < 0 || !(found.tied || by_tree_)) return found.index;
        bring_tree_to(i);
        return index_of(tree_[tree_.lowest_between(low, high)].key);
    }

    void bring_tree_to(int64_t i) {  // from the last moment at which nothing was in reach
        if (tree_seen_.i < empty_.i) tree_ = Tree(), tree_seen_ = empty_;
        while (tree_seen_.i < i) {
            ++tree_seen_.i;
            admit(tree_seen_.i, tree_seen_.admitted, [this](int64_t j) { tree_.insert(key(j), cost_of(j)); });
            int64_t j = tree_seen_.start;
            retire(tree_seen_, q_.max_dist);
            for (; j < tree_seen_.start; ++j) tree_.erase(key(j));
        }
    }

    void try_near(int64_t i, int32_t y) {
        int32_t skips = 0;
        const int64_t furthest = key_of(y - q_.inner_dist, 0);
        near_.walk_down(key_of(y, 0), [&](int64_t each) {
            if (each < furthest) return false;
            const int64_t j = index_of(each);
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
    bool by_tree_;
    std::vector<int64_t> seen_by_;
    int32_t tabled_;  // gaps up to this one are in the table: those of anchors tried one by one
    Buffer<int32_t> table_;
    Shelf wide_, near_;
    Tree tree_;  // asked where costs are equal, and only then brought up to date
    Seen wide_seen_{-1, 0, 0}, near_seen_{-1, 0, 0}, tree_seen_{-1, 0, 0}, empty_{-1, 0, 0};
    int32_t best_ = 0;
    int64_t from_ = -1;
};

}  // namespace

void dp_rmq(const Anchor* a, int64_t n, const JoinParams& params, Scores out, bool by_tree) {
    Join(a, n, params, out, by_tree).run();
}

}  // namespace chain
