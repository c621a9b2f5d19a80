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
  const void* images;  // (count, stored, height, width), stored being channels, or 1 for channels that are all equal
  int64_t pixel;       // their type: 0 uint8, 1 uint16, 2 float32
  int64_t count, stored, channels, height, width, size, bicubic, gray_first, rotates, blur_kernel;
  const float* low;  // (channels,) becomes 0
  const float* high;  // (channels,) becomes 1
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
  const int64_t* drop;  // (count,) a channel that becomes 0, or -1
  const float* mean;
  const float* std;
  float* out;  // (count, channels, size, size)
};

// name:type:numbers a sample, in the order of `Batch`; C numbers: one a channel, for all samples; without a type an
// int64 option.
const char* const LAYOUT =
    "images:pixel: pixel count stored channels height width size bicubic gray_first rotates blur_kernel low:float32:C "
    "high:float32:C box:int64:4 flip:bool: degrees:float32: jitter:bool: factors:float32:4 order:int64:4 gray:bool: "
    "blur:bool: sigma:float32: "
    "solarize:bool: drop:int64: mean:float32:C std:float32:C out:float32:";

// A pixel's value in [0, 1].
struct Unit {
  float low, scale;

  Unit(const Batch& b, int64_t c) : low(b.low[c]), scale(1 / (b.high[c] - b.low[c])) {}
  float operator()(float value) const { return clip((value - low) * scale); }

  template <typename Pixel>
  void line(const Pixel* from, int64_t length, float* to) const {
    const Unit unit = *this;  // a copy that `to` cannot overlap
    if (sizeof(Pixel) == 1 && low == 0 && scale == 1.0f / 255)  // nothing to clip
      for (int64_t x = 0; x < length; ++x) to[x] = float(from[x]) * (1.0f / 255);
    else
      for (int64_t x = 0; x < length; ++x) to[x] = unit(float(from[x]));
  }
};

template <typename Pixel>
void crop(const Batch& b, int64_t i, const Pixel* image, float* lines, float* out) {
  const int64_t *box = b.box + 4 * i, top = box[0], left = box[1], height = box[2], width = box[3], size = b.size;
  if (b.height == size && b.width == size && height == size && width == size) {  // cut before: nothing to resize
    for (int64_t c = 0; c < b.stored; ++c) {
      const Unit unit(b, c);
      for (int64_t y = 0; y < size; ++y) {
        const Pixel* from = image + (c * size + y) * size;
        float* to = out + (c * size + y) * size;
        for (int64_t x = 0; x < size; ++x) to[x] = unit(float(from[b.flip[i] ? size - 1 - x : x]));
      }
    }
    return;
  }
  const Resize columns(width, size, b.bicubic, b.flip[i]), rows(height, size, b.bicubic, false);
  std::vector<float> buffer(width);
  float* const line = buffer.data();
  for (int64_t c = 0; c < b.stored; ++c) {
    const Unit unit(b, c);
    for (int64_t y = 0; y < height; ++y) {
      const Pixel* from = image + (c * b.height + top + y) * b.width + left;
      unit.line(from, width, line);
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
    for (int64_t p = 0; p < b.stored * size * size; ++p) out[p] = clip(out[p]);
}

// Bilinear, black (the low end of the range) outside; the range of the values is kept.
template <typename Pixel>
void rotate(const Batch& b, const Pixel* image, float degrees, float* out) {
  const float angle = degrees * float(M_PI / 180), cosine = std::cos(angle), sine = std::sin(angle);
  const float middle_x = b.width * 0.5f, middle_y = b.height * 0.5f;
  for (int64_t y = 0; y < b.height; ++y)
    for (int64_t x = 0; x < b.width; ++x) {
      const float dx = x + 0.5f - middle_x, dy = y + 0.5f - middle_y;
      const float from_x = cosine * dx - sine * dy + middle_x - 0.5f, from_y = sine * dx + cosine * dy + middle_y - 0.5f;
      const float floor_x = std::floor(from_x), floor_y = std::floor(from_y);
      for (int64_t c = 0; c < b.stored; ++c) out[(c * b.height + y) * b.width + x] = b.low[c];
      for (int64_t corner = 0; corner < 4; ++corner) {
        const int64_t px = int64_t(floor_x) + corner % 2, py = int64_t(floor_y) + corner / 2;
        if (px < 0 || px >= b.width || py < 0 || py >= b.height) continue;
        const float weight = (1 - std::abs(from_x - px)) * (1 - std::abs(from_y - py));
        for (int64_t c = 0; c < b.stored; ++c) {
          const float value = std::min(std::max(float(image[(c * b.height + py) * b.width + px]), b.low[c]), b.high[c]);
          out[(c * b.height + y) * b.width + x] += weight * (value - b.low[c]);
        }
      }
    }
}

// Crop and resize, of the rotated image if it is rotated. Inlined three times into `view` it would be a tenth slower.
template <typename Pixel>
__attribute__((noinline)) void cut(const Batch& b, int64_t i, float* turned, float* lines, float* x) {
  const Pixel* image = static_cast<const Pixel*>(b.images) + i * b.stored * b.height * b.width;
  if (b.rotates && b.degrees[i] != 0) {
    rotate(b, image, b.degrees[i], turned);
    crop(b, i, turned, lines, x);
  } else {
    crop(b, i, image, lines, x);
  }
}

void view(const Batch& b, int64_t i, std::vector<float>& turned, std::vector<float>& scratch) {
  const int64_t pixels = b.size * b.size, channels = b.channels;
  const bool colour = channels == 3;
  float* x = b.out + i * channels * pixels;
  if (b.pixel == 0) cut<uint8_t>(b, i, turned.data(), scratch.data(), x);
  if (b.pixel == 1) cut<uint16_t>(b, i, turned.data(), scratch.data(), x);
  if (b.pixel == 2) cut<float>(b, i, turned.data(), scratch.data(), x);
  for (int64_t c = b.stored; c < channels; ++c) std::copy(x, x + pixels, x + c * pixels);
  if (colour && b.gray[i] && b.gray_first) grayscale(x, pixels);
  if (b.jitter[i])
    for (int64_t stage = 0; stage < 4; ++stage) {
      const int64_t kind = b.order[4 * i + stage];
      const float factor = b.factors[4 * i + kind];
      if (kind == 0) brightness(x, channels, pixels, factor);
      if (kind == 1) contrast(x, channels, pixels, factor);
      if (kind == 2 && colour) saturation(x, pixels, factor);
      if (kind == 3 && colour && factor != 0) hue(x, pixels, factor);
    }
  if (colour && b.gray[i] && !b.gray_first) grayscale(x, pixels);
  if (b.blur[i]) blur(x, channels, b.size, b.blur_kernel, b.sigma[i], scratch.data());
  if (b.solarize[i])
    for (int64_t p = 0; p < channels * pixels; ++p) x[p] = x[p] >= 0.5f ? 1 - x[p] : x[p];
  if (b.drop[i] >= 0) std::fill(x + b.drop[i] * pixels, x + (b.drop[i] + 1) * pixels, 0.0f);
  for (int64_t c = 0; c < channels; ++c) {
    const float mean = b.mean[c], std = b.std[c];
    for (int64_t p = c * pixels; p < (c + 1) * pixels; ++p) x[p] = (x[p] - mean) / std;
  }
}

enum Problem {
  OK, SIZES, THREADS, POINTER, CHANNELS, PIXEL, RANGE, SCALE, BOX, DEGREES, ORDER, FACTORS, SIGMA, KERNEL, DROP, MEMORY
};

// Field whose values the message shows | message, for each `Problem`.
const char* const MESSAGES[] = {
    "|",
    "size|the image or the view has no pixels or too many: size",
    "threads|at least one thread is needed, not",
    "|a tensor is missing",
    "channels|the images must have one channel or as many as the view: images, view",
    "pixel|the type of the images is unknown:",
    "range|the range of the values is not finite, or empty:",
    "std|the mean or the standard deviation is not finite, or this is 0:",
    "box|a box has no pixel or leaves its image: boxes",
    "degrees|a rotation is not finite: degrees",
    "order|an order must be a permutation of 0 to 3: orders",
    "factors|a colour's factor is not finite: factors",
    "sigma|a blur's sigma is not finite and positive: sigmas",
    "blur_kernel|the blur's kernel is not odd and smaller than twice the view:",
    "drop|there is no such channel to drop:",
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
  if (b.channels < 1 || b.channels > 1024 || (b.stored != b.channels && b.stored != 1)) return CHANNELS;
  const double bytes = 4.0 * b.channels * b.count * std::max(b.height * b.width, b.size * b.size);
  if (b.count < 0 || bytes > 4e18) return SIZES;
  if (b.pixel < 0 || b.pixel > 2) return PIXEL;
  if (threads < 1) return THREADS;
  if (b.count == 0) return OK;  // torch's empty tensors lie nowhere
  for (const void* pointer : {b.images, (const void*)b.low, (const void*)b.high, (const void*)b.box,
                              (const void*)b.flip, (const void*)b.degrees, (const void*)b.jitter,
                              (const void*)b.factors, (const void*)b.order, (const void*)b.gray, (const void*)b.blur,
                              (const void*)b.sigma, (const void*)b.solarize, (const void*)b.drop, (const void*)b.mean,
                              (const void*)b.std, (const void*)b.out})
    if (!pointer) return POINTER;
  const int64_t channels = b.channels;
  if (!finite(b.low, channels) || !finite(b.high, channels)) return RANGE;
  for (int64_t c = 0; c < channels; ++c)
    if (!(b.high[c] > b.low[c])) return RANGE;
  if (!finite(b.mean, channels) || !finite(b.std, channels) || std::count(b.std, b.std + channels, 0.0f)) return SCALE;
  for (int64_t i = 0; i < b.count; ++i) {
    const int64_t *box = b.box + 4 * i, top = box[0], left = box[1], height = box[2], width = box[3];
    if (top < 0 || height < 1 || height > b.height || top > b.height - height) return BOX;
    if (left < 0 || width < 1 || width > b.width || left > b.width - width) return BOX;
    if (b.rotates && !finite(b.degrees[i])) return DEGREES;
    if (b.jitter[i] && !is_order(b.order + 4 * i)) return ORDER;
    if (b.jitter[i] && !finite(b.factors + 4 * i, 4)) return FACTORS;
    if (b.drop[i] < -1 || b.drop[i] >= channels) return DROP;
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
      std::vector<float> turned(batch->rotates ? batch->stored * batch->height * batch->width : 0);
      std::vector<float> scratch(std::max(batch->channels * batch->size, batch->height) * batch->size);
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
