#include "bitlab/base/result.h"

#include <array>

namespace bitlab {
namespace {

struct ErrorRow {
  std::string_view name;
  ErrorGroup group;
  std::string_view meaning;
};

constexpr std::array kErrors{
#define BITLAB_ERROR(code, group, meaning) ErrorRow{#code, ErrorGroup::group, meaning},
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};

const ErrorRow& row(ErrorCode code) { return kErrors.at(static_cast<size_t>(code)); }

}  // namespace

Failure::Failure(Error error) : error_(new Error(std::move(error))) {}
Error* Failure::copy(const Error& error) { return new Error(error); }
void Failure::destroy(Error* error) { delete error; }

Failure::operator Error() const {
  const std::unique_ptr<Error> owned(error_);
  return std::move(*owned);
}

std::string_view error_name(ErrorCode code) { return row(code).name; }
std::string_view error_meaning(ErrorCode code) { return row(code).meaning; }
ErrorGroup error_group(ErrorCode code) { return row(code).group; }

}  // namespace bitlab
