// The reference models on the CUDA device against what PyTorch computes: on the emulated GPU
// (`simt`), and on a GPU (`cuda`) where there is one.
#include <cuda_runtime_api.h>

#include "pytorch_values.h"

namespace vitrine::pytorch {
namespace {

#ifdef VITRINE_SIMT
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif
#ifdef VITRINE_REDUCED
constexpr bool kReduced = true;  ///< sanitizer builds: the first step alone, and no large model
#else
constexpr bool kReduced = false;
#endif

using Parameters = std::tuple<const char*, PatchProjection>;

class PytorchCuda : public testing::TestWithParam<Parameters> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "SKIPPED: this test needs a GPU and there is none";
    }
  }
};

std::vector<const char*> models() {
  std::vector<const char*> list(std::begin(kModels), std::end(kModels));
  if (kReduced) std::erase(list, std::string_view("d2l-224"));
  return list;
}

std::string name_of(const testing::TestParamInfo<Parameters>& info) {
  std::string name = std::get<0>(info.param);
  std::ranges::replace(name, '-', '_');
  return name + (std::get<1>(info.param) == PatchProjection::unfold ? "_unfold" : "_convolution");
}

TEST_P(PytorchCuda, HasTheSameValuesAndTrainsTheSame) {
  const auto [model, projection] = GetParam();
  const auto device = make_cuda_device({.name = "cuda"});
  const Values values(model);
  const Plan plan = plan_for(values, projection, *device);
  const bool large = values.model().image_width > 32;  // minutes on the emulated GPU
  const bool all = !kReduced && !(kEmulated && large);
  const Outcome outcome = run_steps(*device, plan, values, all ? values.steps() : 1);
  expect_first_step(values, plan, outcome);
  if (all) expect_all_steps(values, plan, outcome);
}

INSTANTIATE_TEST_SUITE_P(Cuda, PytorchCuda,
                         testing::Combine(testing::ValuesIn(models()),
                                          testing::Values(PatchProjection::unfold,
                                                          PatchProjection::convolution)),
                         name_of);

}  // namespace
}  // namespace vitrine::pytorch
