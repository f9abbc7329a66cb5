#include "bitlab/base/result.h"

#include <array>

namespace bitlab {
namespace {

// Columns of their own, of which a build has those that it uses.
constexpr std::array kErrorNames{
#define BITLAB_ERROR(code, group, meaning) std::string_view(#code),
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};
constexpr std::array kErrorMeanings{
#define BITLAB_ERROR(code, group, meaning) std::string_view(meaning),
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};
constexpr std::array kErrorGroups{
#define BITLAB_ERROR(code, group, meaning) ErrorGroup::group,
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};

}  // namespace

Failure::Failure(Error error) : error_(new Error(std::move(error))) {}
Error* Failure::copy(const Error& error) { return new Error(error); }
void Failure::destroy(Error* error) { delete error; }

Failure::operator Error() && {
  const std::unique_ptr<Error> owned(error_);
  return std::move(*owned);
}

std::string_view error_name(ErrorCode code) { return kErrorNames.at(static_cast<size_t>(code)); }
std::string_view error_meaning(ErrorCode code) { return kErrorMeanings.at(static_cast<size_t>(code)); }
ErrorGroup error_group(ErrorCode code) { return kErrorGroups.at(static_cast<size_t>(code)); }

}  // namespace bitlab
