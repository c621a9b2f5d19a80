// views.cpp under the sanitisers: random batches in buffers of exactly the needed size, then wrong ones.
//
//     native_driver SEED ROUNDS
//
// test_native.py compiles and runs it. Exits with 1 and a line on stderr where a result is wrong.

#include "views.cpp"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>

// Allocations until one fails; every one after it fails as well. Below 0: none does.
std::atomic<int64_t> allocations_left{-1};

void* operator new(size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- <= 0) {
    allocations_left = 0;
    throw std::bad_alloc();
  }
  return std::malloc(bytes);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace {

void demand(bool holds, const char* what, int64_t number) {
  if (holds) return;
  std::fprintf(stderr, "%s (%lld)\n", what, (long long)number);
  std::exit(1);
}

struct Random {
  std::mt19937_64 engine;
  int64_t whole(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  bool coin() { return whole(0, 1); }
};

// A batch and its memory.
struct Case {
  std::unique_ptr<uint8_t[]> bytes, flip, jitter, gray, blur, solarize;
  std::unique_ptr<uint16_t[]> words;
  std::unique_ptr<int64_t[]> box, order, drop;
  std::unique_ptr<float[]> floats, low, high, degrees, factors, sigma, mean, std, out;
  Batch b;

  Case(Random& r, int64_t height, int64_t width) {
    b.count = r.whole(1, 5), b.height = height, b.width = width, b.size = r.coin() ? r.whole(1, 9) : r.whole(1, 40);
    b.bicubic = r.coin(), b.gray_first = r.coin(), b.rotates = r.coin();
    b.blur_kernel = 2 * r.whole(0, b.size - 1) + 1;
    const int64_t many[] = {1, 2, 3, 3, 3, 4, 13};
    b.channels = many[r.whole(0, 6)], b.stored = r.coin() ? 1 : b.channels, b.pixel = r.whole(0, 2);
    const int64_t n = b.count, pixels = n * b.stored * height * width;
    if (b.pixel == 0) b.images = (bytes = std::make_unique<uint8_t[]>(pixels)).get();
    if (b.pixel == 1) b.images = (words = std::make_unique<uint16_t[]>(pixels)).get();
    if (b.pixel == 2) b.images = (floats = std::make_unique<float[]>(pixels)).get();
    for (int64_t p = 0; p < pixels; ++p) {
      if (bytes) bytes[p] = uint8_t(r.engine());
      if (words) words[p] = uint16_t(r.engine());
      if (floats) floats[p] = r.real(-1e6f, 1e6f);
    }
    b.low = (low = std::make_unique<float[]>(b.channels)).get();
    b.high = (high = std::make_unique<float[]>(b.channels)).get();
    for (int64_t c = 0; c < b.channels; ++c) low[c] = r.real(-100, 100), high[c] = low[c] + r.real(0.01f, 1e5f);
    b.drop = (drop = std::make_unique<int64_t[]>(n)).get();
    for (int64_t i = 0; i < n; ++i) drop[i] = r.whole(-1, b.channels - 1);
    for (auto* coins : {&flip, &jitter, &gray, &blur, &solarize}) {
      *coins = std::make_unique<uint8_t[]>(n);
      for (int64_t i = 0; i < n; ++i) (*coins)[i] = r.coin();
    }
    b.flip = flip.get(), b.jitter = jitter.get(), b.gray = gray.get(), b.blur = blur.get(), b.solarize = solarize.get();
    b.box = (box = std::make_unique<int64_t[]>(4 * n)).get();
    b.order = (order = std::make_unique<int64_t[]>(4 * n)).get();
    b.degrees = (degrees = std::make_unique<float[]>(n)).get();
    b.factors = (factors = std::make_unique<float[]>(4 * n)).get();
    b.sigma = (sigma = std::make_unique<float[]>(n)).get();
    b.mean = (mean = std::make_unique<float[]>(b.channels)).get();
    b.std = (std = std::make_unique<float[]>(b.channels)).get();
    b.out = (out = std::make_unique<float[]>(n * b.channels * b.size * b.size)).get();
    for (int64_t i = 0; i < n; ++i) {
      int64_t* of = &box[4 * i];
      of[2] = r.coin() ? height : r.whole(1, height), of[3] = r.coin() ? width : r.whole(1, width);
      of[0] = r.coin() ? height - of[2] : r.whole(0, height - of[2]);  // often at the far border
      of[1] = r.coin() ? width - of[3] : r.whole(0, width - of[3]);
      for (int64_t k = 0; k < 4; ++k) order[4 * i + k] = k, factors[4 * i + k] = r.real(k < 3 ? 0 : -0.5f, k < 3 ? 2 : 0.5f);
      std::shuffle(&order[4 * i], &order[4 * i] + 4, r.engine);
      degrees[i] = r.coin() ? r.real(-360, 360) : 90.0f * r.whole(-4, 4);
      sigma[i] = std::exp(r.real(-7, 4));
    }
    for (int64_t c = 0; c < b.channels; ++c) mean[c] = r.real(0, 1), std[c] = r.real(0.1f, 1);
  }

  void clear(float value) { std::fill(b.out, b.out + length(), value); }
  int64_t length() const { return b.count * b.channels * b.size * b.size; }
};

void right(Random& r, int64_t height, int64_t width) {
  Case c(r, height, width);
  c.clear(1e30f);
  demand(render(&c.b, 1) == OK, "a right batch is refused", c.b.size);
  for (int64_t p = 0; p < c.length(); ++p) {
    const int64_t channel = p / (c.b.size * c.b.size) % c.b.channels;
    const float value = c.out[p] * c.std[channel] + c.mean[channel];  // a colour in [0, 1]
    demand(finite(value) && std::abs(value - 0.5f) < 0.5001f, "a value is no colour", p);
  }
  const std::vector<float> alone(c.b.out, c.b.out + c.length());
  c.clear(1e30f);
  demand(render(&c.b, r.whole(2, 6)) == OK, "a right batch is refused by threads", c.b.size);
  demand(std::equal(alone.begin(), alone.end(), c.b.out), "threads make other views", c.b.size);
}

// Each change makes one thing of a right batch wrong.
template <typename Change>
void wrong(Random& r, Problem expected, Change change, int64_t threads = 2) {
  Case c(r, r.whole(1, 20), r.whole(1, 20));
  for (int64_t i = 0; i < c.b.count; ++i) c.jitter[i] = c.blur[i] = 1;
  c.b.rotates = 1;
  c.clear(7);
  float* out = c.b.out;
  const int64_t length = c.length(), last = c.b.count - 1;
  change(c, last);
  const int found = render(&c.b, threads);
  demand(found == expected, "another problem is found than the one of this number", 100 * expected + found);
  demand(std::count(out, out + length, 7.0f) == length, "a wrong batch is rendered", expected);
}

void refusals(Random& r) {
  const float inf = HUGE_VALF, nan = std::strtof("nan", nullptr);
  demand(render(nullptr, 1) == POINTER, "no batch is accepted", 0);
  for (int64_t bad : {int64_t(0), int64_t(-1), int64_t(1) << 25, INT64_MAX, INT64_MIN}) {
    wrong(r, SIZES, [=](Case& c, int64_t) { c.b.height = bad; });
    wrong(r, SIZES, [=](Case& c, int64_t) { c.b.width = bad; });
    wrong(r, SIZES, [=](Case& c, int64_t) { c.b.size = bad; });
  }
  for (int64_t bad : {int64_t(-1), INT64_MIN, INT64_MAX}) wrong(r, SIZES, [=](Case& c, int64_t) { c.b.count = bad; });
  wrong(r, SIZES, [](Case& c, int64_t) { c.b.count = int64_t(1) << 31, c.b.height = c.b.width = 1 << 24; });
  for (int64_t bad : {int64_t(0), int64_t(-1), INT64_MIN}) wrong(r, THREADS, [](Case&, int64_t) {}, bad);
  auto nothing = [&](auto pointer) { wrong(r, POINTER, [=](Case& c, int64_t) { c.b.*pointer = nullptr; }); };
  nothing(&Batch::images), nothing(&Batch::box), nothing(&Batch::flip), nothing(&Batch::degrees);
  nothing(&Batch::jitter), nothing(&Batch::factors), nothing(&Batch::order), nothing(&Batch::gray);
  nothing(&Batch::blur), nothing(&Batch::sigma), nothing(&Batch::solarize), nothing(&Batch::mean);
  nothing(&Batch::std), nothing(&Batch::out), nothing(&Batch::low), nothing(&Batch::high), nothing(&Batch::drop);
  for (int64_t bad : {int64_t(0), int64_t(-1), int64_t(1025), INT64_MAX, INT64_MIN})
    wrong(r, CHANNELS, [=](Case& c, int64_t) { c.b.channels = bad, c.b.stored = 1; });
  for (int64_t bad : {int64_t(0), int64_t(-1), int64_t(14), INT64_MAX, INT64_MIN})
    wrong(r, CHANNELS, [=](Case& c, int64_t) { c.b.stored = bad; });
  for (int64_t bad : {int64_t(3), int64_t(-1), INT64_MAX, INT64_MIN})
    wrong(r, PIXEL, [=](Case& c, int64_t) { c.b.pixel = bad; });
  for (int64_t bad : {int64_t(-2), INT64_MAX, INT64_MIN}) wrong(r, DROP, [=](Case& c, int64_t i) { c.drop[i] = bad; });
  wrong(r, DROP, [=](Case& c, int64_t i) { c.drop[i] = c.b.channels; });
  for (float bad : {inf, -inf, nan}) {
    wrong(r, RANGE, [=](Case& c, int64_t) { c.low[c.b.channels - 1] = bad; });
    wrong(r, RANGE, [=](Case& c, int64_t) { c.high[c.b.channels - 1] = bad; });
  }
  wrong(r, RANGE, [=](Case& c, int64_t) { c.high[c.b.channels - 1] = c.low[c.b.channels - 1]; });
  for (int64_t k = 0; k < 4; ++k) {
    wrong(r, BOX, [=](Case& c, int64_t i) { c.box[4 * i + k] = -1; });
    wrong(r, BOX, [=](Case& c, int64_t i) { c.box[4 * i + k] = INT64_MAX; });
    wrong(r, BOX, [=](Case& c, int64_t i) { c.box[4 * i + k] = INT64_MIN; });
    wrong(r, BOX, [=](Case& c, int64_t i) { c.box[4 * i + k] = k < 2 ? (k ? c.b.width : c.b.height) : 0; });
    wrong(r, BOX, [=](Case& c, int64_t i) { c.box[4 * i + k] += (k % 2 ? c.b.width : c.b.height); });
    for (int64_t bad : {int64_t(-1), int64_t(4), INT64_MAX, INT64_MIN})
      wrong(r, ORDER, [=](Case& c, int64_t i) { c.order[4 * i + k] = bad; });
    wrong(r, ORDER, [=](Case& c, int64_t i) { c.order[4 * i + k] = c.order[4 * i + (k + 1) % 4]; });
    for (float bad : {inf, -inf, nan}) wrong(r, FACTORS, [=](Case& c, int64_t i) { c.factors[4 * i + k] = bad; });
  }
  for (float bad : {inf, -inf, nan}) {
    wrong(r, DEGREES, [=](Case& c, int64_t i) { c.degrees[i] = bad; });
    wrong(r, SCALE, [=](Case& c, int64_t i) { c.mean[i % c.b.channels] = bad; });
    wrong(r, SCALE, [=](Case& c, int64_t i) { c.std[i % c.b.channels] = bad; });
  }
  for (float bad : {0.0f, -0.0f}) wrong(r, SCALE, [=](Case& c, int64_t i) { c.std[i % c.b.channels] = bad; });
  for (float bad : {0.0f, -1.0f, inf, -inf, nan}) wrong(r, SIGMA, [=](Case& c, int64_t i) { c.sigma[i] = bad; });
  for (int64_t bad : {int64_t(0), int64_t(-1), int64_t(2), INT64_MAX, INT64_MIN})
    wrong(r, KERNEL, [=](Case& c, int64_t) { c.b.blur_kernel = bad; });
  wrong(r, KERNEL, [](Case& c, int64_t) { c.b.blur_kernel = 2 * c.b.size + 1; });
}

// What no step reads is not judged, and an empty batch needs no memory.
void allowed(Random& r) {
  Case c(r, 5, 6);
  c.b.blur_kernel = -2, c.b.rotates = 0;
  for (int64_t i = 0; i < c.b.count; ++i) {
    c.jitter[i] = c.blur[i] = 0, c.order[4 * i] = 9;
    c.sigma[i] = c.degrees[i] = c.factors[4 * i] = std::strtof("nan", nullptr);
  }
  demand(render(&c.b, 2) == OK, "values that nothing reads are refused", 0);
  Batch empty{};
  empty.height = empty.width = empty.size = empty.stored = empty.channels = 1;
  demand(render(&empty, 1) == OK, "an empty batch is refused", 0);
}

// Memory runs out at each allocation in turn: an answer comes back, and a whole batch where the answer is OK.
void out_of_memory(Random& r) {
  for (int64_t threads : {1, 3}) {
    int64_t left = 0, refused = 0;
    for (int found = MEMORY; left < 1000; ++left) {
      Case c(r, 9, 7);
      c.clear(1e30f);
      allocations_left = left;
      found = render(&c.b, threads);
      const bool enough = allocations_left > 0;
      allocations_left = -1;
      demand(found == OK || found == MEMORY, "a strange answer", found);
      refused += found == MEMORY;
      if (found == OK) demand(std::count(c.b.out, c.b.out + c.length(), 1e30f) == 0, "a part is missing", left);
      if (enough) break;
    }
    demand(refused > 3 && left < 1000, "no allocation fails", refused);
  }
}

}  // namespace

int main(int, char** argument) {
  Random r{std::mt19937_64(std::atoll(argument[1]))};
  for (int64_t round = 0, rounds = std::atoll(argument[2]); round < rounds; ++round)
    right(r, r.whole(1, 64), r.whole(1, 64));
  const int64_t extremes[][2] = {{1, 1}, {1, 64}, {64, 1}, {1, 4000}, {4000, 1}, {2000, 10}, {10, 2000}, {2, 3}};
  for (const auto& extreme : extremes)
    for (int64_t again = 0; again < 4; ++again) right(r, extreme[0], extreme[1]);
  for (int64_t again = 0; again < 5; ++again) refusals(r);
  allowed(r);
  out_of_memory(r);
  std::puts("fine");
}
