#include "bitlab/models/text/text_classifier.h"

#include <ATen/ops/ne.h>

namespace bitlab::models {
namespace {

// Tokens int64 [B, T], at least one of each text no padding -> logits [B, classes].
class TextClassifier final : public TensorModel {
 public:
  TextClassifier(const TextClassifierConfig& c, const convert::QuantScope& scope) : config_(c.transformer) {
    transformer_ = register_module("transformer", std::make_shared<Transformer>(config_, false, scope / "transformer"));
    head_ = register_module("head", scope.layer<nn::BitLinear>("head", nn::BitLinearOptions(config_.dim, c.classes)));
  }
  std::optional<program::Signature> signature() const override { return signature_of(config_); }

 protected:
  at::Tensor compute(const at::Tensor& tokens) override {
    const at::Tensor is_text = at::ne(tokens, config_.vocabulary - 1);
    const at::Tensor vectors = transformer_->forward(tokens, is_text.unsqueeze(1).unsqueeze(1));
    const at::Tensor weights = is_text.to(vectors.scalar_type()).unsqueeze(2);
    return head_((vectors * weights).sum(1) / weights.sum(1));
  }

 private:
  TransformerConfig config_;
  std::shared_ptr<Transformer> transformer_;
  nn::BitLinear head_{nullptr};
};

Result<std::shared_ptr<Model>> make_text_classifier(const TextClassifierConfig& c, const convert::QuantScope& scope) {
  TextClassifierConfig checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(TextClassifierConfig::kName, config::table_of(checked)));
  return std::shared_ptr<Model>(std::make_shared<TextClassifier>(c, scope));
}

}  // namespace

ModelKind text_classifier_kind() { return kind_of(make_text_classifier); }

}  // namespace bitlab::models
