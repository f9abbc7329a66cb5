#include "bitlab/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::data {
namespace {

Status check(const Dataset& set, const LoaderOptions& o) {
  if (set.size() < 1) return make_error(ErrorCode::kInvalidArgument, "[loader] at least one sample, got none");
  constexpr int64_t kMostWorkers = 1024;
  if (o.batch_size < 1 || o.workers < 0 || o.workers > kMostWorkers || o.prefetch < 1)
    return make_error(ErrorCode::kInvalidArgument,
                      "[loader] batch_size and prefetch of at least 1 and 0 to {} workers, got {}, {} and {}", kMostWorkers,
                      o.batch_size, o.prefetch, o.workers);
  if (o.world < 1 || o.rank < 0 || o.rank >= o.world)
    return make_error(ErrorCode::kInvalidArgument, "[loader] a rank below the world's size, got {} of {}", o.rank, o.world);
  if (o.drop_last && ceil_div(set.size(), o.world) < o.batch_size)
    return make_error(ErrorCode::kInvalidArgument, "[loader] samples for a whole batch of {}, got {}", o.batch_size,
                      ceil_div(set.size(), o.world));
  return {};
}

}  // namespace

std::vector<int64_t> order_of_epoch(int64_t size, int64_t epoch, const LoaderOptions& options) {
  std::vector<int64_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), int64_t{0});
  if (options.shuffle) {
    Random random(options.seed, static_cast<uint64_t>(epoch), ~uint64_t{0});  // no sample's
    for (int64_t i = size - 1; i > 0; --i)
      std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(random.between(0, i))]);
  }
  if (options.world == 1) return all;
  std::vector<int64_t> own;
  for (int64_t i = 0; i < ceil_div(size, options.world); ++i)
    own.push_back(all[static_cast<size_t>((i * options.world + options.rank) % size)]);
  return own;
}

// Threads that make the batches of one epoch, a few ahead of what was taken.
class Loader::Workers {
 public:
  using Make = std::function<Result<Sample>(int64_t batch)>;
  Workers(int64_t threads, int64_t ahead, int64_t first, int64_t end, Make make)
      : make_(std::move(make)), next_(first), taken_(first), end_(end), ahead_(threads * ahead) {
    for (int64_t i = 0; i < threads && start(); ++i) continue;
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Of batches in order.
  Result<Sample> take(int64_t batch) {
    if (threads_.empty()) return make_(batch);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ready_.contains(batch); });
    Result<Sample> result = std::move(ready_.at(batch));
    ready_.erase(batch);
    taken_ = batch + 1;
    lock.unlock();
    changed_.notify_all();
    return result;
  }

 private:
  // False where the system has no more threads: the others do the work, or else take().
  bool start() {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopped_ || next_ >= end_ || next_ < taken_ + ahead_; });
      if (stopped_ || next_ >= end_) return;
      const int64_t batch = next_++;
      lock.unlock();
      Result<Sample> made = make_(batch);
      lock.lock();
      ready_.emplace(batch, std::move(made));
      changed_.notify_all();
    }
  }

  Make make_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Result<Sample>> ready_;
  int64_t next_, taken_, end_, ahead_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

Loader::Loader(DatasetPtr set, LoaderOptions options)
    : set_(std::move(set)), options_(std::move(options)), preprocess_(set_->preprocess()) {}

Loader::~Loader() = default;

Result<std::unique_ptr<Loader>> Loader::create(DatasetPtr set, LoaderOptions options) {
  BITLAB_RETURN_IF_ERROR(check(*set, options));
  return std::unique_ptr<Loader>(new Loader(std::move(set), std::move(options)));
}

int64_t Loader::batches() const {
  const int64_t own = ceil_div(set_->size(), options_.world);
  return options_.drop_last ? own / options_.batch_size : ceil_div(own, options_.batch_size);
}

int64_t Loader::samples() const {
  const int64_t own = ceil_div(set_->size(), options_.world);
  return options_.drop_last ? batches() * options_.batch_size : own;
}

Result<Sample> make_batch(const Dataset& set, const Preprocess& preprocess, std::span<const int64_t> indices,
                          const std::function<Status(Sample&, int64_t index)>& change) {
  std::vector<Sample> samples;
  for (const int64_t index : indices) {
    BITLAB_TRY(samples.emplace_back(), set.get(index));
    if (change) BITLAB_RETURN_IF_ERROR(change(samples.back(), index));
  }
  BITLAB_TRY(Sample batch, stack(samples));
  BITLAB_RETURN_IF_ERROR(preprocess.apply(batch));
  return batch;
}

Result<Sample> Loader::make(int64_t epoch, int64_t batch) const try {
  const int64_t begin = batch * options_.batch_size, end = std::min(begin + options_.batch_size, samples());
  const auto indices = std::span(order_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return make_batch(*set_, preprocess_, indices, [&](Sample& sample, int64_t index) -> Status {
    Random random(options_.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(index));
    for (const Transform& transform : options_.transforms) BITLAB_RETURN_IF_ERROR(transform(sample, random));
    return {};
  });
} catch (const std::exception& error) {  // of a data set of the caller's, in a thread that nobody watches
  return make_error(ErrorCode::kInternal, "[loader] a data set that does not throw, got '{}'", error.what());
}

void Loader::begin_epoch() {
  order_ = order_of_epoch(set_->size(), state_.epoch, options_);
  if (options_.workers > 0)
    workers_ = std::make_unique<Workers>(options_.workers, options_.prefetch, state_.position, batches(),
                                         [this, epoch = state_.epoch](int64_t batch) { return make(epoch, batch); });
}

Result<std::optional<Sample>> Loader::next() {
  if (state_.position == batches()) {
    workers_.reset();
    order_.clear();
    state_ = {state_.epoch + 1, 0};
    return std::optional<Sample>();
  }
  if (order_.empty()) begin_epoch();
  Result<Sample> batch = workers_ ? workers_->take(state_.position) : make(state_.epoch, state_.position);
  if (!batch.ok()) {
    BITLAB_RETURN_IF_ERROR(seek(state_));  // so that another call tries again
    return batch.error();
  }
  ++state_.position;
  return std::optional(*std::move(batch));
}

Status Loader::seek(State state) {
  if (state.epoch < 1 || state.position < 0 || state.position > batches())
    return make_error(ErrorCode::kInvalidArgument, "[loader] an epoch from 1 on and a position from 0 to {}, got {} and {}",
                      batches(), state.epoch, state.position);
  workers_.reset();
  order_.clear();
  state_ = state;
  return {};
}

}  // namespace bitlab::data
