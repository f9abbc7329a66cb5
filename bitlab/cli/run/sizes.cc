#include "bitlab/cli/run/sizes.h"

#include <charconv>

namespace bitlab::cli {

Result<std::vector<runtime::NamedSize>> named_sizes(const std::vector<std::string>& sizes) {
  std::vector<runtime::NamedSize> result;
  for (const std::string& text : sizes) {
    const size_t equals = text.find('=');
    const std::string digits = equals == std::string::npos ? "" : text.substr(equals + 1);
    int64_t size = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
    if (error != std::errc() || end != digits.data() + digits.size())
      return make_error(ErrorCode::kInvalidArgument, "[size] a symbol and its size as NAME=NUMBER, got '{}'", text);
    result.emplace_back(text.substr(0, equals), size);
  }
  return result;
}

Result<program::SymbolSizes> symbol_sizes(const program::Program& p, int64_t batch, const std::vector<std::string>& sizes) {
  BITLAB_TRY(const auto named, named_sizes(sizes));
  return runtime::sizes_of(p, batch, named);
}

}  // namespace bitlab::cli
