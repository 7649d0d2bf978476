#include "tree.h"

namespace chain {

// Of equals the lowest of the second subtree is taken, then that of the first, then the node itself.
void Tree::refresh(int32_t at, int32_t first, int32_t second) {
    Node& n = node_[at];
    n.lowest = at, n.lowest_cost = n.cost;
    for (const int32_t below : {first, second})
        if (below != kNil && !(n.lowest_cost < node_[below].lowest_cost))
            n.lowest = node_[below].lowest, n.lowest_cost = node_[below].lowest_cost;
}

// The child opposite to `side` comes up, `at` goes down to `side`. Returns the one that came up.
int32_t Tree::rotate_once(int32_t at, int side) {
    const int32_t up = node_[at].child[1 - side], moved = node_[up].child[side], lowest = node_[at].lowest;
    const double lowest_cost = node_[at].lowest_cost;
    refresh(at, node_[at].child[side], moved);
    node_[up].lowest = lowest, node_[up].lowest_cost = lowest_cost;
    node_[at].child[1 - side] = moved;
    node_[up].child[side] = at;
    return up;
}

// The grandchild on the inside comes up between `at` and its child.
int32_t Tree::rotate_twice(int32_t at, int side) {
    const int other = 1 - side;
    const int32_t outer = node_[at].child[other], up = node_[outer].child[side], lowest = node_[at].lowest;
    const double lowest_cost = node_[at].lowest_cost;
    const int32_t to_at = node_[up].child[side], to_outer = node_[up].child[other];
    refresh(at, node_[at].child[side], to_at);
    refresh(outer, node_[outer].child[other], to_outer);
    node_[up].lowest = lowest, node_[up].lowest_cost = lowest_cost;
    node_[at].child[other] = to_at;
    node_[outer].child[side] = to_outer;
    node_[up].child[side] = at;
    node_[up].child[other] = outer;
    const int8_t heavy = side == 0 ? 1 : -1;  // the side that was too deep
    node_[at].balance = node_[up].balance == heavy ? int8_t(-heavy) : int8_t(0);
    node_[outer].balance = node_[up].balance == int8_t(-heavy) ? heavy : int8_t(0);
    node_[up].balance = 0;
    return up;
}

void Tree::hang(const Path& path, int depth, int32_t at) {
    if (depth < 0)
        root_ = at;
    else
        node_[path.node[depth]].child[path.side[depth]] = at;
}

int32_t Tree::take(int64_t key, double cost) {
    int32_t at;
    if (free_.empty())
        at = int32_t(node_.size()), node_.emplace_back();
    else
        at = free_.back(), free_.pop_back();
    node_[at] = {cost, cost, key, {kNil, kNil}, at, 0};
    return at;
}

void Tree::insert(int64_t key, double cost) {
    Path path;
    int pivot = 0;  // depth of the deepest node on the way that is out of balance
    for (int32_t at = root_; at != kNil;) {
        const uint8_t side = compare(key, at) > 0;
        if (node_[at].balance != 0) pivot = path.length;
        path.add(at, side);
        at = node_[at].child[side];
    }
    const int32_t added = take(key, cost);
    hang(path, path.length - 1, added);
    if (path.length == 0) return;
    for (int d = path.length - 1; d >= 0; --d) {
        const int32_t at = path.node[d];
        refresh(at, node_[at].child[0], node_[at].child[1]);
        if (node_[at].lowest != added) break;
    }
    for (int d = pivot; d < path.length; ++d) node_[path.node[d]].balance += path.side[d] ? 1 : -1;
    const int32_t top = path.node[pivot];
    if (node_[top].balance > -2 && node_[top].balance < 2) return;
    const int side = node_[top].balance < 0;  // to which `top` goes down
    const int32_t child = node_[top].child[1 - side];
    if (node_[child].balance == (side == 0 ? 1 : -1)) {
        hang(path, pivot - 1, rotate_once(top, side));
        node_[child].balance = node_[top].balance = 0;
    } else {
        hang(path, pivot - 1, rotate_twice(top, side));
    }
}

void Tree::erase(int64_t key) {
    Path path;
    int32_t at = root_;
    for (int way; at != kNil && (way = compare(key, at)) != 0;) {
        path.add(at, way > 0);
        at = node_[at].child[way > 0];
    }
    if (at == kNil) return;
    unhook(path, at);
    for (int d = path.length - 1; d >= 0; --d) {
        const int32_t each = path.node[d];
        refresh(each, node_[each].child[0], node_[each].child[1]);
    }
    rebalance_up(path);
    free_.push_back(at);
}

// Puts the next node in order in the place of `at`, and adds what lies between to the path.
void Tree::unhook(Path& path, int32_t at) {
    const int above = path.length - 1;
    const Node gone = node_[at];
    const int32_t right = gone.child[1];
    if (right == kNil) {
        hang(path, above, gone.child[0]);
        return;
    }
    int32_t next = right;
    path.add(kNil, 1);  // the place of `at`, filled below
    for (; node_[next].child[0] != kNil; next = node_[next].child[0]) path.add(next, 0);
    if (next != right) {
        node_[path.node[path.length - 1]].child[0] = node_[next].child[1];
        node_[next].child[1] = right;
    }
    node_[next].child[0] = gone.child[0];
    node_[next].balance = gone.balance;
    path.node[above + 1] = next;
    hang(path, above, next);
}

// Each node of the path lost a level on the side that the path took, until one keeps its height.
void Tree::rebalance_up(Path& path) {
    for (int d = path.length - 1; d >= 0; --d) {
        const int32_t at = path.node[d];
        const int side = path.side[d];
        const int8_t heavy = side ? -1 : 1;  // now deeper: the other side
        node_[at].balance = int8_t(node_[at].balance + heavy);
        if (node_[at].balance == heavy) return;
        if (node_[at].balance != 2 * heavy) continue;
        const int32_t child = node_[at].child[1 - side];
        if (node_[child].balance == -heavy) {
            hang(path, d - 1, rotate_twice(at, side));
            continue;
        }
        const bool level = node_[child].balance == 0;
        hang(path, d - 1, rotate_once(at, side));
        node_[child].balance = level ? int8_t(-heavy) : int8_t(0);
        node_[at].balance = level ? heavy : int8_t(0);
        if (level) return;
    }
}

int32_t Tree::lowest_between(int64_t low, int64_t high) const {
    int32_t split = root_;  // the first node on both ways that lies within
    int to_low = 0, to_high = 0;
    for (; split != kNil; split = node_[split].child[to_low > 0]) {
        to_low = compare(low, split), to_high = compare(high, split);
        if (to_low <= 0 && to_high >= 0) break;
    }
    if (split == kNil) return kNil;
    int32_t best = split;
    double best_cost = node_[split].cost;
    const auto offer = [&](int32_t at, double cost) {
        if (cost < best_cost) best = at, best_cost = cost;
    };
    // side 0: down to the low end, all right subtrees on the way are within; side 1: the mirror image
    for (int side = 0; side < 2; ++side) {
        int way = side == 0 ? to_low : to_high;
        if (way == 0) continue;
        for (int32_t at = node_[split].child[side]; at != kNil;) {
            way = side == 0 ? compare(low, at) : compare(high, at);
            if (side == 0 ? way <= 0 : way >= 0) {
                offer(at, node_[at].cost);
                const int32_t inner = node_[at].child[1 - side];
                if (inner != kNil) offer(node_[inner].lowest, node_[inner].lowest_cost);
            }
            if (way == 0) break;
            at = node_[at].child[way > 0];
        }
    }
    return best;
}

}  // namespace chain
