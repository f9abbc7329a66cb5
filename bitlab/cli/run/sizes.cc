#include "bitlab/cli/run/sizes.h"

#include <algorithm>
#include <charconv>

namespace bitlab::cli {

Result<program::SymbolSizes> symbol_sizes(const program::Program& p, int64_t batch, const std::vector<std::string>& sizes) {
  program::SymbolSizes result = program::kOnes;
  for (size_t i = 0; i < p.symbols.size(); ++i) result[i] = i == 0 ? batch : p.symbols[i].min;
  for (const std::string& text : sizes) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals), digits = equals == std::string::npos ? "" : text.substr(equals + 1);
    int64_t size = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
    const auto symbol =
        std::find_if(p.symbols.begin(), p.symbols.end(), [&](const program::Symbol& s) { return s.name == name; });
    if (error != std::errc() || end != digits.data() + digits.size() || symbol == p.symbols.end())
      return make_error(ErrorCode::kInvalidArgument, "[size] a symbol of {} and its size as NAME=NUMBER, got '{}'",
                        to_string(p.signature()), text);
    if (size < symbol->min || size > symbol->max)
      return make_error(ErrorCode::kInvalidArgument, "[size] {} from {} to {}, got {}", name, symbol->min, symbol->max,
                        size);
    result[static_cast<size_t>(symbol - p.symbols.begin())] = size;
  }
  if (const auto context = program::context_symbol(p)) result[*context] = program::appended_positions(p)->at(result);
  return result;
}

}  // namespace bitlab::cli
