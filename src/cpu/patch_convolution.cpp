// The patch projection as a convolution, by oneDNN: another road to the numbers of unfold and
// matmul.
//
//   y[b, p, o] = bias[o] + Σ_cij weight[o, c, i, j] · image[b, c, p_y·s + i, p_x·s + j]
//
// [B, P, D] is the convolution's output [B, D, H/s, W/s] with channels last, so the library writes
// it in place; images are copied to channels last, weights to the layout that it asks for. One
// primitive per shape, direction and thread: oneDNN's own threading changes bits with the number of
// threads, and a primitive with its copies serves one call at a time. dweight is written (=), or
// added to (+=) with accumulate.
#include <omp.h>

#include <array>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

/// The calling thread's; OpenMP's number of threads is a property of the thread too.
dnnl::stream& one_thread() {
  thread_local dnnl::stream stream = [] {
    omp_set_num_threads(1);
    return dnnl::stream(engine());
  }();
  return stream;
}

/// A tensor in the caller's layout and, where the library asks for another, a copy in that one.
class Operand {
 public:
  Operand(const memory::desc& plain, const memory::desc& chosen)
      : plain_(plain, engine(), DNNL_MEMORY_NONE),
        chosen_(plain == chosen ? plain_ : memory(chosen, engine())),
        copied_(plain != chosen) {}

  const memory& read(const void* data) {
    plain_.set_data_handle(const_cast<void*>(data));
    if (copied_) dnnl::reorder(plain_, chosen_).execute(one_thread(), plain_, chosen_);
    return chosen_;
  }
  const memory& written_to(void* data) {
    plain_.set_data_handle(data);
    return chosen_;
  }
  void finish() {
    if (copied_) dnnl::reorder(chosen_, plain_).execute(one_thread(), chosen_, plain_);
  }

 private:
  memory plain_, chosen_;
  bool copied_;
};

/// The tensors as the caller has them; the images as the library is given them, channels last like
/// y (for channels first on one side it has only its reference code); weights in any layout.
struct Layouts {
  memory::desc images, channels_last, weight, any_weight, bias, y;
  memory::dims strides, padding{0, 0};

  template <typename Args>
  Layouts(const Args& args, bool has_bias) : strides{args.patch_size, args.patch_size} {
    using Tag = memory::format_tag;
    constexpr auto kFloat = memory::data_type::f32;
    const memory::dims image{args.batch, args.channels, args.height, args.width};
    const memory::dims filter{args.hidden, args.channels, args.patch_size, args.patch_size};
    images = {image, kFloat, Tag::nchw};
    channels_last = {image, kFloat, Tag::nhwc};
    weight = {filter, kFloat, Tag::oihw};
    any_weight = {filter, kFloat, Tag::any};
    if (has_bias) bias = {{args.hidden}, kFloat, Tag::x};
    y = {{args.batch, args.hidden, args.height / args.patch_size, args.width / args.patch_size},
         kFloat,
         Tag::nhwc};
  }
};

dnnl::primitive_attr caller_owns_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

struct Forward {
  using Primitive = dnnl::convolution_forward;

  Primitive::primitive_desc description;
  Primitive primitive;
  Operand images, weight, bias, y;
  memory scratchpad;

  explicit Forward(const Layouts& layouts)
      : description(describe(layouts)),
        primitive(description),
        images(layouts.images, description.src_desc()),
        weight(layouts.weight, description.weights_desc()),
        bias(layouts.bias, layouts.bias),
        y(layouts.y, layouts.y),
        scratchpad(description.scratchpad_desc(), engine()) {}

  static Primitive::primitive_desc describe(const Layouts& layouts) {
    constexpr auto kForward = dnnl::prop_kind::forward_training;
    constexpr auto kDirect = dnnl::algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
    return {engine(),
            kForward,
            kDirect,
            layouts.channels_last,
            layouts.any_weight,
            layouts.bias,
            layouts.y,
            layouts.strides,
            layouts.padding,
            layouts.padding,
            caller_owns_scratchpad()};
#else
    return {
        Primitive::desc(kForward, kDirect, layouts.channels_last, layouts.any_weight, layouts.bias,
                        layouts.y, layouts.strides, layouts.padding, layouts.padding),
        caller_owns_scratchpad(), engine()};
#endif
  }

  void run(const PatchConvolutionForward& args) {
    primitive.execute(one_thread(), {{DNNL_ARG_SRC, images.read(args.images.f32().data)},
                                     {DNNL_ARG_WEIGHTS, weight.read(args.weight.f32().data)},
                                     {DNNL_ARG_BIAS, bias.read(args.bias.f32().data)},
                                     {DNNL_ARG_DST, y.written_to(args.y.f32().data)},
                                     {DNNL_ARG_SCRATCHPAD, scratchpad}});
  }
};

struct Backward {
  using Primitive = dnnl::convolution_backward_weights;

  Primitive::primitive_desc description;
  Primitive primitive;
  Operand images, dy, dweight;
  memory scratchpad;

  explicit Backward(const Layouts& layouts)
      : description(describe(layouts)),
        primitive(description),
        images(layouts.images, description.src_desc()),
        dy(layouts.y, layouts.y),
        dweight(layouts.weight, description.diff_weights_desc()),
        scratchpad(description.scratchpad_desc(), engine()) {}

  // A backward description is made with a forward one as a hint.
  static Primitive::primitive_desc describe(const Layouts& layouts) {
    constexpr auto kDirect = dnnl::algorithm::convolution_direct;
    const Forward forward(layouts);
#if DNNL_VERSION_MAJOR >= 3
    return {engine(),
            kDirect,
            layouts.channels_last,
            layouts.any_weight,
            layouts.y,
            layouts.strides,
            layouts.padding,
            layouts.padding,
            forward.description,
            caller_owns_scratchpad()};
#else
    return {Primitive::desc(kDirect, layouts.channels_last, layouts.any_weight, layouts.y,
                            layouts.strides, layouts.padding, layouts.padding),
            caller_owns_scratchpad(), engine(), forward.description};
#endif
  }

  void run(const PatchConvolutionBackward& args, float* out) {
    primitive.execute(one_thread(), {{DNNL_ARG_SRC, images.read(args.images.f32().data)},
                                     {DNNL_ARG_DIFF_DST, dy.read(args.dy.f32().data)},
                                     {DNNL_ARG_DIFF_WEIGHTS, dweight.written_to(out)},
                                     {DNNL_ARG_SCRATCHPAD, scratchpad}});
    dweight.finish();
  }
};

/// The calling thread's plan for the shape of `args`.
template <typename Plan, typename Args>
Plan& plan_of(const Args& args, bool has_bias) {
  using Key = std::array<std::int64_t, 7>;
  one_thread();  // oneDNN counts the threads when a primitive is made
  thread_local std::map<Key, std::unique_ptr<Plan>> plans;
  auto& plan = plans[Key{args.batch, args.channels, args.height, args.width, args.patch_size,
                         args.hidden, has_bias}];
  if (plan == nullptr) plan = std::make_unique<Plan>(Layouts(args, has_bias));
  return *plan;
}

template <typename Body>
void translate_errors(const char* operation, const Body& body) {
  try {
    body();
  } catch (const dnnl::error& error) {
    fail(operation, std::string("oneDNN: ") + error.what() + ", status " +
                        std::to_string(static_cast<int>(error.status)) + ", expected success");
  }
}

}  // namespace

void CpuKernels::patch_convolution_forward(const PatchConvolutionForward& args) {
  check_arguments(args);
  translate_errors("patch_convolution_forward",
                   [&] { plan_of<Forward>(args, static_cast<bool>(args.bias)).run(args); });
}

void CpuKernels::patch_convolution_backward(const PatchConvolutionBackward& args) {
  check_arguments(args);
  const std::int64_t n = args.dweight.size;
  float* sum = args.dweight.data;
  float* fresh = args.accumulate ? args.workspace.data + args.dy.size : sum;
  translate_errors("patch_convolution_backward",
                   [&] { plan_of<Backward>(args, false).run(args, fresh); });
  if (!args.accumulate) return;
  for (std::int64_t i = 0; i < n; ++i) sum[i] += fresh[i];
}

}  // namespace vitrine::cpu
