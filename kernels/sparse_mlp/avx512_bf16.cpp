// The bfloat16 dot product's loops.
#include "dot.h"

namespace sparse_mlp {

void run_avx512_bf16(const Call& c) { run<Dot>(c); }
void route_avx512_bf16(const Routing& c) { route<Dot>(c); }

}  // namespace sparse_mlp
