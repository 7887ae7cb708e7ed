// Each wrapper of primitives/ptx.cuh against literal values read off the figures of the manual.
// Sees only the CUDA runtime, so that it holds the emulation and a GPU to the same numbers.
//
//   PTX ISA 8.5, 9.7.14 (fragments of mma.m16n8k16, ldmatrix), 9.7.9.25 (cp.async), 9.7.3 (ex2,
//   lg2)
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/kernel_device.h"
#include "primitives/ptx.cuh"

namespace vitrine::cuda {
namespace {

class Ptx : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "SKIPPED: this test needs a GPU and there is none";
    }
  }
};

/// Runs `kernel(out, arguments…)` on one block and returns `size` values that it wrote.
template <typename T, typename... Parameters, typename... Arguments>
std::vector<T> run(int threads, std::int64_t size, void (*kernel)(T*, Parameters...),
                   const Arguments&... arguments) {
  const DeviceArray<T> out(size);
  launch("ptx_test", nullptr, 1, threads, 0, kernel, out.data(), arguments...);
  require_cuda(cudaDeviceSynchronize());
  return out.values();
}

constexpr unsigned kBf16One = 0x3f80, kBf16Two = 0x4000, kBf16Three = 0x4040;

/// Where an element of a fragment lies: half 0 is the lower one.
struct Place {
  int lane, reg, half;
};

/// d = c + a · b, a and b zero but for one element each, 2 and 3; writes all lanes' d.
__global__ void mma_kernel(float* out, Place a_place, Place b_place, float c) {
  float d[4] = {c, c, c, c};
  unsigned a[4] = {}, b[2] = {};
  const int lane = static_cast<int>(threadIdx.x);
  if (lane == a_place.lane) a[a_place.reg] = kBf16Two << (16 * a_place.half);
  if (lane == b_place.lane) b[b_place.reg] = kBf16Three << (16 * b_place.half);
  ptx::mma_bf16_16x8x16(d, a, b);
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = d[i];
}

struct ElementOfA {
  Place place;
  int row, k;
};
struct ElementOfB {
  Place place;
  int k, col;
};
struct ElementOfD {
  int row, col, lane, reg;
};

// The corners of each 8×8 quarter and one element inside.
constexpr ElementOfA kA[] = {
    {{0, 0, 0}, 0, 0},  {{0, 0, 1}, 0, 1},   {{3, 0, 1}, 0, 7},    {{28, 0, 0}, 7, 0},
    {{0, 1, 0}, 8, 0},  {{31, 1, 1}, 15, 7}, {{0, 2, 0}, 0, 8},    {{3, 2, 1}, 0, 15},
    {{28, 2, 0}, 7, 8}, {{0, 3, 1}, 8, 9},   {{31, 3, 1}, 15, 15}, {{28, 3, 0}, 15, 8},
    {{13, 0, 1}, 3, 3}, {{13, 1, 0}, 11, 2}, {{13, 2, 0}, 3, 10},  {{13, 3, 1}, 11, 11},
};
constexpr ElementOfB kB[] = {
    {{0, 0, 0}, 0, 0},   {{0, 0, 1}, 1, 0},  {{3, 0, 1}, 7, 0},  {{28, 0, 0}, 0, 7},
    {{0, 1, 0}, 8, 0},   {{0, 1, 1}, 9, 0},  {{3, 1, 1}, 15, 0}, {{31, 1, 1}, 15, 7},
    {{28, 1, 0}, 8, 7},  {{13, 0, 1}, 3, 3}, {{13, 0, 0}, 2, 3}, {{13, 1, 0}, 10, 3},
    {{13, 1, 1}, 11, 3},
};
constexpr ElementOfD kD[] = {
    {0, 0, 0, 0},  {0, 7, 3, 1},  {0, 3, 1, 1},   {7, 0, 28, 0},  {7, 7, 31, 1},  {7, 3, 29, 1},
    {8, 0, 0, 2},  {8, 7, 3, 3},  {8, 3, 1, 3},   {15, 0, 28, 2}, {15, 7, 31, 3}, {15, 3, 29, 3},
    {3, 0, 12, 0}, {3, 3, 13, 1}, {11, 0, 12, 2}, {11, 3, 13, 3}, {3, 7, 15, 1},  {11, 7, 15, 3},
};

/// All zero but for element (row, col), if there is a product at all.
std::vector<float> expected_product(const ElementOfA& a, const ElementOfB& b, float c) {
  std::vector<float> expected(128, c);
  if (a.k != b.k) return expected;
  for (const ElementOfD& d : kD) {
    if (d.row == a.row && d.col == b.col) expected[4 * d.lane + d.reg] += 6.0f;
  }
  return expected;
}

TEST_F(Ptx, MmaMultipliesElementByElement) {
  int products = 0;
  for (const ElementOfA& a : kA) {
    for (const ElementOfB& b : kB) {
      const auto d = run<float>(32, 128, &mma_kernel, a.place, b.place, 0.5f);
      EXPECT_EQ(d, expected_product(a, b, 0.5f))
          << "a(" << a.row << "," << a.k << ") b(" << b.k << "," << b.col << ")";
      products += a.k == b.k;
    }
  }
  EXPECT_EQ(products, 24);
}

__global__ void mma_sum_kernel(float* out) {
  float d[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  const unsigned ones = kBf16One | kBf16One << 16, twos = kBf16Two | kBf16Two << 16;
  const unsigned a[4] = {ones, twos, ones, twos}, b[2] = {ones, twos};
  ptx::mma_bf16_16x8x16(d, a, b);
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = d[i];
}

// Rows 0 to 7 of a are ones, the others twos; rows 0 to 7 of b are ones, the others twos.
TEST_F(Ptx, MmaSumsOverK) {
  const auto d = run<float>(32, 128, &mma_sum_kernel);
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(std::vector<float>(d.begin() + 4 * lane, d.begin() + 4 * lane + 4),
              (std::vector<float>{25.0f, 26.0f, 51.0f, 52.0f}));
  }
}

/// Loads a 16×16 tile with element (row, col) = 16 row + col as four matrices: upper left, lower
/// left, upper right, lower right.
struct alignas(16) Row {
  unsigned short element[8];
};
template <bool kTransposed>
__global__ void ldmatrix_kernel(unsigned* out) {
  SHARED_ARRAY(Row, tile, [16][2]);
  const int lane = static_cast<int>(threadIdx.x);
  for (int col = 0; col < 8; ++col) {
    tile[lane % 16][lane / 16].element[col] =
        static_cast<unsigned short>(lane % 16 * 16 + lane / 16 * 8 + col);
  }
  __syncwarp();
  unsigned r[4];
  if constexpr (kTransposed) {
    ptx::ldmatrix_x4_trans(r, &tile[lane % 16][lane / 16]);
  } else {
    ptx::ldmatrix_x4(r, &tile[lane % 16][lane / 16]);
  }
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
}

struct Registers {
  int lane;
  std::vector<unsigned> r;
};

void expect_registers(const std::vector<unsigned>& all, const Registers& expected) {
  const auto first = all.begin() + 4 * expected.lane;
  EXPECT_EQ(std::vector<unsigned>(first, first + 4), expected.r) << "lane " << expected.lane;
}

TEST_F(Ptx, LdmatrixLoadsFourMatrices) {
  const auto r = run<unsigned>(32, 128, &ldmatrix_kernel<false>);
  expect_registers(r, {0, {0x00010000, 0x00810080, 0x00090008, 0x00890088}});
  expect_registers(r, {1, {0x00030002, 0x00830082, 0x000b000a, 0x008b008a}});
  expect_registers(r, {4, {0x00110010, 0x00910090, 0x00190018, 0x00990098}});
  expect_registers(r, {5, {0x00130012, 0x00930092, 0x001b001a, 0x009b009a}});
  expect_registers(r, {31, {0x00770076, 0x00f700f6, 0x007f007e, 0x00ff00fe}});
}

TEST_F(Ptx, LdmatrixTransLoadsThemTransposed) {
  const auto r = run<unsigned>(32, 128, &ldmatrix_kernel<true>);
  expect_registers(r, {0, {0x00100000, 0x00900080, 0x00180008, 0x00980088}});
  expect_registers(r, {1, {0x00300020, 0x00b000a0, 0x00380028, 0x00b800a8}});
  expect_registers(r, {4, {0x00110001, 0x00910081, 0x00190009, 0x00990089}});
  expect_registers(r, {5, {0x00310021, 0x00b100a1, 0x00390029, 0x00b900a9}});
  expect_registers(r, {31, {0x00770067, 0x00f700e7, 0x007f006f, 0x00ff00ef}});
}

/// Copies 16 bytes, or zeros where valid is 0, in two groups; the first is there while the second
/// may still be under way.
__global__ void cp_async_kernel(unsigned* out, const uint4* source, int valid) {
  SHARED_ARRAY(uint4, target, [2][32]);
  ptx::cp_async_16(&target[0][threadIdx.x], source + threadIdx.x, valid);
  ptx::cp_async_commit();
  ptx::cp_async_16(&target[1][threadIdx.x], source + 32 + threadIdx.x, 16);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();
  const uint4 first = target[0][threadIdx.x];
  ptx::cp_async_wait<0>();
  const uint4 second = target[1][threadIdx.x];
  out[4 * threadIdx.x] = first.x;
  out[4 * threadIdx.x + 1] = first.w;
  out[4 * threadIdx.x + 2] = second.x;
  out[4 * threadIdx.x + 3] = second.w;
}

TEST_F(Ptx, CpAsyncCopiesSixteenBytes) {
  std::vector<uint4> source(64);
  for (unsigned i = 0; i < 64; ++i) source[i] = make_uint4(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3);
  const DeviceArray<uint4> device(source);
  const auto copied =
      run<unsigned>(32, 128, &cp_async_kernel, static_cast<const uint4*>(device.data()), 16);
  expect_registers(copied, {0, {0, 3, 128, 131}});
  expect_registers(copied, {31, {124, 127, 252, 255}});
  const auto zeros =
      run<unsigned>(32, 128, &cp_async_kernel, static_cast<const uint4*>(device.data()), 0);
  expect_registers(zeros, {0, {0, 0, 128, 131}});
  expect_registers(zeros, {31, {0, 0, 252, 255}});
}

__global__ void exp2_kernel(float* out, const float* x) {
  out[threadIdx.x] = ptx::exp2_approx(x[threadIdx.x]);
}
__global__ void reciprocal_kernel(float* out, const float* x) {
  out[threadIdx.x] = ptx::reciprocal_approx(x[threadIdx.x]);
}
__global__ void log2_kernel(float* out, const float* x) {
  out[threadIdx.x] = ptx::log2_approx(x[threadIdx.x]);
}

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kSubnormal = 0x1p-127f;

struct Value {
  float x, y;
};

void expect_values(void (*kernel)(float*, const float*), const std::vector<Value>& values,
                   float relative_error) {
  std::vector<float> x;
  for (const Value& value : values) x.push_back(value.x);
  const DeviceArray<float> device(x);
  const auto y = run<float>(static_cast<int>(x.size()), static_cast<std::int64_t>(x.size()), kernel,
                            static_cast<const float*>(device.data()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float expected = values[i].y;
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(y[i])) << "of " << values[i].x;
    } else if (std::isinf(expected) || expected == 0.0f) {
      EXPECT_EQ(y[i], expected) << "of " << values[i].x;
    } else {
      EXPECT_NEAR(y[i], expected, relative_error * std::fabs(expected)) << "of " << values[i].x;
    }
  }
}

TEST_F(Ptx, Exp2) {
  expect_values(&exp2_kernel,
                {{0.0f, 1.0f},
                 {-0.0f, 1.0f},
                 {1.0f, 2.0f},
                 {-1.0f, 0.5f},
                 {10.0f, 1024.0f},
                 {0.5f, 1.41421356f},
                 {-126.0f, 0x1p-126f},
                 {-127.0f, 0.0f},
                 {kSubnormal, 1.0f},
                 {-kInf, 0.0f},
                 {kInf, kInf},
                 {kNan, kNan}},
                0x1p-22f);
}

TEST_F(Ptx, Log2) {
  expect_values(&log2_kernel,
                {{1.0f, 0.0f},
                 {2.0f, 1.0f},
                 {8.0f, 3.0f},
                 {0.25f, -2.0f},
                 {10.0f, 3.32192809f},
                 {0.0f, -kInf},
                 {kSubnormal, -kInf},
                 {-1.0f, kNan},
                 {kInf, kInf},
                 {kNan, kNan}},
                0x1p-22f);
}

TEST_F(Ptx, Reciprocal) {
  expect_values(&reciprocal_kernel,
                {{1.0f, 1.0f},
                 {-4.0f, -0.25f},
                 {3.0f, 0.333333343f},
                 {0x1p100f, 0x1p-100f},
                 {0x1.8p127f, 0.0f},
                 {0.0f, kInf},
                 {kSubnormal, kInf},
                 {kInf, 0.0f},
                 {kNan, kNan}},
                0x1p-23f);
}

// One access of 16 bytes each way: element 4 · thread + i comes out as it went in, in turned order.
__global__ void wide_kernel(unsigned* out, const unsigned* in) {
  const uint4 words = ptx::load_16(in + 4 * threadIdx.x);
  const uint4 turned = make_uint4(words.w, words.z, words.y, words.x);
  if (threadIdx.x == 0) {
    ptx::store_16(out, turned);
  } else {
    ptx::store_global_16(out + 4 * threadIdx.x, turned);
  }
}

TEST_F(Ptx, WideAccesses) {
  const DeviceArray<unsigned> in(std::vector<unsigned>{1, 2, 3, 4, 5, 6, 7, 8});
  const DeviceArray<unsigned> out(std::int64_t{8});
  launch("ptx_test", nullptr, 1, 2, 0, wide_kernel, out.data(),
         static_cast<const unsigned*>(in.data()));
  EXPECT_EQ(out.values(), (std::vector<unsigned>{4, 3, 2, 1, 8, 7, 6, 5}));
}

__global__ void position_kernel(unsigned* out) {
  const unsigned block = gridDim.x * blockIdx.y + ptx::block_x();
  out[blockDim.x * block + ptx::thread_x()] =
      100 * blockIdx.y + 10 * ptx::block_x() + ptx::thread_x();
}

TEST_F(Ptx, Positions) {
  const DeviceArray<unsigned> out(std::int64_t{12});
  launch("ptx_test", nullptr, dim3(2, 3), 2, 0, position_kernel, out.data());
  EXPECT_EQ(out.values(),
            (std::vector<unsigned>{0, 1, 10, 11, 100, 101, 110, 111, 200, 201, 210, 211}));
}

}  // namespace
}  // namespace vitrine::cuda
