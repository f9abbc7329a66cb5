#include "bitlab/models/text/gpt.h"

namespace bitlab::models {
namespace {

// Tokens int64 [B, T] -> logits of the next tokens [B, T, vocabulary].
class Gpt final : public TensorModel {
 public:
  Gpt(const GptConfig& c, const convert::QuantScope& scope) : config_(c.transformer) {
    transformer_ = register_module("transformer", std::make_shared<Transformer>(config_, true, scope / "transformer"));
    head_ = register_module(
        "head", scope.layer<nn::BitLinear>("head", nn::BitLinearOptions(config_.dim, config_.vocabulary).bias(false)));
  }
  std::optional<program::Signature> signature() const override { return signature_of(config_); }

 protected:
  at::Tensor compute(const at::Tensor& tokens) override { return head_(transformer_->forward(tokens)); }

 private:
  TransformerConfig config_;
  std::shared_ptr<Transformer> transformer_;
  nn::BitLinear head_{nullptr};
};

Result<std::shared_ptr<Model>> make_gpt(const GptConfig& c, const convert::QuantScope& scope) {
  GptConfig checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(GptConfig::kName, config::table_of(checked)));
  return std::shared_ptr<Model>(std::make_shared<Gpt>(c, scope));
}

}  // namespace

ModelKind gpt_kind() { return kind_of(make_gpt); }

}  // namespace bitlab::models
