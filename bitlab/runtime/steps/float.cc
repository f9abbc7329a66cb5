// Steps of layers and products that are kept in float32.
#include <algorithm>

#include "bitlab/kernels/float_conv/float_conv.h"
#include "bitlab/kernels/float_gemm/cuda/float_gemm.h"
#include "bitlab/kernels/matmul/matmul.h"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"
#include "bitlab/runtime/internal/conv_geometry.h"
#include "bitlab/runtime/internal/device_step.h"
#include "bitlab/runtime/internal/recurrent.h"

namespace bitlab::runtime {
namespace {

Result<const kernels::FloatGemmRow*> gemm_for(const StepContext& context) {
  return select(kernels::float_gemm_kernels(), context.model.options().machine, context.model.options().policy);
}

// A product by the panels of the node's weight, and its bias, on a device.
Result<kernels::CudaFloatGemm> device_product(DeviceWeights& device, const StepContext& context, int64_t depth) {
  kernels::CudaFloatGemm product{};
  product.p.rows = context.input_shape(1)[0], product.p.depth = depth;
  BITLAB_TRY(const uint8_t* panels, device.copy_of(context.model.constant(context.node.inputs[1])[0].panels));
  product.p.panels = reinterpret_cast<const float*>(panels);
  BITLAB_TRY(product.p.bias, device_floats(device, context, 2));
  return product;
}

DeviceStep device_step(const kernels::CudaFloatGemm& product, bool reads_two, DeviceChain chain = {}) {
  return DeviceStep{[=](const DeviceBuffers& b) {
                      kernels::CudaFloatGemm own = product;
                      own.p.x = b.input(0), own.p.y = b.output();
                      if (reads_two) own.p.panels = b.input(1);
                      const char* wrong = b.plugin->float_gemm(&own, b.stream);
                      return wrong != nullptr ? wrong : chain.run_behind(b);
                    },
                    0, "float_gemm:cuda"};
}

}  // namespace

Result<Step> make_linear_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const std::vector<int64_t> weight = context.input_shape(1);
  const int64_t rows = weight[0], depth = weight[1], tokens = context.output_elements() / rows;
  const kernels::FloatGemmArgs layer{context.panels(1), rows, depth, nullptr, depth, context.floats(2), nullptr, rows};
  Step step{[=](const StepBuffers& b) -> Status {
              kernels::FloatGemmArgs args = layer;
              args.x = b.input(0);
              args.y = b.output();
              float_gemm(*row, args, tokens, *b.pool);
              return {};
            },
            0, fmt::format("float_gemm:{}", row->name)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(kernels::CudaFloatGemm product, device_product(device, context, depth));
    product.tokens = tokens, product.p.x_stride = depth, product.p.y_stride = rows;
    return device_step(product, false);
  });
}

Result<Step> make_recurrent_step(const StepContext& context) {
  constexpr size_t kH0 = program::input_of(program::Op::recurrent, "h0");
  kernels::FloatRecurrent weight{.panels = context.panels(1), .bias = context.floats(2)};
  BITLAB_TRY(weight.product, gemm_for(context));
  BITLAB_TRY(weight.elementwise, elementwise_row(context));
  BITLAB_TRY(const kernels::RecurrentArgs layer, recurrent_layer(context));
  Step step{[=](const StepBuffers& b) { return float_recurrent(weight, bound(layer, b, kH0), b.scratch, *b.pool); },
            float_recurrent_scratch_bytes(layer),
            fmt::format("float_gemm:{} {}", weight.product->name, label(*weight.elementwise))};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(kernels::CudaFloatGemm product, device_product(device, context, layer.hidden));
    product.tokens = layer.batch, product.p.x_stride = layer.hidden, product.p.y_stride = product.p.rows;
    return device_recurrent(layer, device_step(product, false), kH0);
  });
}

Result<Step> make_conv_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const kernels::ConvGeometry geometry = conv_geometry(context.model.program(), context.node, context.sizes);
  const float *weight = context.panels(1), *bias = context.floats(2);
  const int64_t rows = context.input_shape(1)[0];
  Step step{[=, chain = chain_of(context)](const StepBuffers& b) -> Status {
              return chain.behind(b, [&](const RangeTask* after) -> Status {
                float_conv(*row, weight, bias, rows, geometry, b.input(0), b.output(), b.scratch, *b.pool, after);
                return {};
              });
            },
            float_conv_scratch_bytes(geometry, context.threads), fmt::format("float_gemm:{}", row->name)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(kernels::CudaFloatGemm product, device_product(device, context, geometry.depth()));
    product.tokens = geometry.batch * geometry.positions(), product.p.y_stride = rows;
    product.gathers = true, product.image = kernels::CudaImage::of(geometry), product.groups = geometry.groups;
    BITLAB_TRY(const DeviceChain chain, DeviceChain::of(chain_of(context), context.output_elements(), device));
    return device_step(product, false, chain);
  });
}

Result<Step> make_matmul_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const std::vector<int64_t> a = context.input_shape(0), b_shape = context.input_shape(1);
  kernels::MatmulShape shape{.m = a[a.size() - 2], .k = a.back(), .n = b_shape.back()};
  const int64_t products = context.output_elements() / (shape.m * shape.n);
  if (b_shape.size() == 2) {
    shape.m *= products;  // the rows of all meet one matrix
  } else {
    shape.batch = products;
  }
  Step step{[=](const StepBuffers& b) -> Status {
              matmul(*row, shape, b.input(0), b.input(1), b.output(), b.scratch, *b.pool);
              return {};
            },
            matmul_scratch_bytes(shape, context.threads), fmt::format("float_gemm:{}", row->name)};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    kernels::CudaFloatGemm product{};
    product.p.rows = product.p.y_stride = shape.n, product.p.depth = product.p.x_stride = shape.k;
    product.tokens = shape.m, product.by_columns = true, product.batches = shape.batch;
    product.x_batch = shape.m * shape.k, product.w_batch = shape.k * shape.n, product.y_batch = shape.m * shape.n;
    return device_step(product, true);
  });
}

Result<Step> make_embedding_step(const StepContext& context) {
  constexpr size_t kWeight = program::input_of(program::Op::embedding, "weight");
  const ResidentConstant& table = context.model.constant(context.node.inputs[kWeight])[0];
  const program::Storage storage = table.storage;
  const void* weight = table.plain.size() != 0 ? table.plain.data() : nullptr;
  const auto* panels = reinterpret_cast<const float*>(table.panels.data());
  const int64_t rows = context.input_shape(kWeight)[0], depth = context.input_shape(kWeight)[1],
                tokens = context.output_elements() / depth;
  Step step{[=](const StepBuffers& b) -> Status {
              const auto* indices = b.input<int64_t>(0);
              for (int64_t i = 0; i < tokens; ++i) {
                if (indices[i] < 0 || indices[i] >= rows)
                  return make_error(ErrorCode::kInvalidArgument, "[embedding] indices from 0 to {}, got {}", rows - 1,
                                    indices[i]);
                float* y = b.output() + i * depth;
                if (weight == nullptr) {  // a product's
                  for (int64_t k = 0; k < depth; ++k) y[k] = panels[kernels::float_panel_index(rows, depth, indices[i], k)];
                } else if (storage == program::Storage::kPlain) {
                  std::copy_n(static_cast<const float*>(weight) + indices[i] * depth, depth, y);
                } else {
                  const uint16_t* row = static_cast<const uint16_t*>(weight) + indices[i] * depth;
                  std::transform(row, row + depth, y, [&](uint16_t bits) { return program::widened(bits, storage); });
                }
              }
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    kernels::CudaEmbedding args{};
    args.table = weight == nullptr                       ? kernels::CudaTable::kPanels
                 : storage == program::Storage::kPlain   ? kernels::CudaTable::kFloat32
                 : storage == program::Storage::kFloat16 ? kernels::CudaTable::kFloat16
                                                         : kernels::CudaTable::kBFloat16;
    BITLAB_TRY(args.p.weights, device.copy_of(weight == nullptr ? table.panels : table.plain));
    args.p.rows = rows, args.p.depth = depth, args.count = tokens * depth;
    return embedding_on_device(args);
  });
}

}  // namespace bitlab::runtime
