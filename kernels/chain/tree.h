// A balanced search tree by (y, i) that knows the lowest `cost` of every subtree: the range query of the long join.
//
// Of nodes with equal cost the answer depends on the shape of the tree and on when each subtree's lowest was last
// worked out, so both are part of the contract (minimap2's krmq): AVL insertion and deletion; after an insertion the
// lowest is worked out upwards only as far as the new node is it; a node that a rotation lifts takes over the lowest of
// the one it replaces.
#pragma once

#include <cstdint>
#include <vector>

namespace chain {

class Tree {
  public:
    static constexpr int32_t kNil = -1;
    struct Node {
        int64_t i;
        double cost;
        int32_t y;
        int32_t child[2], lowest;
        int32_t size;
        int8_t balance;
    };

    int32_t size() const { return root_ == kNil ? 0 : node_[root_].size; }
    bool empty() const { return root_ == kNil; }
    const Node& operator[](int32_t at) const { return node_[at]; }

    void insert(int32_t y, int64_t i, double cost);  // no two nodes may have the same (y, i)
    void erase(int32_t y, int64_t i);                // nothing happens when it is not there
    // The node of lowest cost with (low_y, low_i) <= (y, i) <= (high_y, high_i); kNil when there is none.
    int32_t lowest_between(int32_t low_y, int64_t low_i, int32_t high_y, int64_t high_i) const;
    // Calls visit(node) from the last node before (y, i) downwards until it returns false.
    template <class Visit>
    void walk_down(int32_t y, int64_t i, Visit visit) const;

  private:
    static constexpr int kDeepest = 64;
    struct Path {
        int32_t node[kDeepest];
        uint8_t side[kDeepest];
        int length = 0;
        void add(int32_t n, uint8_t s) { node[length] = n, side[length++] = s; }
    };

    int compare(int32_t y, int64_t i, int32_t at) const {
        const Node& n = node_[at];
        if (y != n.y) return y < n.y ? -1 : 1;
        return (i > n.i) - (i < n.i);
    }
    int32_t size_of(int32_t at) const { return at == kNil ? 0 : node_[at].size; }
    void refresh(int32_t at, int32_t first, int32_t second);
    int32_t rotate_once(int32_t at, int side);
    int32_t rotate_twice(int32_t at, int side);
    void hang(const Path& path, int depth, int32_t at);  // makes `at` the child that the path goes on to
    int32_t take(int32_t y, int64_t i, double cost);
    void unhook(Path& path, int32_t at);
    void rebalance_up(Path& path);

    std::vector<Node> node_;
    std::vector<int32_t> free_;
    int32_t root_ = kNil;
};

template <class Visit>
void Tree::walk_down(int32_t y, int64_t i, Visit visit) const {
    int32_t stack[kDeepest];
    int depth = 0, last = 0;  // `last`: depth of the deepest node before (y, i)
    for (int32_t at = root_; at != kNil;) {
        stack[depth++] = at;
        const bool before = compare(y, i, at) > 0;
        if (before) last = depth;
        at = node_[at].child[before];
    }
    for (depth = last; depth > 0;) {
        const int32_t at = stack[depth - 1];
        if (!visit(node_[at])) return;
        int32_t below = node_[at].child[0];
        if (below != kNil) {
            for (; below != kNil; below = node_[below].child[1]) stack[depth++] = below;
            continue;
        }
        int32_t came_from;  // up, until from the right
        do came_from = stack[--depth];
        while (depth > 0 && node_[stack[depth - 1]].child[0] == came_from);
    }
}

}  // namespace chain
