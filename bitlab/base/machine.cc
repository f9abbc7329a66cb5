#include "bitlab/base/machine.h"

#include <array>
#include <cstdio>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <sched.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && !defined(__APPLE__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bitlab {
namespace {

constexpr std::array<std::string_view, 13> kFeatureNames{
#define BITLAB_FEATURE(name, meaning) #name,
#include "bitlab/base/features.def"
#undef BITLAB_FEATURE
};

#if defined(__APPLE__)
// A number of the system's by its name; 0 where it has none.
int64_t system_number(const char* name) {
  int64_t value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}
#endif

FeatureSet detect_features() {
  FeatureSet found;
#if defined(__x86_64__)
  // The builtin checks CPUID and that the operating system saves the registers.
#define BITLAB_DETECT(name) \
  if (__builtin_cpu_supports(#name)) found.insert(Feature::name)
  BITLAB_DETECT(avx2);
  BITLAB_DETECT(fma);
  BITLAB_DETECT(bmi2);
  BITLAB_DETECT(avx512f);
  BITLAB_DETECT(avx512bw);
  BITLAB_DETECT(avx512vl);
  BITLAB_DETECT(avx512vbmi);
  BITLAB_DETECT(avx512vnni);
  BITLAB_DETECT(avx512bf16);
#undef BITLAB_DETECT
  // Not every compiler knows this one; its registers are those of AVX.
  unsigned a, b, c, d;
  constexpr unsigned kF16c = 1U << 29;
  if (found.contains(Feature::avx2) && __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & kF16c) != 0) found.insert(Feature::f16c);
#elif defined(__aarch64__)
  found.insert(Feature::neon);  // part of the base architecture
#if defined(__APPLE__)
  if (system_number("hw.optional.arm.FEAT_DotProd") != 0) found.insert(Feature::dotprod);
  if (system_number("hw.optional.arm.FEAT_I8MM") != 0) found.insert(Feature::i8mm);
#else
  constexpr unsigned long kHwcapDotProduct = 1UL << 20, kHwcap2Int8Matrix = 1UL << 13;  // Linux, asm/hwcap.h
  if (getauxval(AT_HWCAP) & kHwcapDotProduct) found.insert(Feature::dotprod);
  if (getauxval(AT_HWCAP2) & kHwcap2Int8Matrix) found.insert(Feature::i8mm);
#endif
#endif
  return found;
}

#if defined(__APPLE__)
std::string detect_cpu_name() {
  char name[128];
  size_t size = sizeof(name);
  return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "unknown";
}

int detect_cores() { return static_cast<int>(system_number("hw.logicalcpu")); }

#define BITLAB_CACHE_SIZE(level, LEVEL) system_number("hw." #level "cachesize")
#else
// Read by C's functions: a stream of C++ brings locales along, which are most of a library that has the C++ library inside.
std::string detect_cpu_name() {
  std::string name = "unknown";
  std::FILE* info = std::fopen("/proc/cpuinfo", "re");
  if (info == nullptr) return name;
  char text[256];
  while (std::fgets(text, sizeof(text), info) != nullptr) {
    const std::string_view line = text;
    const size_t colon = line.find(": ");
    if (!line.starts_with("model name") || colon == std::string_view::npos) continue;
    name = line.substr(colon + 2, line.find('\n') - (colon + 2));
    break;
  }
  std::fclose(info);
  return name;
}

int detect_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

#ifdef _SC_LEVEL1_DCACHE_SIZE
#define BITLAB_CACHE_SIZE(level, LEVEL) sysconf(_SC_LEVEL##LEVEL##CACHE_SIZE)
#else  // musl
#define BITLAB_CACHE_SIZE(level, LEVEL) 0
#endif
#endif

int64_t positive(int64_t size, int64_t fallback) { return size > 0 ? size : fallback; }

Machine detect() {
  Machine machine;
  machine.cpu = detect_cpu_name();
  machine.features = detect_features();
  machine.cores = detect_cores();
  machine.l1d_bytes = positive(BITLAB_CACHE_SIZE(l1d, 1_D), machine.l1d_bytes);
  machine.l2_bytes = positive(BITLAB_CACHE_SIZE(l2, 2_), machine.l2_bytes);
  machine.l3_bytes = positive(BITLAB_CACHE_SIZE(l3, 3_), machine.l3_bytes);
  return machine;
}

}  // namespace

std::string_view feature_name(Feature feature) { return kFeatureNames.at(static_cast<size_t>(feature)); }

std::string FeatureSet::to_string() const {
  std::string text;
  for (size_t i = 0; i < kFeatureNames.size(); ++i) {
    if (!contains(static_cast<Feature>(i))) continue;
    if (!text.empty()) text += ' ';
    text += kFeatureNames[i];
  }
  return text;
}

const Machine& this_machine() {
  static const Machine machine = detect();
  return machine;
}

Result<Machine> named_machine(std::string_view name) {
  struct Entry {
    std::string_view name;
    FeatureSet features;
  };
  constexpr std::array kMachines{
#define BITLAB_MACHINE(name, ...) Entry{#name, FeatureSet{__VA_ARGS__}},
#include "bitlab/base/internal/machines.def"
#undef BITLAB_MACHINE
  };
  std::string list;
  for (const Entry& entry : kMachines) {
    if (entry.name == name) {
      Machine machine;
      machine.cpu = name;
      machine.features = entry.features;
      return machine;
    }
    list.append(list.empty() ? "" : ", ").append(entry.name);
  }
  return make_error(ErrorCode::kUnknownName, "[machine] one of {{{}}}, got '{}'", list, name);
}

}  // namespace bitlab
