// What tests may ask of the stand-in for cuDNN (cudnn.cpp).
#pragma once

#include <cstdint>

namespace simt {

/// Calls since the start of the program.
struct CudnnCalls {
  std::int64_t handles = 0;      ///< cudnnCreate
  std::int64_t descriptors = 0;  ///< made or set
  std::int64_t queries = 0;      ///< of workspace sizes
  std::int64_t work = 0;         ///< submitted to a stream
  std::int64_t alive = 0;        ///< handles and descriptors not yet destroyed
};
CudnnCalls cudnn_calls();

}  // namespace simt
