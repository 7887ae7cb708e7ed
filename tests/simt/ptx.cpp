#include "simt/ptx.h"

#include <bit>

#include "simt/multiprocessor.h"

namespace simt {
namespace {

constexpr int kRows = 16, kDepth = 16, kCols = 8;  // of an mma
constexpr int kRowBytes = 16;                      // of ldmatrix

/// The elements of a register, the one at the lower address first.
float low_bf16(unsigned pair) {
  return std::bit_cast<float>(pair << 16);
}
float high_bf16(unsigned pair) {
  return std::bit_cast<float>(pair & 0xffff0000u);
}

void exchange_mma(void* const* arguments, unsigned) {
  float a[kRows][kDepth], b[kDepth][kCols], d[kRows][kCols] = {};
  for (int lane = 0; lane < 32; ++lane) {
    const auto& part = *static_cast<MmaArguments*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8, k = 2 * t + i / 2 * 8;
      a[row][k] = low_bf16(part.a[i]);
      a[row][k + 1] = high_bf16(part.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      const int k = 2 * t + i * 8;
      b[k][g] = low_bf16(part.b[i]);
      b[k + 1][g] = high_bf16(part.b[i]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int col = 0; col < kCols; ++col) d[row][col] += a[row][k] * b[k][col];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& part = *static_cast<MmaArguments*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) part.d[i] += d[g + i / 2 * 8][2 * t + i % 2];
  }
}

/// Row `row` of matrix `matrix`, as the lane that names it gave it.
const std::uint16_t* row_of(void* const* arguments, int matrix, int row) {
  return static_cast<const std::uint16_t*>(
      static_cast<LdmatrixArguments*>(arguments[8 * matrix + row])->row);
}

void exchange_rows(void* const* arguments, unsigned) {
  for (int lane = 0; lane < 32; ++lane) {
    auto& part = *static_cast<LdmatrixArguments*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) part.sources[i] = row_of(arguments, i, lane / 4);
  }
}

void exchange_rows_transposed(void* const* arguments, unsigned) {
  for (int lane = 0; lane < 32; ++lane) {
    auto& part = *static_cast<LdmatrixArguments*>(arguments[lane]);
    for (int i = 0; i < 8; ++i) part.sources[i] = row_of(arguments, i / 2, lane % 4 * 2 + i % 2);
  }
}

}  // namespace

const Collective kMmaBf16{"mma.sync", &exchange_mma, false};
const Collective kLdmatrix{"ldmatrix", &exchange_rows, false};
const Collective kLdmatrixTrans{"ldmatrix.trans", &exchange_rows_transposed, false};

void report_misaligned(const void* address, CallSite site) {
  Multiprocessor::current().fail(site, "access of 16 bytes at %p: not aligned", address);
}

void check_global(const void* address, CallSite site) {
  Multiprocessor& self = Multiprocessor::current();
  if (!self.arena().contains(address, 1)) return;
  self.fail(site, "st.global at %p: the target is in shared memory", address);
}

void meet_ldmatrix(const Collective& collective, LdmatrixArguments& arguments, CallSite site) {
  Multiprocessor& self = Multiprocessor::current();
  if (reinterpret_cast<std::uintptr_t>(arguments.row) % kRowBytes != 0) {
    self.fail(site, "%s: row %p is not aligned to 16 bytes", collective.name, arguments.row);
  }
  if (!self.arena().contains(arguments.row, kRowBytes)) {
    self.fail(site, "%s: row %p is not in shared memory", collective.name, arguments.row);
  }
  meet_warp(collective, 0xffffffffu, &arguments, site);
}

}  // namespace simt
