// Keys in ascending order, in pieces of bounded size: quick to walk, and no insertion moves more than one piece.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace chain {

class Shelf {
  public:
    struct Key {
        int32_t y, i;
        bool operator<(const Key& other) const { return y != other.y ? y < other.y : i < other.i; }
    };

    int32_t size() const { return size_; }

    void insert(Key key) {  // not twice
        ++size_;
        if (pieces_.empty()) pieces_.push_back(std::make_unique<Piece>());
        size_t at = piece_of(key);
        if (pieces_[at]->count == kMost) {
            auto upper = std::make_unique<Piece>();
            Piece& lower = *pieces_[at];
            std::copy(lower.keys + kMost / 2, lower.keys + kMost, upper->keys);
            lower.count = upper->count = kMost / 2;
            const bool above = !(key < upper->keys[0]);
            pieces_.insert(pieces_.begin() + int64_t(at) + 1, std::move(upper));
            at += above;
        }
        Piece& piece = *pieces_[at];
        Key* place = std::lower_bound(piece.keys, piece.keys + piece.count, key);
        std::copy_backward(place, piece.keys + piece.count, piece.keys + piece.count + 1);
        *place = key;
        ++piece.count;
    }

    void erase(Key key) {  // nothing happens when it is not there
        if (pieces_.empty()) return;
        const size_t at = piece_of(key);
        Piece& piece = *pieces_[at];
        Key* end = piece.keys + piece.count;
        Key* place = std::lower_bound(piece.keys, end, key);
        if (place == end || key < *place) return;
        std::copy(place + 1, end, place);
        --size_;
        if (--piece.count == 0) pieces_.erase(pieces_.begin() + int64_t(at));
    }

    // Calls visit(key) from the last key before `from` downwards until it returns false.
    template <class Visit>
    void walk_down(Key from, Visit visit) const {
        if (pieces_.empty()) return;
        size_t at = piece_of(from);
        const Key* place = std::lower_bound(pieces_[at]->keys, pieces_[at]->keys + pieces_[at]->count, from);
        for (;; --at, place = pieces_[at]->keys + pieces_[at]->count) {
            while (place != pieces_[at]->keys)
                if (!visit(*--place)) return;
            if (at == 0) return;
        }
    }

  private:
    static constexpr int kMost = 256;
    struct Piece {
        Key keys[kMost];
        int count = 0;
    };

    size_t piece_of(Key key) const {  // the last piece that does not begin after `key`
        const auto after = [](const Key& k, const std::unique_ptr<Piece>& piece) { return k < piece->keys[0]; };
        const auto next = std::upper_bound(pieces_.begin(), pieces_.end(), key, after);
        return next == pieces_.begin() ? 0 : size_t(next - pieces_.begin() - 1);
    }

    std::vector<std::unique_ptr<Piece>> pieces_;  // none is empty
    int32_t size_ = 0;
};

}  // namespace chain
