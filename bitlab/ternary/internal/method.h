// How a method finds a threshold and scales from the weights that share them. A rule is data, so that one file serves the encoder of the CPU
// (encode.cc) and that of any device (ops/), which evaluate it to the same bits: methods/<name>.cc has the rule of each row of methods.def.
#pragma once

#include "bitlab/ternary/spec.h"

namespace bitlab::ternary {

struct MethodRule {
  // The number m that a method begins with. Of |w|, the weights that share a scale: their mean, lower median or maximum; or 1; or the
  // magnitude of a learned parameter.
  enum class Measure { kOne, kMean, kMedian, kMax, kLearnedScale, kLearnedThreshold };
  // D.
  enum class Threshold {
    kHalfScale,  // s / 2, where w / s rounds away from zero
    kTimesC,     // c m
    kMeasure,    // m
  };
  // s, and s- of asymmetric methods.
  enum class Scale {
    kMeasure,         // max(m, 1e-5) / limit
    kBest,            // the mean of |w| over |w| > D, which least squares finds for that D; 0 where there is none
    kBestOfEachSign,  // the same over w > D, and over w < -D
    kLearned,         // the parameters themselves
  };
  // Where learned parameters begin: at the scale or the threshold that another method finds, times a number for weights around zero.
  struct Beginning {
    Method method;
    double times;
  };

  Measure measure;
  Threshold threshold;
  Scale scale;
  Beginning beginning{};  // of methods that learn
};

const MethodRule& rule(Method method);

#define BITLAB_METHOD(Name, ...) extern const MethodRule k##Name##Rule;
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD

// The spec whose encoding has the scales and the threshold at which the parameters of `spec` begin. A method that learns its threshold begins
// at c times what its formula says. Error: Unsupported (nothing is learned).
Result<WeightSpec> beginning(const WeightSpec& spec);

}  // namespace bitlab::ternary
