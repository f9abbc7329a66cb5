#include "bitlab/nn/bit_recurrent.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/init.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {
namespace {

template <class... Args>
[[noreturn]] void refuse_recurrent(ErrorCode code, const char* name, fmt::format_string<Args...> format, Args&&... args) {
  throw Exception(make_error(code, "[{}] {}", name, fmt::vformat(format, fmt::make_format_args(args...))));
}

void check_options(const char* name, const BitRecurrentOptions& o) {
  if (o.input_size() < 1 || o.hidden_size() < 1 || o.num_layers() < 1)
    refuse_recurrent(ErrorCode::kInvalidArgument, name, "sizes and layers from 1, got {}, {} and {}", o.input_size(),
                     o.hidden_size(), o.num_layers());
  if (!(o.dropout() >= 0 && o.dropout() <= 1))
    refuse_recurrent(ErrorCode::kInvalidArgument, name, "a dropout from 0 to 1, got {}", o.dropout());
}

int64_t directions_of(const BitRecurrentOptions& o) { return o.bidirectional() ? 2 : 1; }

}  // namespace

template <class Derived>
template <class F>
void BitRecurrent<Derived>::for_each_product(const F& f) {
  const int64_t both = directions_of(options);
  for (size_t i = 0; i < directions_.size(); ++i) {
    const auto layer = static_cast<int64_t>(i) / both;
    const std::string suffix = fmt::format("_l{}{}", layer, static_cast<int64_t>(i) % both == 1 ? "_reverse" : "");
    f(directions_[i].ih, "_ih" + suffix, layer == 0 ? options.input_size() : both * options.hidden_size(),
      Quantizer::Use::kProduct);
    f(directions_[i].hh, "_hh" + suffix, options.hidden_size(), Quantizer::Use::kHiddenProduct);
  }
}

template <class Derived>
void BitRecurrent<Derived>::reset() {
  check_options(Derived::kName, options);
  directions_.resize(static_cast<size_t>(options.num_layers() * directions_of(options)));
  const int64_t rows = gates_of(Derived::kCell) * options.hidden_size();
  for_each_product([&](Product& product, const std::string& suffix, int64_t depth, Quantizer::Use use) {
    product.weight = this->register_parameter("weight" + suffix, at::empty({rows, depth}));
    product.bias = at::Tensor();
    if (options.bias()) register_bias(product, suffix);
    product.quant = product.is_frozen ? frozen_config(options.quant()) : options.quant();
    product.quant.smoothing = 0;
    product.quantizer.reset(*this, product.quant, product.weight, nullptr, use, suffix);
  });
  reset_parameters();
}

template <class Derived>
void BitRecurrent<Derived>::register_bias(Product& product, const std::string& suffix) {
  product.bias = this->register_parameter("bias" + suffix, at::zeros({product.weight.size(0)}, product.weight.options()));
}

template <class Derived>
void BitRecurrent<Derived>::reset_parameters() {
  const at::NoGradGuard no_grad;
  const double bound = 1 / std::sqrt(static_cast<double>(options.hidden_size()));
  for (Direction& direction : directions_)
    for (Product* product : {&direction.ih, &direction.hh}) {
      torch::nn::init::uniform_(product->weight, -bound, bound);
      if (product->bias.defined()) torch::nn::init::uniform_(product->bias, -bound, bound);
      product->quantizer.initialize_scales(product->weight);
      product->quantizer.initialize_step();
    }
}

template <class Derived>
void BitRecurrent<Derived>::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::" << Derived::kName << "(input_size=" << options.input_size()
         << ", hidden_size=" << options.hidden_size() << ", num_layers=" << options.num_layers()
         << ", bias=" << std::boolalpha << options.bias() << ", batch_first=" << options.batch_first()
         << ", dropout=" << options.dropout() << ", bidirectional=" << options.bidirectional()
         << ", quant=" << describe(options.quant()) << ')';
}

template <class Derived>
void BitRecurrent<Derived>::train(bool on) {
  torch::nn::Module::train(on);
  // So that changes through `.data()`, which leave no trace in a tensor, are seen.
  for (const Direction& direction : directions_)
    for (const Product* product : {&direction.ih, &direction.hh}) ops::forget_codes(product->weight);
}

template <class Derived>
std::vector<Quantizer*> BitRecurrent<Derived>::own_quantizers() {
  std::vector<Quantizer*> list;
  for (Direction& direction : directions_) list.insert(list.end(), {&direction.ih.quantizer, &direction.hh.quantizer});
  return list;
}

// One of its products.
template <class Derived>
class BitRecurrent<Derived>::Layer : public ProductLayer {
 public:
  Layer(BitRecurrent& owner, Product& product) : owner_(owner), product_(product) {}

  View view() override { return {product_.weight, product_.bias, product_.quantizer, product_.quant}; }
  at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const override {
    return at::linear(x, weight, optional(bias));
  }
  void freeze(const FrozenWeight& frozen) override {
    if (!owner_.options.bias()) {
      owner_.options.bias(true);
      owner_.for_each_product(
          [&](Product& product, const std::string& suffix, auto...) { owner_.register_bias(product, suffix); });
    }
    product_.quantizer.freeze(owner_, product_.quant, product_.weight, product_.bias, frozen);
    product_.is_frozen = true;
  }

 private:
  BitRecurrent& owner_;
  Product& product_;
};

template <class Derived>
std::vector<std::pair<std::string, std::shared_ptr<ProductLayer>>> BitRecurrent<Derived>::product_layers() {
  std::vector<std::pair<std::string, std::shared_ptr<ProductLayer>>> list;
  for_each_product([&](Product& product, const std::string& suffix, auto...) {
    list.emplace_back("weight" + suffix, std::make_shared<Layer>(*this, product));
  });
  return list;
}

template <class Derived>
void BitRecurrent<Derived>::adopt(const torch::nn::Module& source) {
  const auto theirs = source.named_parameters(false);
  this->to(theirs.front().value().device());  // what the quantizers registered
  const auto own = this->named_parameters(false);
  const auto take = [&](at::Tensor& tensor) {
    if (!tensor.defined()) return;
    for (const auto& item : own)
      if (item.value().is_same(tensor)) this->parameters_[item.key()] = tensor = theirs[item.key()];
  };
  for (Direction& direction : directions_)
    for (Product* product : {&direction.ih, &direction.hh}) {
      take(product->weight);
      take(product->bias);
      if (product->quantizer.is_active()) product->quantizer.initialize_scales(product->weight);
    }
}

template <class Derived>
void BitRecurrent<Derived>::check(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0) const {
  const bool is_batch = x.dim() == 3;
  if ((!is_batch && x.dim() != 2) || x.size(-1) != options.input_size())
    refuse_recurrent(ErrorCode::kShapeMismatch, Derived::kName, "x [{}, {}] or [T, {}], got {}",
                     options.batch_first() ? "B, T" : "T, B", options.input_size(), options.input_size(),
                     c10::str(x.sizes()));
  const int64_t tokens = x.size(is_batch && options.batch_first() ? 1 : 0);
  if (tokens < 1)
    refuse_recurrent(ErrorCode::kShapeMismatch, Derived::kName, "at least one token, got {}", c10::str(x.sizes()));
  std::vector<int64_t> expected{static_cast<int64_t>(directions_.size()), options.hidden_size()};
  if (is_batch) expected.insert(expected.begin() + 1, x.size(options.batch_first() ? 0 : 1));
  for (const at::Tensor& state : {h0, c0})
    if (state.defined() && state.sizes() != at::IntArrayRef(expected))
      refuse_recurrent(ErrorCode::kShapeMismatch, Derived::kName, "states {}, got {}", c10::str(at::IntArrayRef(expected)),
                       c10::str(state.sizes()));
}

template <class Derived>
RecurrentOutputs BitRecurrent<Derived>::run(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0) {
  check(x, h0, c0);
  const bool is_batch = x.dim() == 3;
  const int64_t batch_dim = options.batch_first() ? 0 : 1;
  const auto batch_of_one = [&](const at::Tensor& tensor, int64_t dim) {
    return is_batch || !tensor.defined() ? tensor : tensor.unsqueeze(dim);
  };
  const at::Tensor batch = batch_of_one(x, batch_dim);
  const RecurrentOutputs begin{{}, batch_of_one(h0, 1), batch_of_one(c0, 1)};
  RecurrentOutputs states = options.quant().enabled() ? run_ternary(batch, begin) : run_float(batch, begin);
  if (is_batch) return states;
  return {states.y.squeeze(batch_dim), states.h.squeeze(1), states.c.defined() ? states.c.squeeze(1) : at::Tensor()};
}

template <class Derived>
RecurrentOutputs BitRecurrent<Derived>::run_float(const at::Tensor& x, const RecurrentOutputs& begin) {
  std::vector<at::Tensor> weights;
  for (const Direction& direction : directions_) {
    weights.insert(weights.end(), {direction.ih.weight, direction.hh.weight});
    if (options.bias()) weights.insert(weights.end(), {direction.ih.bias, direction.hh.bias});
  }
  const auto state = [&](const at::Tensor& given) {
    if (given.defined()) return given;
    return at::zeros(
        {static_cast<int64_t>(directions_.size()), x.size(options.batch_first() ? 0 : 1), options.hidden_size()},
        x.options());
  };
  const auto& o = options;
  if constexpr (Derived::kCell == ops::RecurrentCell::kLstm) {
    auto [y, h, c] = at::lstm(x, {state(begin.h), state(begin.c)}, weights, o.bias(), o.num_layers(), o.dropout(),
                              this->is_training(), o.bidirectional(), o.batch_first());
    return {std::move(y), std::move(h), std::move(c)};
  } else {
    auto [y, h] = at::gru(x, state(begin.h), weights, o.bias(), o.num_layers(), o.dropout(), this->is_training(),
                          o.bidirectional(), o.batch_first());
    return {std::move(y), std::move(h), {}};
  }
}

template <class Derived>
RecurrentOutputs BitRecurrent<Derived>::run_ternary(const at::Tensor& x, const RecurrentOutputs& begin) {
  const RecurrentLayers layers{Derived::kCell, options.num_layers(), options.bidirectional(), options.batch_first(),
                               this->is_training() ? options.dropout() : 0};
  const auto gates = [this](int64_t i, const at::Tensor& read) {
    Product& ih = directions_[static_cast<size_t>(i)].ih;
    const at::Tensor x_read = ih.quantizer.input(read);
    return ih.quantizer.is_active() ? ih.quantizer.forward(*this, x_read, ih.weight, ih.bias)
                                    : at::linear(x_read, ih.weight, optional(ih.bias));
  };
  const auto steps = [this](int64_t i, const ops::RecurrentInputs& inputs) {
    Product& hh = directions_[static_cast<size_t>(i)].hh;
    return hh.quantizer.recurrent(*this, inputs, hh.weight, hh.bias);
  };
  return run_recurrent(layers, x, begin.h, begin.c, gates, steps);
}

template class BitRecurrent<BitLSTMImpl>;
template class BitRecurrent<BitGRUImpl>;

std::tuple<at::Tensor, BitLSTMImpl::Hidden> BitLSTMImpl::forward(const at::Tensor& x, const std::optional<Hidden>& hx) {
  const auto [h0, c0] = hx.value_or(Hidden());
  RecurrentOutputs states = run(x, h0, c0);
  return {std::move(states.y), {std::move(states.h), std::move(states.c)}};
}

std::tuple<at::Tensor, at::Tensor> BitGRUImpl::forward(const at::Tensor& x, const at::Tensor& hx) {
  RecurrentOutputs states = run(x, hx, {});
  return {std::move(states.y), std::move(states.h)};
}

}  // namespace bitlab::nn
