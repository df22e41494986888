// SPDX-License-Identifier: Apache-2.0
#include "tests/stress/faulty_reader.h"

#include <thread>
#include <utility>

namespace adapmoe::stress {

FaultyReader::FaultyReader(const File& file, const std::string& reader, int readers,
                           const Faults& faults, uint64_t seed)
    : random_(seed),
      faults_(faults),
      reader_(std::move(make_reader(reader, file, readers).value().reader)) {}

void FaultyReader::set_completion(Completion completion) {
  completion_ = std::move(completion);
  reader_->set_completion(
      [this](uint64_t tag, const Status& read, std::span<const std::byte>) { finish(tag, read); });
}

void FaultyReader::submit(const ReadRequest& request) {
  {
    const std::lock_guard lock(mutex_);
    ++totals_.submitted;
    Plan plan{.into = request.into};
    const int64_t longest = random_.chance(faults_.slow) ? 40'000 : 200;
    plan.delay = std::chrono::microseconds(random_.between<int64_t>(0, longest));
    plan.fail = random_.chance(faults_.fail);
    plan.damage = random_.chance(faults_.damage);
    plans_[request.tag] = plan;
  }
  reader_->submit(request);
}

bool FaultyReader::cancel(uint64_t tag) {
  const std::lock_guard lock(mutex_);
  if (!reader_->cancel(tag)) return false;
  plans_.erase(tag);
  --totals_.submitted;
  return true;
}

void FaultyReader::finish(uint64_t tag, const Status& read) {
  std::unique_lock lock(mutex_);
  const auto delay = plans_.at(tag).delay;
  lock.unlock();
  std::this_thread::sleep_for(delay);
  lock.lock();
  const Plan plan = plans_.at(tag);  // calm() may have changed it meanwhile
  plans_.erase(tag);
  const bool fault = plan.fail || plan.damage;
  totals_.faults += fault ? 1 : 0;
  totals_.succeeded += read.ok() && !plan.fail ? 1 : 0;
  delivering_ += fault ? 1 : 0;
  lock.unlock();

  if (plan.damage) plan.into[plan.into.size() / 3] ^= std::byte{4};
  completion_(tag, plan.fail ? read_error("injected failure") : read, plan.into);

  lock.lock();
  delivering_ -= fault ? 1 : 0;
  delivered_.notify_all();
}

void FaultyReader::calm() {
  std::unique_lock lock(mutex_);
  faults_.fail = 0.0;
  faults_.damage = 0.0;
  for (auto& [tag, plan] : plans_) plan.fail = plan.damage = false;
  delivered_.wait(lock, [this] { return delivering_ == 0; });
}

FaultyReader::Totals FaultyReader::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

}  // namespace adapmoe::stress
