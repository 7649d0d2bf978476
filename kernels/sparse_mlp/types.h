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

struct Shape {
    int64_t hidden, experts;
    bool half;  // bfloat16
    int64_t padded() const { return (hidden + kLanes - 1) / kLanes * kLanes; }
    int64_t steps() const { return half ? padded() / 2 : padded(); }
    int64_t tiles() const { return padded() / kLanes; }
    int64_t lines_down() const { return half ? kNeurons / 2 : kNeurons; }
    int64_t gate_up_bytes() const { return 2 * steps() * 2 * kLine; }
    int64_t expert_bytes() const { return gate_up_bytes() + tiles() * lines_down() * kLine; }
};

// What one call works on. x: [n, steps()] floats, or pairs of bfloat16 in 32 bits; y: [n, padded()] floats, set to
// zero before; active: [n, experts]. The experts that any row uses are read once for every 8 rows.
struct Call {
    Shape shape;
    const unsigned char* weights;
    const void* x;
    float* y;
    const bool* active;
    int64_t n;
};

void run_portable(const Call&);
#ifdef SPARSE_MLP_X86
void run_avx2(const Call&);
void run_avx512(const Call&);
void run_avx512_bf16(const Call&);
#endif

}  // namespace sparse_mlp
