// All kernels as one module: one file to compile, to embed and to load.
#include "device.cuh"

namespace candidates_kernels {
#include "candidates.cu"
}
namespace decode_attention_kernels {
#include "decode_attention.cu"
}
namespace elementwise_kernels {
#include "elementwise.cu"
}
namespace few_rows_kernels {
#include "few_rows.cu"
}
namespace norm_kernels {
#include "norm.cu"
}
namespace plain_attention_kernels {
#include "plain_attention.cu"
}
namespace rotary_kernels {
#include "rotary.cu"
}
namespace row_kernels {
#include "rows.cu"
}
namespace tile_attention_kernels {
#include "tile_attention.cu"
}
