// Layer normalisation over the last dimension with the residual in front of it, and its gradient.
//
//   y = (x - mean) · rstd · weight + bias,   rstd = 1 / sqrt(var + eps)   Ba et al. 2016,
//                                                                         arXiv:1607.06450
//   dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)),   g = dy · weight,  x̂ = (x - mean) · rstd
//
// Rows are taken in tiles that stay in L1: statistics of every row of the tile (mean first, then
// the variance around it), one vector square root for all of them, then the outputs. Rows of eight,
// shorter than most vectors, have their own way (layer_norm_8-inl.h).
// Gradients: dx and dbranch are written (=). dweight and dbias are summed row by row within a run
// of rows and run by run after that; the runs are a matter of the workspace's size alone.
#include "cpu/layer_norm.h"

#include <algorithm>
#include <type_traits>

#include "cpu/branch.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/layer_norm.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/for_vectors-inl.h"
#include "cpu/layer_norm_8-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Sum over i in [0, n) of term(d, i), kWays vectors at a time to hide the latency of additions.
template <int kWays, class D, class Term>
HWY_INLINE float sum_of(D d, std::int64_t n, const Term& term) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::VFromD<D> sums[kWays];
  for (auto& sum : sums) sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kWays * lanes <= n; i += kWays * lanes) {
    for (int way = 0; way < kWays; ++way) sums[way] = hn::Add(sums[way], term(d, i + way * lanes));
  }
  for (; i + lanes <= n; i += lanes) sums[0] = hn::Add(sums[0], term(d, i));
  for (int way = 1; way < kWays; ++way) sums[0] = hn::Add(sums[0], sums[way]);
  float sum = hn::GetLane(hn::SumOfLanes(d, sums[0]));
  const hn::CappedTag<float, 1> d1;
  for (; i < n; ++i) sum += hn::GetLane(term(d1, i));
  return sum;
}

/// Means and variances of a tile's rows.
template <int kWays, class D>
HWY_INLINE void row_statistics(D d, const ForwardTile& t, float* HWY_RESTRICT mean,
                               float* HWY_RESTRICT variance) {
  const float inverse_cols = 1.0f / static_cast<float>(t.cols);
  for (std::int64_t r = 0; r < t.rows; ++r) {
    const float* x = t.x + r * t.cols;
    const float row_mean =
        inverse_cols * sum_of<kWays>(d, t.cols, [=](auto dv, std::int64_t i) HWY_ATTR {
          return hn::LoadU(dv, x + i);
        });
    mean[r] = row_mean;
    variance[r] = inverse_cols * sum_of<kWays>(d, t.cols, [=](auto dv, std::int64_t i) HWY_ATTR {
                    const auto centred = hn::Sub(hn::LoadU(dv, x + i), hn::Set(dv, row_mean));
                    return hn::Mul(centred, centred);
                  });
  }
}

/// y of a tile's rows.
template <class D>
HWY_INLINE void normalise_rows(D d, const ForwardTile& t, const float* HWY_RESTRICT mean,
                               const float* HWY_RESTRICT rstd) {
  for (std::int64_t r = 0; r < t.rows; ++r) {
    const float* x = t.x + r * t.cols;
    float* y = t.y + r * t.cols;
    const float row_mean = mean[r], row_rstd = rstd[r];
    for_vectors(d, t.cols, [=](auto dv, std::int64_t i) HWY_ATTR {
      const auto centred = hn::Sub(hn::LoadU(dv, x + i), hn::Set(dv, row_mean));
      const auto scaled = hn::Mul(centred, hn::Set(dv, row_rstd));
      hn::StoreU(hn::MulAdd(scaled, hn::LoadU(dv, t.weight + i), hn::LoadU(dv, t.bias + i)), dv,
                 y + i);
    });
  }
}

template <int kWays, class D>
HWY_INLINE void forward_tile_as(D d, const ForwardTile& t) {
  float mean[kMaxTileRows], rstd[kMaxTileRows];
  row_statistics<kWays>(d, t, mean, rstd);
  for_vectors(d, t.rows, [&](auto dv, std::int64_t r) HWY_ATTR {
    const auto variance = hn::Add(hn::LoadU(dv, rstd + r), hn::Set(dv, t.eps));
    hn::StoreU(hn::Div(hn::Set(dv, 1.0f), hn::Sqrt(variance)), dv, rstd + r);
  });
  normalise_rows(d, t, mean, rstd);
  if (t.mean != nullptr) std::copy_n(mean, t.rows, t.mean);
  if (t.rstd != nullptr) std::copy_n(rstd, t.rows, t.rstd);
}

/// rstd · mean(g) and rstd · mean(g · x̂) of one row.
struct RowMeans {
  float g, gx;
};

template <int kWays, class D>
HWY_INLINE RowMeans row_means(D d, const BackwardTile& t, std::int64_t r) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float* x = t.x + r * t.cols;
  const float* dy = t.dy + r * t.cols;
  const auto mean = hn::Set(d, t.mean[r]);
  hn::VFromD<D> sums_g[kWays], sums_gx[kWays];
  for (int way = 0; way < kWays; ++way) sums_g[way] = sums_gx[way] = hn::Zero(d);
  const auto add = [&](int way, std::int64_t i) HWY_ATTR {
    const auto g = hn::Mul(hn::LoadU(d, dy + i), hn::LoadU(d, t.weight + i));
    sums_g[way] = hn::Add(sums_g[way], g);
    sums_gx[way] = hn::MulAdd(g, hn::Sub(hn::LoadU(d, x + i), mean), sums_gx[way]);
  };
  std::int64_t i = 0;
  for (; i + kWays * lanes <= t.cols; i += kWays * lanes) {
    for (int way = 0; way < kWays; ++way) add(way, i + way * lanes);
  }
  for (; i + lanes <= t.cols; i += lanes) add(0, i);
  for (int way = 1; way < kWays; ++way) {
    sums_g[0] = hn::Add(sums_g[0], sums_g[way]);
    sums_gx[0] = hn::Add(sums_gx[0], sums_gx[way]);
  }
  float g = hn::GetLane(hn::SumOfLanes(d, sums_g[0]));
  float gx = hn::GetLane(hn::SumOfLanes(d, sums_gx[0]));
  for (; i < t.cols; ++i) {
    g += dy[i] * t.weight[i];
    gx += dy[i] * t.weight[i] * (x[i] - t.mean[r]);
  }
  const float factor = t.rstd[r] / static_cast<float>(t.cols);
  return {factor * g, factor * t.rstd[r] * gx};
}

/// dx of kRows rows from `row` on, and their part of dweight and dbias, in the order of the rows.
template <int kRows, class D>
HWY_INLINE void gradient_rows(D d, const BackwardTile& t, std::int64_t row, const RowMeans* means) {
  for_vectors(d, t.cols, [=, &t](auto dv, std::int64_t i) HWY_ATTR {
    const auto weight = hn::LoadU(dv, t.weight + i);
    auto dweight = hn::LoadU(dv, t.dweight + i);
    auto dbias = hn::LoadU(dv, t.dbias + i);
    for (int k = 0; k < kRows; ++k) {
      const std::int64_t at = (row + k) * t.cols + i;
      const auto rstd = hn::Set(dv, t.rstd[row + k]);
      const auto dy = hn::LoadU(dv, t.dy + at);
      const auto centred = hn::Sub(hn::LoadU(dv, t.x + at), hn::Set(dv, t.mean[row + k]));
      const auto normalised = hn::Mul(centred, rstd);
      dweight = hn::MulAdd(dy, normalised, dweight);
      dbias = hn::Add(dbias, dy);
      const auto g = hn::MulSub(hn::Mul(dy, weight), rstd, hn::Set(dv, means[k].g));
      auto dx = hn::NegMulAdd(normalised, hn::Set(dv, means[k].gx), g);
      if (t.dresidual != nullptr) dx = hn::Add(dx, hn::LoadU(dv, t.dresidual + at));
      hn::StoreU(dx, dv, t.dx + at);
    }
    hn::StoreU(dweight, dv, t.dweight + i);
    hn::StoreU(dbias, dv, t.dbias + i);
  });
}

template <int kWays, class D>
HWY_INLINE void backward_tile_as(D d, const BackwardTile& t) {
  std::int64_t r = 0;
  for (; r + 2 <= t.rows; r += 2) {
    const RowMeans means[2] = {row_means<kWays>(d, t, r), row_means<kWays>(d, t, r + 1)};
    gradient_rows<2>(d, t, r, means);
  }
  if (r < t.rows) {
    const RowMeans means = row_means<kWays>(d, t, r);
    gradient_rows<1>(d, t, r, &means);
  }
}

/// Calls body(d, ways) with the vector length and the number of running sums that suit `cols`.
template <class Body>
HWY_INLINE void for_width(std::int64_t cols, const Body& body) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (cols >= 8 * lanes) {
    body(d, std::integral_constant<int, 4>());
  } else if (cols % lanes == 0) {
    body(d, std::integral_constant<int, 1>());
  } else {
    body(hn::CappedTag<float, 8>(), std::integral_constant<int, 1>());
  }
}

/// Rows of eight: those that fill vectors together, then the rest.
void forward_tile_of_8(ForwardTile t) {
  const std::int64_t done = forward_rows_of_8(t);
  t.x += done * 8;
  t.y += done * 8;
  if (t.mean != nullptr) t.mean += done;
  if (t.rstd != nullptr) t.rstd += done;
  t.rows -= done;
  forward_tile_as<1>(hn::CappedTag<float, 8>(), t);
}

void backward_tile_of_8(BackwardTile t) {
  const std::int64_t done = backward_rows_of_8(t);
  t.dx += done * 8;
  t.dy += done * 8;
  if (t.dresidual != nullptr) t.dresidual += done * 8;
  t.x += done * 8;
  t.mean += done;
  t.rstd += done;
  t.rows -= done;
  backward_tile_as<1>(hn::CappedTag<float, 8>(), t);
}

}  // namespace

void forward_tile(const ForwardTile& tile) {
  if (tile.cols == 8) return forward_tile_of_8(tile);
  for_width(tile.cols, [&](auto d, auto ways) HWY_ATTR { forward_tile_as<ways()>(d, tile); });
}

void backward_tile(const BackwardTile& tile) {
  if (tile.cols == 8) return backward_tile_of_8(tile);
  for_width(tile.cols, [&](auto d, auto ways) HWY_ATTR { backward_tile_as<ways()>(d, tile); });
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(forward_tile);
HWY_EXPORT(backward_tile);

namespace {

/// Calls body(begin, end) for the tiles of rows [begin, end): about 8 KB of one tensor each.
template <typename Body>
void for_tiles(std::int64_t begin, std::int64_t end, std::int64_t cols, const Body& body) {
  const std::int64_t tile = std::clamp<std::int64_t>(2048 / cols, 1, kMaxTileRows);
  for (; begin < end; begin += tile) body(begin, std::min(end, begin + tile));
}

/// Rows [begin, end) of a backward pass; dweight and dbias are added to.
void backward_rows(const LayerNormBackward& args, const Branch& branch, std::int64_t begin,
                   std::int64_t end, float* dweight, float* dbias) {
  const auto run_tile = HWY_DYNAMIC_DISPATCH(backward_tile);
  float* dx = args.dx.f32().data;
  float* dbranch = args.dbranch.f32().data;
  const float* dresidual = args.dresidual.f32().data;
  BackwardTile tile{};
  tile.dweight = dweight;
  tile.dbias = dbias;
  tile.weight = args.weight.f32().data;
  tile.cols = args.cols;
  for_tiles(begin, end, args.cols, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t at = first * args.cols;
    tile.dx = dx + at;
    tile.dy = args.dy.f32().data + at;
    tile.dresidual = dresidual != nullptr ? dresidual + at : nullptr;
    tile.x = args.x.f32().data + at;
    tile.mean = args.mean.data + first;
    tile.rstd = args.rstd.data + first;
    tile.rows = last - first;
    run_tile(tile);
    if (dbranch != nullptr) branch.scale(dbranch, dx, first, last);
  });
}

}  // namespace

void CpuKernels::layer_norm_forward(const LayerNormForward& args) {
  check_arguments(args);
  const Branch branch(args);
  const auto run_tile = HWY_DYNAMIC_DISPATCH(forward_tile);
  const float* x_in = args.x.f32().data;
  const float* branch_in = args.branch.f32().data;
  float* x_out = args.x_out.f32().data;
  const float* x = branch_in != nullptr ? x_out : x_in;
  float* y = args.y.f32().data;
  const float* weight = args.weight.f32().data;
  const float* bias = args.bias.f32().data;
  pool_.for_ranges(args.rows, row_grain(args.cols), [&](std::int64_t begin, std::int64_t end) {
    for_tiles(begin, end, args.cols, [&](std::int64_t first, std::int64_t last) {
      if (branch_in != nullptr) branch.add(x_out, x_in, branch_in, first, last);
      const std::int64_t at = first * args.cols;
      run_tile({y + at, args.mean ? args.mean.data + first : nullptr,
                args.rstd ? args.rstd.data + first : nullptr, x + at, weight, bias, last - first,
                args.cols, args.eps});
    });
  });
}

void CpuKernels::layer_norm_backward(const LayerNormBackward& args) {
  check_arguments(args);
  const Branch branch(args);
  const std::int64_t rows = args.rows, cols = args.cols;
  const std::int64_t partials = args.workspace.size / (2 * cols);
  // Without an output its sum goes to the workspace and is not looked at.
  float* dweight = args.dweight ? args.dweight.data : args.workspace.data;
  float* dbias = args.dbias ? args.dbias.data : args.workspace.data + cols;
  if (!args.accumulate || !args.dweight) std::fill_n(dweight, cols, 0.0f);
  if (!args.accumulate || !args.dbias) std::fill_n(dbias, cols, 0.0f);
  if (partials <= 1) {
    backward_rows(args, branch, 0, rows, dweight, dbias);
    return;
  }
  pool_.parallel_for(partials, [&](int, std::int64_t p) {
    float* sums = args.workspace.data + p * 2 * cols;
    std::fill_n(sums, 2 * cols, 0.0f);
    backward_rows(args, branch, p * rows / partials, (p + 1) * rows / partials, sums, sums + cols);
  });
  for (std::int64_t p = 0; p < partials; ++p) {
    const float* sums = args.workspace.data + p * 2 * cols;
    for (std::int64_t i = 0; i < args.dweight.size; ++i) dweight[i] += sums[i];
    for (std::int64_t i = 0; i < args.dbias.size; ++i) dbias[i] += sums[cols + i];
  }
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
