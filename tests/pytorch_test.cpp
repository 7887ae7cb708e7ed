// The reference models on the device `cpu`, and by the program, against what PyTorch computes.
#include <filesystem>

#include "pytorch_values.h"
#include "run_program.h"
#include "temporary_directory.h"

namespace vitrine::pytorch {
namespace {

using Parameters = std::tuple<const char*, PatchProjection>;

class Pytorch : public testing::TestWithParam<Parameters> {};

std::string name_of(const testing::TestParamInfo<Parameters>& info) {
  std::string name = std::get<0>(info.param);
  std::ranges::replace(name, '-', '_');
  return name + (std::get<1>(info.param) == PatchProjection::unfold ? "_unfold" : "_convolution");
}

TEST_P(Pytorch, HasTheSameValuesAndTrainsTheSame) {
  const auto [model, projection] = GetParam();
  const auto device = make_cpu_device(1);
  const Values values(model);
  const Plan plan = plan_for(values, projection, *device);
  const Outcome outcome = run_steps(*device, plan, values, values.steps());
  expect_first_step(values, plan, outcome);
  expect_all_steps(values, plan, outcome);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Pytorch,
                         testing::Combine(testing::ValuesIn(kModels),
                                          testing::Values(PatchProjection::unfold,
                                                          PatchProjection::convolution)),
                         name_of);

// The formula on its own, so that its errors are not taken for a model's. Numbers from Python.
TEST(PytorchFormula, IsThatOfTheTool) {
  EXPECT_EQ(fnv1a64("images.0"), 0xcd9e3ccc5810d7fd);
  EXPECT_EQ(hash(fnv1a64("images.0"), 3), 0x0932383aca4df975);
  std::vector<float> numbers(2);
  draw("images.0", Shape{2}, numbers.data());
  EXPECT_EQ(numbers[1], 0x1.03ca68p-3f);
  draw("blocks.0.norm1.weight", Shape{2}, numbers.data());
  EXPECT_EQ(numbers[1], 0x1.d96ed4p-1f);
}

std::vector<float> tensor(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw BadInput(name + " is missing");
  return file.read_f32(name, entry->shape);
}

// A flat buffer as the plan lays it out, from tensors of a file.
std::vector<float> flat_buffer(const SafetensorsFile& file, const std::string& prefix,
                               const Plan& plan) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
    const Parameter& parameter = plan.graph().parameters()[p];
    std::ranges::copy(file.read_f32(prefix + parameter.name, parameter.shape),
                      flat.begin() + plan.parameter_offset(static_cast<int>(p)));
  }
  return flat;
}

// `vitrine step` decays all parameters, as this model's document does.
TEST(PytorchProgram, StepsOfCifar10Small) {
  const TemporaryDirectory directory;
  const std::string weights_file = directory / "model.safetensors",
                    batch_file = directory / "batch.safetensors",
                    output_file = directory / "out.safetensors";
  const Values values("cifar10-small");
  const auto device = make_cpu_device(1);
  const Plan plan = plan_for(values, PatchProjection::unfold, *device);
  const std::vector<float> weights = values.weights(plan);
  write_safetensors(weights_file, named_tensors(plan, weights.data()));
  const std::vector<std::int64_t> labels(values.labels().begin(), values.labels().end());
  const std::vector<SafetensorsTensor> batch = {
      {"images", DType::f32, values.images_shape(), values.images().data()},
      {"labels", DType::i64, Shape{values.batch()}, labels.data()}};
  write_safetensors(batch_file, batch);
  const ProgramResult result = run_program_with(
      {"step", "--preset", "cifar10-small", "--weights", weights_file, "--batch", batch_file,
       "--steps", std::to_string(values.steps()), "--output", output_file, "--device", "cpu"});
  ASSERT_EQ(result.code, 0) << result.err;

  const SafetensorsFile file(output_file);
  Outcome outcome{.logits = tensor(file, "logits"),
                  .losses = tensor(file, "loss"),
                  .gradients = flat_buffer(file, "grad.", plan),
                  .weights = flat_buffer(file, "param.", plan)};
  outcome.logits.resize(outcome.logits.size() / outcome.losses.size());  // of the first step
  expect_first_step(values, plan, outcome);
  expect_all_steps(values, plan, outcome);
}

}  // namespace
}  // namespace vitrine::pytorch
