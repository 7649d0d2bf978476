// A balanced search tree (keys: shelf.h) that knows the lowest `cost` of every subtree: in the long join it decides
// between equal costs.
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
        double cost, lowest_cost;  // its own; that of `lowest`
        int64_t key;
        int32_t child[2], lowest;
        int8_t balance;
    };

    const Node& operator[](int32_t at) const { return node_[at]; }

    void insert(int64_t key, double cost);  // no two nodes may have the same key
    void erase(int64_t key);                // nothing happens when it is not there
    // The node of lowest cost with low <= key <= high; kNil when there is none.
    int32_t lowest_between(int64_t low, int64_t high) const;

  private:
    static constexpr int kDeepest = 64;
    struct Path {
        int32_t node[kDeepest];
        uint8_t side[kDeepest];
        int length = 0;
        void add(int32_t n, uint8_t s) { node[length] = n, side[length++] = s; }
    };

    int compare(int64_t key, int32_t at) const { return (key > node_[at].key) - (key < node_[at].key); }
    void refresh(int32_t at, int32_t first, int32_t second);
    int32_t rotate_once(int32_t at, int side);
    int32_t rotate_twice(int32_t at, int side);
    void hang(const Path& path, int depth, int32_t at);  // makes `at` the child that the path goes on to
    int32_t take(int64_t key, double cost);
    void unhook(Path& path, int32_t at);
    void rebalance_up(Path& path);

    std::vector<Node> node_;
    std::vector<int32_t> free_;
    int32_t root_ = kNil;
};

}  // namespace chain
