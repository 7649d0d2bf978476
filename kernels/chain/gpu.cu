// The GPU build of the kernels: nvcc for sm_80 and sm_90, hipcc for gfx90a. Compiled for gfx90a, never run there.
#include "one_source.h"
