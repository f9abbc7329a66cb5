// TensorBoard's event files: TFRecords, each a protocol buffer `Event` of a step's scalars.
//
//   record   uint64 length, masked CRC-32C of these 8 bytes, the bytes, their masked CRC-32C; all little-endian
//   Event    1: wall_time double, 2: step int64, 3: file_version string, 5: summary
//   Summary  1: value, repeated;  Value   1: tag string, 2: simple_value float
#include <array>
#include <chrono>
#include <cstring>

#include "bitlab/base/protobuf.h"
#include "bitlab/train/internal/file_sink.h"

namespace bitlab::train {
namespace {

// Castagnoli's polynomial, reflected, a byte at a time.
uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    constexpr uint32_t kPolynomial = 0x82F63B78U;
    std::array<uint32_t, 256> values{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
      values[i] = value;
    }
    return values;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(c)) & 0xFFU];
  return ~crc;
}

uint32_t masked_crc(std::string_view bytes) {
  constexpr uint32_t kMask = 0xA282EAD8U;
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + kMask;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <class T>
T from_little_endian(std::string_view bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

constexpr std::string_view kEpochTag = "epoch";            // which epoch is over
constexpr std::string_view kEvaluationTag = "evaluation";  // in which epoch
constexpr std::string_view kEndTag = "end/best_epoch";

void add_scalar(ProtobufMessage& summary, std::string_view tag, double value) {
  summary.message(1, ProtobufMessage().text(1, tag).float32(2, static_cast<float>(value)));
}

std::string framed(const std::string& bytes) {
  const std::string length = little_endian<uint64_t>(bytes.size());
  return length + little_endian(masked_crc(length)) + bytes + little_endian(masked_crc(bytes));
}

std::string event_record(int64_t step, int field, std::string_view content) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return framed(ProtobufMessage().float64(1, now).number(2, step).text(field, content).bytes());
}

// The bytes of the first record; empty where there is no whole one.
std::string_view first_record(std::string_view bytes) {
  constexpr size_t kHead = 12, kTail = 4;
  if (bytes.size() < kHead + kTail || from_little_endian<uint32_t>(bytes.substr(8)) != masked_crc(bytes.substr(0, 8)))
    return {};
  const auto size = from_little_endian<uint64_t>(bytes);
  if (size > bytes.size() - kHead - kTail) return {};
  const std::string_view content = bytes.substr(kHead, size);
  if (from_little_endian<uint32_t>(bytes.substr(kHead + size)) != masked_crc(content)) return {};
  return bytes.substr(0, kHead + size + kTail);
}

// What of an event says whether it will come again.
struct EventPlace {
  Event::Kind kind = Event::Kind::kStep;
  int64_t step = 0, epoch = 0;

  static EventPlace read(std::string_view record) {
    EventPlace place;
    for (ProtobufReader event(record.substr(12, record.size() - 16)); event.next();) {
      if (event.field == 2) place.step = static_cast<int64_t>(event.number);
      if (event.field != 5) continue;
      for (ProtobufReader summary(event.content); summary.next();) place.read_value(summary.content);
    }
    return place;
  }
  void read_value(std::string_view bytes) {
    std::string_view tag;
    float number = 0;
    for (ProtobufReader value(bytes); value.next();) {
      if (value.field == 1) tag = value.content;
      if (value.field == 2 && value.content.size() == sizeof number) number = from_little_endian<float>(value.content);
    }
    if (tag == kEpochTag && number >= 0 && number < 1e9F) kind = Event::Kind::kEpoch, epoch = static_cast<int64_t>(number);
    if (tag == kEvaluationTag) kind = Event::Kind::kEvaluation;
    if (tag == kEndTag) kind = Event::Kind::kEnd;
  }
};

class TensorBoard final : public FileSink {
 public:
  using FileSink::FileSink;

 protected:
  size_t behind(std::string_view bytes, const EventPosition& position) override {
    size_t at = 0;
    for (std::string_view record; !(record = first_record(bytes.substr(at))).empty(); at += record.size()) {
      const EventPlace place = EventPlace::read(record);
      if (!position.is_behind(place.kind, place.step, place.epoch)) break;
    }
    return at;
  }
  std::string opening() override { return event_record(0, 3, "brain.Event:2"); }
  Result<std::string> record(const Event& event) override {
    ProtobufMessage summary;
    for (const Metric& number : event.numbers) add_scalar(summary, tag_of(event.kind, number.name), number.value);
    const bool is_evaluation = event.kind == Event::Kind::kEvaluation;
    if (is_evaluation || event.kind == Event::Kind::kEpoch)
      add_scalar(summary, is_evaluation ? kEvaluationTag : kEpochTag, static_cast<double>(event.epoch));
    return event_record(event.step, 5, summary.bytes());
  }
};

}  // namespace

std::shared_ptr<Sink> tensorboard(const std::filesystem::path& folder, int64_t every) {
  return std::make_shared<TensorBoard>(folder / "events.out.tfevents.0.bitlab", every);
}

}  // namespace bitlab::train
