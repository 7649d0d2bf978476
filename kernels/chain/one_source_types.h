// What host and kernels of one_source.h hand each other.
#pragma once

namespace chain::device {

constexpr int kTile = 256;  // anchors of a tile, threads of a block
constexpr int kSub = 32;    // anchors scored by one warp between two barriers

struct Columns {  // anchors of reads one after the other; all of length n
    const int *x, *y, *span, *tag;  // tag: a number of (read, reference, strand), ascending
    int* last;                      // index of the last anchor in reach
    int *score, *back;              // back: distance to the predecessor, 0 for none
    unsigned long long* best;       // of split segments: score<<32 | ~back, so that the greater is the better
    int n;
};

struct Rules {
    int max_dist_x, max_q, bw, max_iter;
    const int* table;  // penalty of a gap of 0..bw
};

struct Segment {
    int begin, end, home;  // home: where it lies in its micro-batch
};

struct Task {  // of the long kernel. from < 0: a whole segment; from == tile: a tile itself; else tile pulls from `from`
    int begin, end, from, tile, waits;  // waits: how many pulls a tile awaits
};

struct Ready {  // of the tiles of split segments, by index of their first anchor / kTile
    int *pulled, *done;
};

}  // namespace chain::device
