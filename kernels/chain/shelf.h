// Anchors in reach, by position on the read, and the lowest cost between two positions: what the long join asks for.
//
// Keys lie in ascending order in pieces of bounded size, each of which knows its lowest cost. Most of what a query is
// about lies in whole pieces, and in the two at the ends the lowest is mostly within, so that a query reads little more
// than one number a piece. Anchors leave in the order of their indices. They are not looked for then: what has left is
// passed over, and swept out when it is more than what is there.
//
// Where two keys share the lowest cost, which one it is to be is not for this file to say: it tells that they do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace chain {

// By position on the read, then by index (not negative).
static inline int64_t key_of(int32_t y, int32_t index) { return int64_t(y) * (int64_t(1) << 32) + index; }
static inline int32_t index_of(int64_t key) { return int32_t(uint32_t(uint64_t(key))); }

class Shelf {
  public:
    struct Found {
        int32_t index;  // -1: none
        bool tied;      // another has the same cost
    };

    // Everything with an index below `oldest` is gone; `left` are there.
    void retire(int32_t oldest, int64_t left) {
        oldest_ = oldest;
        if (held_ > 2 * left + 4 * kMost || (left == 0 && held_ > 0)) sweep();
    }

    void insert(int64_t key, double cost) {  // not twice
        ++held_;
        size_t at = pieces_.empty() ? add_piece(0, INT64_MIN) : piece_of(key);
        if (pieces_[at]->count == kMost) at = make_room(at, key);
        Piece& piece = *pieces_[at];
        const bool last = piece.count == 0 || piece.keys[piece.count - 1] < key;
        const int place = last ? piece.count : below(piece.keys, piece.count, key);
        std::copy_backward(piece.keys + place, piece.keys + piece.count, piece.keys + piece.count + 1);
        std::copy_backward(piece.costs + place, piece.costs + piece.count, piece.costs + piece.count + 1);
        piece.keys[place] = key, piece.costs[place] = cost;
        ++piece.count;
        if (cost == lowest_[at]) piece.tied = true;
        if (cost < lowest_[at]) {
            lowest_[at] = cost, piece.lowest_key = key, piece.tied = false;
            if (cost < lowest_of_group_[at / kGroup]) lowest_of_group_[at / kGroup] = cost;
        }
    }

    Found lowest_between(int64_t low, int64_t high) {  // both ends are within
        Best best;
        if (pieces_.empty()) return {-1, false};
        const size_t first = piece_of(low), last = piece_of(high);
        offer_end(last, low, high, best);
        for (size_t stop = last; stop > first + 1;) {  // downwards: the lowest is mostly near
            const size_t at = stop - 1;
            if (stop % kGroup == 0 && stop >= first + 1 + kGroup && lowest_of_group_[at / kGroup] > best.cost) {
                stop -= kGroup;
                continue;
            }
            if (!(lowest_[at] > best.cost)) offer_whole(at, best);
            stop = at;
        }
        if (last != first) offer_end(first, low, high, best);
        return {best.some ? index_of(best.key) : -1, best.tied};
    }

    // Calls visit(index, y) from the last key below `from` downwards until it returns false.
    template <class Visit>
    void walk_down(int64_t from, Visit visit) const {
        if (pieces_.empty()) return;
        size_t at = piece_of(from);
        for (int place = below(pieces_[at]->keys, pieces_[at]->count, from);; place = pieces_[at]->count) {
            while (place > 0) {
                const int64_t key = pieces_[at]->keys[--place];
                if (index_of(key) >= oldest_ && !visit(key)) return;
            }
            if (at-- == 0) return;
        }
    }

  private:
    static constexpr int kMost = 128;      // keys of a piece
    static constexpr size_t kGroup = 32;  // pieces of a group
    struct Piece {
        int64_t keys[kMost];
        double costs[kMost];
        int64_t lowest_key = 0;
        int count = 0;
        bool tied = false;
    };
    struct Best {
        double cost = std::numeric_limits<double>::infinity();
        int64_t key = 0;
        bool tied = false, some = false;
        void offer(double other, int64_t its_key, bool its_tied) {
            if (other < cost)
                cost = other, key = its_key, tied = its_tied, some = true;
            else if (other == cost)
                tied = true;
        }
    };

    static int below(const int64_t* keys, int n, int64_t key) {  // how many of them are; no jump depends on a key
        const int64_t* at = keys;
        for (; n > 16; n -= n / 2) at += n / 2 & -int(at[n / 2 - 1] < key);
        int count = int(at - keys);
        for (int k = 0; k < n; ++k) count += at[k] < key;
        return count;
    }

    size_t piece_of(int64_t key) const { return size_t(below(from_.data(), int(from_.size()), key + 1) - 1); }

    Best best_of(const Piece& piece, int begin, int end) const {
        Best best;
        for (int k = begin; k < end; ++k)
            if (!(piece.costs[k] > best.cost) && index_of(piece.keys[k]) >= oldest_)
                best.offer(piece.costs[k], piece.keys[k], false);
        return best;
    }

    void offer_whole(size_t at, Best& best) {
        Piece& piece = *pieces_[at];
        if (piece.tied || index_of(piece.lowest_key) < oldest_) weigh(at);
        if (piece.count > 0) best.offer(lowest_[at], piece.lowest_key, piece.tied);
    }

    void offer_end(size_t at, int64_t low, int64_t high, Best& best) {  // a piece of which a part may be outside
        if (lowest_[at] > best.cost) return;
        Piece& piece = *pieces_[at];
        if (piece.tied || index_of(piece.lowest_key) < oldest_) weigh(at);
        if (piece.count == 0 || lowest_[at] > best.cost) return;
        if (!piece.tied && piece.lowest_key >= low && piece.lowest_key <= high)
            return best.offer(lowest_[at], piece.lowest_key, false);
        const Best part = best_of(piece, below(piece.keys, piece.count, low), below(piece.keys, piece.count, high + 1));
        if (part.some) best.offer(part.cost, part.key, part.tied);
    }

    void weigh(size_t at) {  // drops what is gone from a piece, and finds its lowest
        Piece& piece = *pieces_[at];
        int kept = 0;
        for (int k = 0; k < piece.count; ++k) {
            piece.keys[kept] = piece.keys[k], piece.costs[kept] = piece.costs[k];
            kept += index_of(piece.keys[k]) >= oldest_;
        }
        held_ -= piece.count - kept;
        piece.count = kept;
        const Best best = best_of(piece, 0, kept);
        lowest_[at] = best.cost, piece.lowest_key = best.key, piece.tied = best.tied;
        weigh_group(at / kGroup);
    }

    void weigh_group(size_t group) {
        const auto first = lowest_.begin() + int64_t(group * kGroup);
        lowest_of_group_[group] = *std::min_element(first, first + int64_t(std::min(kGroup, lowest_.size() - group * kGroup)));
    }

    void weigh_groups(size_t first) {  // when pieces have moved
        lowest_of_group_.resize((lowest_.size() + kGroup - 1) / kGroup);
        for (size_t group = first; group < lowest_of_group_.size(); ++group) weigh_group(group);
    }

    size_t add_piece(size_t at, int64_t from) {
        if (spare_.empty()) spare_.push_back(std::make_unique<Piece>());
        pieces_.insert(pieces_.begin() + int64_t(at), std::move(spare_.back()));
        spare_.pop_back();
        pieces_[at]->count = 0, pieces_[at]->tied = false;
        from_.insert(from_.begin() + int64_t(at), from);
        lowest_.insert(lowest_.begin() + int64_t(at), std::numeric_limits<double>::infinity());
        weigh_groups(at / kGroup);
        return at;
    }

    size_t make_room(size_t at, int64_t key) {  // in a full piece; returns the one that `key` belongs to
        weigh(at);
        Piece& lower = *pieces_[at];
        if (lower.count < kMost * 3 / 4) return at;
        const bool last = at + 1 == pieces_.size() && lower.keys[lower.count - 1] < key;  // as along a chain
        if (last) return add_piece(at + 1, key);
        const int half = lower.count / 2;
        const int64_t from = lower.keys[half];
        Piece& upper = *pieces_[add_piece(at + 1, from)];
        std::copy(lower.keys + half, lower.keys + lower.count, upper.keys);
        std::copy(lower.costs + half, lower.costs + lower.count, upper.costs);
        upper.count = lower.count - half, lower.count = half;
        weigh(at), weigh(at + 1);
        return at + (key >= from);
    }

    void sweep() {  // drops all that is gone, and joins pieces that have become small
        size_t kept = 0;
        for (size_t at = 0; at < pieces_.size(); ++at) {
            weigh(at);
            Piece& piece = *pieces_[at];
            if (kept > 0 && pieces_[kept - 1]->count + piece.count <= kMost * 3 / 4) {
                Piece& lower = *pieces_[kept - 1];
                std::copy(piece.keys, piece.keys + piece.count, lower.keys + lower.count);
                std::copy(piece.costs, piece.costs + piece.count, lower.costs + lower.count);
                lower.count += piece.count;
                weigh(kept - 1);
                continue;
            }
            std::swap(pieces_[kept], pieces_[at]);
            lowest_[kept] = lowest_[at], from_[kept] = kept == 0 ? INT64_MIN : from_[at];
            ++kept;
        }
        if (held_ == 0) kept = 0;
        for (size_t at = kept; at < pieces_.size(); ++at) spare_.push_back(std::move(pieces_[at]));
        pieces_.resize(kept), lowest_.resize(kept), from_.resize(kept);
        weigh_groups(0);
    }

    std::vector<std::unique_ptr<Piece>> pieces_, spare_;
    std::vector<int64_t> from_;   // keys of a piece are not below; of the first: any
    // Of each piece; may be of one that is gone, but is never above what is there. And of each group of pieces.
    std::vector<double> lowest_, lowest_of_group_;
    int64_t held_ = 0;            // keys in pieces, those that are gone included
    int32_t oldest_ = 0;
};

}  // namespace chain
