// Views on a CPU: each image goes through its whole list while it lies in a core's cache.
//
// The arithmetic of ops.py, which says what each step computes; native.py compiles and calls it. Planes are float,
// values in [0, 1] after the crop. No step depends on the number of threads.
//
// A further operation has its fields in `Batch` and LAYOUT, its code in `view`, and its checks in `problem`.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "planes.h"

namespace {

struct Batch {  // every field has 8 bytes; LAYOUT says the same for native.py
  const uint8_t* images;  // (count, 3, height, width)
  int64_t count, height, width, size, bicubic, gray_first, rotates, blur_kernel;
  const int64_t* box;  // (count, 4) top, left, height, width
  const uint8_t* flip;
  const float* degrees;
  const uint8_t* jitter;
  const float* factors;  // (count, 4) brightness, contrast, saturation, hue
  const int64_t* order;  // (count, 4)
  const uint8_t* gray;
  const uint8_t* blur;
  const float* sigma;
  const uint8_t* solarize;
  const float* mean;
  const float* std;
  float* out;  // (count, 3, size, size)
};

// name:type:numbers a sample, in the order of `Batch`; without a type an int64 option.
const char* const LAYOUT =
    "images:uint8: count height width size bicubic gray_first rotates blur_kernel box:int64:4 flip:bool: "
    "degrees:float32: jitter:bool: factors:float32:4 order:int64:4 gray:bool: blur:bool: sigma:float32: "
    "solarize:bool: mean:float32:3 std:float32:3 out:float32:";

// Resizing of a line: output i is the sum over t of weight[t * size + i] * input[source[t * size + i]].
struct Resize {
  int64_t taps;
  std::vector<int32_t> source;
  std::vector<float> weight;

  Resize(int64_t length, int64_t size, bool bicubic, bool reverse) {
    const double scale = double(length) / size, wide = std::max(scale, 1.0), reach = (bicubic ? 2 : 1) * wide;
    taps = 2 * int64_t(std::ceil(reach)) + 1;
    source.assign(taps * size, 0);
    weight.assign(taps * size, 0);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t place = reverse ? size - 1 - i : i;
      const double center = scale * (i + 0.5);
      const int64_t first = std::max<int64_t>(int64_t(std::floor(center - reach)), 0);
      double sum = 0;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t pixel = first + t;
        const double x = std::abs((pixel + 0.5 - center) / wide);
        double w = std::max(0.0, 1 - x);
        if (bicubic) w = x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
        if (pixel >= length) w = 0;
        source[t * size + place] = int32_t(std::min(pixel, length - 1));
        weight[t * size + place] = float(w);
        sum += w;
      }
      for (int64_t t = 0; t < taps; ++t) weight[t * size + place] /= float(sum);
    }
    while (taps > 1 && std::all_of(&weight[(taps - 1) * size], &weight[(taps - 1) * size] + size,
                                   [](float w) { return w == 0; }))
      --taps;
  }
};

template <typename Pixel>
void crop(const Batch& b, int64_t i, const Pixel* image, float* lines, float* out) {
  const int64_t *box = b.box + 4 * i, top = box[0], left = box[1], height = box[2], width = box[3], size = b.size;
  const Resize columns(width, size, b.bicubic, b.flip[i]), rows(height, size, b.bicubic, false);
  std::vector<float> line(width);
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < height; ++y) {
      const Pixel* from = image + (c * b.height + top + y) * b.width + left;
      for (int64_t x = 0; x < width; ++x) line[x] = float(from[x]) * (1.0f / 255);
      float* to = lines + y * size;
      std::fill(to, to + size, 0.0f);
      for (int64_t t = 0; t < columns.taps; ++t) {
        const int32_t* source = &columns.source[t * size];
        const float* weight = &columns.weight[t * size];
        for (int64_t x = 0; x < size; ++x) to[x] += weight[x] * line[source[x]];
      }
    }
    for (int64_t y = 0; y < size; ++y) {
      float* to = out + (c * size + y) * size;
      std::fill(to, to + size, 0.0f);
      for (int64_t t = 0; t < rows.taps; ++t) {
        const float weight = rows.weight[t * size + y];
        if (weight == 0) continue;
        const float* from = lines + rows.source[t * size + y] * size;
        for (int64_t x = 0; x < size; ++x) to[x] += weight * from[x];
      }
    }
  }
  if (b.bicubic)
    for (int64_t p = 0; p < 3 * size * size; ++p) out[p] = clip(out[p]);
}

// Bilinear, black outside.
void rotate(const Batch& b, const uint8_t* image, float degrees, float* out) {
  const float angle = degrees * float(M_PI / 180), cosine = std::cos(angle), sine = std::sin(angle);
  const float middle_x = b.width * 0.5f, middle_y = b.height * 0.5f;
  for (int64_t y = 0; y < b.height; ++y)
    for (int64_t x = 0; x < b.width; ++x) {
      const float dx = x + 0.5f - middle_x, dy = y + 0.5f - middle_y;
      const float from_x = cosine * dx - sine * dy + middle_x - 0.5f, from_y = sine * dx + cosine * dy + middle_y - 0.5f;
      const float floor_x = std::floor(from_x), floor_y = std::floor(from_y);
      float sum[3] = {0, 0, 0};
      for (int64_t corner = 0; corner < 4; ++corner) {
        const int64_t px = int64_t(floor_x) + corner % 2, py = int64_t(floor_y) + corner / 2;
        if (px < 0 || px >= b.width || py < 0 || py >= b.height) continue;
        const float weight = (1 - std::abs(from_x - px)) * (1 - std::abs(from_y - py));
        for (int64_t c = 0; c < 3; ++c) sum[c] += weight * image[(c * b.height + py) * b.width + px];
      }
      for (int64_t c = 0; c < 3; ++c) out[(c * b.height + y) * b.width + x] = sum[c];
    }
}

void view(const Batch& b, int64_t i, std::vector<float>& turned, std::vector<float>& scratch) {
  const int64_t pixels = b.size * b.size;
  const uint8_t* image = b.images + i * 3 * b.height * b.width;
  float* x = b.out + i * 3 * pixels;
  if (b.rotates) {
    rotate(b, image, b.degrees[i], turned.data());
    crop(b, i, turned.data(), scratch.data(), x);
  } else {
    crop(b, i, image, scratch.data(), x);
  }
  if (b.gray[i] && b.gray_first) grayscale(x, pixels);
  if (b.jitter[i])
    for (int64_t stage = 0; stage < 4; ++stage) {
      const int64_t kind = b.order[4 * i + stage];
      const float factor = b.factors[4 * i + kind];
      if (kind == 0) brightness(x, pixels, factor);
      if (kind == 1) contrast(x, pixels, factor);
      if (kind == 2) saturation(x, pixels, factor);
      if (kind == 3 && factor != 0) hue(x, pixels, factor);
    }
  if (b.gray[i] && !b.gray_first) grayscale(x, pixels);
  if (b.blur[i]) blur(x, b.size, b.blur_kernel, b.sigma[i], scratch.data());
  if (b.solarize[i])
    for (int64_t p = 0; p < 3 * pixels; ++p) x[p] = x[p] >= 0.5f ? 1 - x[p] : x[p];
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t p = c * pixels; p < (c + 1) * pixels; ++p) x[p] = (x[p] - b.mean[c]) / b.std[c];
}

enum Problem { OK, SIZES, THREADS, POINTER, SCALE, BOX, DEGREES, ORDER, FACTORS, SIGMA, KERNEL, MEMORY };

// Field whose values the message shows | message, for each `Problem`.
const char* const MESSAGES[] = {
    "|",
    "size|the image or the view has no pixels or too many: size",
    "threads|at least one thread is needed, not",
    "|a tensor is missing",
    "std|the mean or the standard deviation is not finite, or this is 0:",
    "box|a box has no pixel or leaves its image: boxes",
    "degrees|a rotation is not finite: degrees",
    "order|an order must be a permutation of 0 to 3: orders",
    "factors|a colour's factor is not finite: factors",
    "sigma|a blur's sigma is not finite and positive: sigmas",
    "blur_kernel|the blur's kernel is not odd and smaller than twice the view:",
    "memory|there is not enough memory",
};

// By its bits: -ffinite-math-only makes std::isfinite say true of everything.
bool finite(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

bool finite(const float* x, int64_t length) { return std::all_of(x, x + length, [](float v) { return finite(v); }); }

bool is_order(const int64_t* order) {
  int64_t seen = 0;
  for (int64_t stage = 0; stage < 4; ++stage)
    if (order[stage] >= 0 && order[stage] < 4) seen |= 1 << order[stage];
  return seen == 15;
}

// The first problem of a batch. Numbers that no step reads are not checked.
Problem problem(const Batch* batch, int64_t threads) {
  if (!batch) return POINTER;
  const Batch& b = *batch;
  const int64_t side = 1 << 24;  // pixels that float counts exactly; the square fits int64_t
  for (int64_t length : {b.height, b.width, b.size})
    if (length < 1 || length > side) return SIZES;
  if (b.count < 0 || 12.0 * b.count * std::max(b.height * b.width, b.size * b.size) > 4e18) return SIZES;  // bytes
  if (threads < 1) return THREADS;
  if (b.count == 0) return OK;  // torch's empty tensors lie nowhere
  for (const void* pointer : {(const void*)b.images, (const void*)b.box, (const void*)b.flip, (const void*)b.degrees,
                              (const void*)b.jitter, (const void*)b.factors, (const void*)b.order,
                              (const void*)b.gray, (const void*)b.blur, (const void*)b.sigma,
                              (const void*)b.solarize, (const void*)b.mean, (const void*)b.std, (const void*)b.out})
    if (!pointer) return POINTER;
  if (!finite(b.mean, 3) || !finite(b.std, 3) || std::count(b.std, b.std + 3, 0.0f)) return SCALE;
  for (int64_t i = 0; i < b.count; ++i) {
    const int64_t *box = b.box + 4 * i, top = box[0], left = box[1], height = box[2], width = box[3];
    if (top < 0 || height < 1 || height > b.height || top > b.height - height) return BOX;
    if (left < 0 || width < 1 || width > b.width || left > b.width - width) return BOX;
    if (b.rotates && !finite(b.degrees[i])) return DEGREES;
    if (b.jitter[i] && !is_order(b.order + 4 * i)) return ORDER;
    if (b.jitter[i] && !finite(b.factors + 4 * i, 4)) return FACTORS;
    if (!b.blur[i]) continue;
    if (!finite(b.sigma[i]) || b.sigma[i] <= 0) return SIGMA;
    if (b.blur_kernel < 1 || b.blur_kernel % 2 == 0 || b.blur_kernel / 2 >= b.size) return KERNEL;  // mirrored once
  }
  return OK;
}

}  // namespace

extern "C" const char* layout() noexcept { return LAYOUT; }

extern "C" const char* message(int problem) noexcept { return MESSAGES[problem]; }

// Returns a `Problem`. If an argument is wrong, nothing is rendered. No exception leaves.
extern "C" int render(const Batch* batch, int64_t threads) noexcept {
  if (const Problem found = problem(batch, threads)) return found;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  auto work = [&] {
    try {
      std::vector<float> turned(batch->rotates ? 3 * batch->height * batch->width : 0);
      std::vector<float> scratch(std::max(3 * batch->size, batch->height) * batch->size);
      for (int64_t i; !failed && (i = next++) < batch->count;) view(*batch, i, turned, scratch);
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  try {
    for (int64_t t = 1; t < std::min(threads, batch->count); ++t) others.emplace_back(work);
  } catch (...) {  // no more threads to be had: fewer make the same views
  }
  work();
  for (auto& other : others) other.join();
  return failed ? MEMORY : OK;
}
