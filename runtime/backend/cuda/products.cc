// SPDX-License-Identifier: Apache-2.0
// Which kernels compute a product.
#include "runtime/backend/cuda/kernels.h"

namespace adapmoe::cuda {

cudaError_t launch_product(const ProductArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (!is_quantized(args.w.dtype)) return launch_float_product(args, stream);
  return args.act.q == nullptr ? launch_w4a16_product(args, stream)
                               : launch_quantized_product(args, stream);
}

cudaError_t launch_routed_product(const RoutedProductArgs& args, cudaStream_t stream) {
  const ProductArgs& product = args.product;
  if (!is_quantized(product.w.dtype)) return launch_routed_float_product(args, stream);
  return product.act.q == nullptr ? launch_routed_w4a16_product(args, stream)
                                  : launch_routed_quantized_product(args, stream);
}

}  // namespace adapmoe::cuda
