// One gated MLP, cut into experts of 32 neurons, packed so that an expert is one stream of 64-byte lines.
//
// An expert, in the order in which it is read (K: steps over the input, T: tiles of 16 output columns):
//   gate and up   2 halves of 16 neurons x K steps x {gate line, up line}    a line: 16 neurons at one step
//   down          T tiles x J lines                                         a line: 16 columns for one neuron (pair)
// float32: a step is one input, a line 16 floats, J = 32. bfloat16: a step is two inputs, a line 16 pairs, J = 16.
// Input and output widths are padded with zeros to multiples of 16 columns.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sparse_mlp {

constexpr int kNeurons = 32, kLanes = 16, kLine = 64;
constexpr int kRows = 8;  // rows that are worked on together: 2 x 8 accumulators fit the registers

#define SPARSE_MLP_INLINE __attribute__((always_inline)) inline  // no copy of one instruction set for all

struct Shape {
    int64_t hidden, experts;
    bool half;  // bfloat16
    SPARSE_MLP_INLINE int64_t padded() const { return (hidden + kLanes - 1) / kLanes * kLanes; }
    SPARSE_MLP_INLINE int64_t steps() const { return half ? padded() / 2 : padded(); }
    SPARSE_MLP_INLINE int64_t tiles() const { return padded() / kLanes; }
    SPARSE_MLP_INLINE int64_t lines_down() const { return half ? kNeurons / 2 : kNeurons; }
    SPARSE_MLP_INLINE int64_t gate_up_bytes() const { return 2 * steps() * 2 * kLine; }
    SPARSE_MLP_INLINE int64_t expert_bytes() const { return gate_up_bytes() + tiles() * lines_down() * kLine; }
};

// What one call works on. x: [n, steps()] floats, or pairs of bfloat16 in 32 bits; y: [n, padded()] floats, set to
// zero before; active: [n, experts]. The experts that any row uses are read once for every 8 rows (tiles: 16).
struct Call {
    Shape shape;
    const unsigned char* weights;
    const uint32_t* x;
    float* y;
    const bool* active;
    int64_t n;
};

// A router: logits [n, experts] of x, packed as blocks of 32 experts x steps x two lines; active where one is above 0.
struct Routing {
    Shape shape;
    const unsigned char* weights;
    const float* bias;
    const uint32_t* x;
    bool* active;
    int64_t n;
};

SPARSE_MLP_INLINE int64_t router_blocks(const Shape& s) { return (s.experts + kNeurons - 1) / kNeurons; }
SPARSE_MLP_INLINE int64_t router_bytes(const Shape& s) { return router_blocks(s) * s.steps() * 2 * kLine; }

#define SPARSE_MLP_LOOPS(name) \
    void run_##name(const Call&); \
    void route_##name(const Routing&);

SPARSE_MLP_LOOPS(portable)
#ifdef SPARSE_MLP_X86
SPARSE_MLP_LOOPS(avx2)
SPARSE_MLP_LOOPS(avx512)
SPARSE_MLP_LOOPS(avx512_bf16)
void run_amx(const Call&);
bool amx_allowed();  // by the system: the first question asks it for the tiles
#endif

}  // namespace sparse_mlp
