// Weights under every library's names, what fine-tuning may change, and what is wrong with a file.
#include "exchange_test.h"

#include "vitrine/conversion.h"

namespace vitrine {
namespace {

constexpr auto kV4 = &NamesOfTensor::v4;
constexpr auto kV5 = &NamesOfTensor::v5;
constexpr auto kTorchvision = &NamesOfTensor::torchvision;

TEST_F(ExchangeTest, EveryNamingReadsBitForBit) {
  auto bare = renamed(ours_, kV4), bare_v5 = renamed(ours_, kV5),
       old = renamed(ours_, kTorchvision);
  for (SafetensorsTensor& tensor : bare) tensor.name = replaced(tensor.name, "vit.", "");
  for (SafetensorsTensor& tensor : bare_v5) tensor.name = replaced(tensor.name, "vit.", "");
  for (SafetensorsTensor& tensor : old) {
    tensor.name = replaced(replaced(tensor.name, "mlp.0", "mlp.linear_1"), "mlp.3", "mlp.linear_2");
  }
  const std::vector<std::pair<std::vector<SafetensorsTensor>, Naming>> files = {
      {ours_, Naming::timm},
      {renamed(ours_, kV4), Naming::huggingface_v4},
      {renamed(ours_, kV5), Naming::huggingface_v5},
      {bare, Naming::huggingface_v4},
      {bare_v5, Naming::huggingface_v5},
      {renamed(ours_, kTorchvision), Naming::torchvision},
      {old, Naming::torchvision}};
  for (const auto& [list, naming] : files) {
    SCOPED_TRACE(list.back().name);
    write_safetensors(file_, list);
    std::vector<float> weights(tensors_.weights.size(), 0.0f);
    const WeightReport report = read_weights(file_, config_.model, plan_, {}, weights);
    EXPECT_EQ(weights, tensors_.weights);
    EXPECT_EQ(report.naming, naming);
    EXPECT_EQ(report.loaded, 32);  // 4 + 2·12 + norm 2 + head 2
    EXPECT_EQ(report.str(), std::string(to_string(naming)) + " names, 32 of 32 tensors");
    EXPECT_EQ(load_weights(file_, config_.model, plan_), tensors_.weights);
  }
}

TEST_F(ExchangeTest, WithoutBiasOfQueryKeyValue) {
  config_.model.qkv_bias = false;
  const Plan plan = plan_of(config_.model);
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.5f);
  write_safetensors(file_, renamed(named_tensors(plan, flat.data()), kV4));
  std::vector<float> weights(flat.size(), 0.5f);
  EXPECT_EQ(read_weights(file_, config_.model, plan, {}, weights).loaded, 30);
  config_.model.qkv_bias = true;
  expect_reading_error(
      renamed(named_tensors(plan, flat.data()), kV4), config_.model,
      {"missing vit.encoder.layer.0.attention.attention.query.bias (blocks.0.attn.qkv.bias)"});
}

TEST_F(ExchangeTest, SmallerTypesBecomeFloat) {
  std::vector<std::vector<char>> halves;
  auto list = renamed(ours_, kV4);
  for (SafetensorsTensor& tensor : list) {
    const auto count = static_cast<std::size_t>(tensor.shape.elements());
    halves.push_back(converted({static_cast<const float*>(tensor.data), count}, DType::bf16));
    tensor.data = halves.back().data();
    tensor.dtype = DType::bf16;
  }
  write_safetensors(file_, list);
  std::vector<float> weights(tensors_.weights.size(), 0.0f);
  read_weights(file_, config_.model, plan_, {}, weights);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    ASSERT_EQ(weights[i], bf16_to_f32(f32_to_bf16(tensors_.weights[i]))) << i;
  }
  list[3].dtype = DType::i32;
  list[3].shape = Shape{list[3].shape.elements()};
  const std::vector<std::int32_t> integers(100, 1);
  list[3].data = integers.data();
  expect_reading_error(list, config_.model, {list[3].name + ": found dtype I32", "expected F32"});
}

TEST_F(ExchangeTest, PoolersAndMaskTokensAreIgnored) {
  auto list = renamed(ours_, kV4);
  for (const char* name : {"vit.pooler.dense.weight", "vit.embeddings.mask_token"}) {
    list.push_back({name, DType::f32, Shape{2}, tensors_.weights.data()});
  }
  write_safetensors(file_, list);
  std::vector<float> weights(tensors_.weights.size(), 0.0f);
  const WeightReport report = read_weights(file_, config_.model, plan_, {}, weights);
  EXPECT_EQ(report.ignored,
            (std::vector<std::string>{"vit.pooler.dense.weight", "vit.embeddings.mask_token"}));
  EXPECT_NE(report.str().find("ignored vit.pooler.dense.weight"), std::string::npos);
  list.push_back({"vit.pooler.dense.scale", DType::f32, Shape{2}, tensors_.weights.data()});
  expect_reading_error(list, config_.model, {"; unexpected vit.pooler.dense.scale"});
  auto timm = ours_;
  timm.push_back({"pooler.dense.weight", DType::f32, Shape{2}, tensors_.weights.data()});
  expect_reading_error(timm, config_.model, {"; unexpected pooler.dense.weight"});
}

TEST_F(ExchangeTest, NewHead) {
  VitConfig other = config_.model;
  other.num_classes = 5;
  const auto theirs = renamed(ours_, kTorchvision);
  auto headless = theirs;
  headless.resize(headless.size() - 2);
  expect_reading_error(theirs, other,
                       {"wrong shape heads.head.weight (head.weight) (found [3, 12], expected "
                        "[5, 12]), heads.head.bias (head.bias) (found [3], expected [5])",
                        "--num-classes 5 makes a new head"});
  expect_reading_error(headless, other,
                       {"missing heads.head.weight (head.weight), heads.head.bias",
                        "--num-classes 5 makes a new head"});
  const Plan plan = plan_of(other);
  for (const auto& list : {theirs, headless}) {
    write_safetensors(file_, list);
    std::vector<float> weights(static_cast<std::size_t>(plan.parameter_elements()), 7.0f);
    const WeightReport report = read_weights(file_, other, plan, {.new_head = true}, weights);
    EXPECT_EQ(report.initial, (std::vector<std::string>{"head.weight", "head.bias"}));
    EXPECT_EQ(report.str(), "torchvision names, 30 of 32 tensors, new head");
    EXPECT_EQ(tensor_of(plan, weights, "head.weight"), std::vector<float>(60, 7.0f));
    EXPECT_EQ(tensor_of(plan, weights, "head.bias"), std::vector<float>(5, 7.0f));
    EXPECT_EQ(tensor_of(plan, weights, "norm.bias"),
              tensor_of(plan_, tensors_.weights, "norm.bias"));
  }
  // One that fits is taken, and nothing else may be missing.
  write_safetensors(file_, theirs);
  std::vector<float> weights(tensors_.weights.size(), 0.0f);
  EXPECT_EQ(read_weights(file_, config_.model, plan_, {.new_head = true}, weights).initial.size(),
            0u);
  EXPECT_EQ(weights, tensors_.weights);
  headless.erase(headless.begin());
  expect_reading_error(headless, other, {"missing class_token"}, {.new_head = true});
}

/// Tables of torch 2.15: interpolate(mode="bicubic", antialias=True) of
/// x[r, c, k] = (5 r + 3 c + 7 k) mod 11 − 4.
struct TorchTable {
  PatchGrid from, to;
  std::int64_t hidden;
  std::vector<float> values;
};
const std::vector<TorchTable> kTorchTables = {
    {{2, 3}, {5, 4}, 2, {-4.65199947f, 3.43762279f,  -2.90194511f,  6.11232042f,  0.241629466f,
                         3.4121511f,   2.80797625f,  -2.97011399f,  -3.82896543f, 2.4499824f,
                         -1.95187581f, 4.99764442f,  0.388836265f,  3.10033751f,  1.7257483f,
                         -2.05249286f, -1.65671635f, -0.156716466f, 0.555659413f, 2.05565929f,
                         0.777362049f, 2.27736187f,  -1.13059711f,  0.369402885f, 0.515532672f,
                         -2.7634151f,  3.06319475f,  -0.886325777f, 1.16588783f,  1.45438635f,
                         -3.98694253f, 2.79129839f,  1.33856773f,   -3.75105739f, 4.01326513f,
                         -2.00100327f, 1.31309497f,  1.1425724f,    -5.06917238f, 3.70892119f}},
    {{7, 7},
     {4, 4},
     1,
     {-0.480191976f, 0.520864606f, 0.701587737f, 1.11881709f, 2.3148613f, 1.18218338f,
      -0.094510749f, 0.121628717f, 1.24057889f, 1.57392728f, 2.12464118f, 0.753223002f, 0.40392527f,
      0.391102821f, 1.36592817f, 1.48039806f}},
    {{3, 3},
     {6, 2},
     1,
     {-3.55075073f, 1.26041007f, -2.05348516f, 0.646893561f, 1.11745679f, -0.652849436f,
      2.90168262f, -1.07096934f, 3.06476808f, -0.552530468f, 3.14285707f, -0.308186531f}}};

std::vector<float> table_of(const PatchGrid& grid, std::int64_t hidden) {
  std::vector<float> table;
  for (std::int64_t r = 0; r < grid.rows; ++r) {
    for (std::int64_t c = 0; c < grid.columns; ++c) {
      for (std::int64_t k = 0; k < hidden; ++k) {
        table.push_back(static_cast<float>((5 * r + 3 * c + 7 * k) % 11 - 4));
      }
    }
  }
  return table;
}

TEST(ResamplePositions, AsTorch) {
  constexpr double kLargest = 6;  // of the tables' numbers
  for (const TorchTable& t : kTorchTables) {
    const std::vector<float> found =
        resample_positions(table_of(t.from, t.hidden), t.from, t.to, t.hidden);
    ASSERT_EQ(found.size(), t.values.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i], t.values[i], 1e-6 * kLargest) << i;
    }
  }
  const std::vector<float> same = table_of({3, 4}, 5);
  EXPECT_EQ(resample_positions(same, {3, 4}, {3, 4}, 5), same);
}

TEST_F(ExchangeTest, PositionsForAnotherGrid) {
  for (const ClassToken token : {ClassToken::first, ClassToken::last, ClassToken::none}) {
    SCOPED_TRACE(static_cast<int>(token));
    VitConfig square = config_.model;
    square.image_height = square.image_width = 12;
    square.class_token = token;
    if (token == ClassToken::none) square.pool = Pool::mean;
    const Plan plan = plan_of(square);
    const std::vector<float> before = initial_weights(square, plan, 3);
    const auto list = named_tensors(plan, before.data());
    VitConfig wide = square;  // 3x3 patches to 2x5
    wide.image_height = 8;
    wide.image_width = 20;
    expect_reading_error(list, wide,
                         {"wrong shape pos_embed", "--image-size 8,20 interpolates positions"});
    write_safetensors(file_, list);
    const Plan wide_plan = plan_of(wide);
    std::vector<float> weights(static_cast<std::size_t>(wide_plan.parameter_elements()), 0.0f);
    const WeightReport report =
        read_weights(file_, wide, wide_plan, {.new_resolution = true}, weights);
    EXPECT_EQ(report.positions, "3x3 to 2x5");
    EXPECT_NE(report.str().find(", positions 3x3 to 2x5"), std::string::npos);

    std::vector<float> table = tensor_of(plan, before, "pos_embed"), row;
    const auto at = token == ClassToken::first ? table.begin() : table.begin() + 9 * 12;
    if (token != ClassToken::none) {
      row.assign(at, at + 12);
      table.erase(at, at + 12);
    }
    std::vector<float> expected = resample_positions(table, {3, 3}, {2, 5}, 12);
    expected.insert(token == ClassToken::first ? expected.begin() : expected.end(), row.begin(),
                    row.end());
    EXPECT_EQ(tensor_of(wide_plan, weights, "pos_embed"), expected);
    EXPECT_EQ(tensor_of(wide_plan, weights, "head.weight"), tensor_of(plan, before, "head.weight"));
  }
}

TEST_F(ExchangeTest, PositionsOfAKnownGrid) {
  const PatchGrid from{2, 3};
  VitConfig turned = config_.model;  // 3x2 patches: as many, elsewhere
  std::swap(turned.image_height, turned.image_width);
  expect_reading_error(ours_, turned,
                       {"wrong shape pos_embed (found 2x3 patches, expected 3x2)",
                        "--image-size 12,8 interpolates positions"},
                       {.grid = from});
  write_safetensors(file_, ours_);
  const std::vector<float> table = tensor_of(plan_, tensors_.weights, "pos_embed");
  for (const PatchGrid to : {PatchGrid{3, 2}, PatchGrid{2, 3}, PatchGrid{4, 4}}) {
    VitConfig other = config_.model;
    other.image_height = to.rows * other.patch_size;
    other.image_width = to.columns * other.patch_size;
    const Plan plan = plan_of(other);
    std::vector<float> weights(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
    const WeightReport report =
        read_weights(file_, other, plan, {.new_resolution = true, .grid = from}, weights);
    EXPECT_EQ(report.positions.empty(), to == from);
    std::vector<float> expected(table.begin(), table.begin() + 12);
    const std::vector<float> patches =
        resample_positions(std::span(table).subspan(12), from, to, 12);
    expected.insert(expected.end(), patches.begin(), patches.end());
    EXPECT_EQ(tensor_of(plan, weights, "pos_embed"), expected);
  }
}

TEST_F(ExchangeTest, PositionsThatNobodyInterpolates) {
  VitConfig larger = config_.model;  // 2x3 patches are no square
  larger.image_height = larger.image_width = 16;
  expect_reading_error(ours_, larger, {"wrong shape pos_embed (found [1, 7, 12]"},
                       {.new_resolution = true});
  VitConfig table = config_.model;  // a table longer than the tokens is no grid
  table.image_height = table.image_width = 12;
  table.position_rows = 17;
  const Plan plan = plan_of(table);
  const std::vector<float> weights = initial_weights(table, plan, 3);
  VitConfig other = table;
  other.position_rows = 26;
  expect_reading_error(named_tensors(plan, weights.data()), other,
                       {"wrong shape pos_embed (found [1, 17, 12], expected [1, 26, 12])"},
                       {.new_resolution = true});
}

TEST_F(ExchangeTest, DamagedFiles) {
  auto list = renamed(ours_, kV4);
  for (const double bad : {kNan, kInfinity}) {
    Tensors broken = tensors_;
    broken.weights[static_cast<std::size_t>(plan_.parameter_offset(4)) + 1] =
        static_cast<float>(bad);
    const auto theirs = renamed(named_tensors(plan_, broken.weights.data()), kV4);
    expect_reading_error(theirs, config_.model, {"found NaN or infinity"});
  }
  list[6].shape = Shape{list[6].shape.elements()};
  list.erase(list.begin() + 2);
  list.push_back({"stranger\nname", DType::f32, Shape{2}, tensors_.weights.data()});
  expect_reading_error(
      list, config_.model,
      {"HuggingFace v4 names", "; unexpected stranger\\x0aname", "; wrong shape ", "; missing "});
}

}  // namespace
}  // namespace vitrine
