// Operations on the planes of one view: values in [0, 1], `pixels` to a plane, a plane a channel. See ops.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

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

float clip(float x) { return std::min(std::max(x, 0.0f), 1.0f); }

float luma(float red, float green, float blue) { return 0.2989f * red + 0.587f * green + 0.114f * blue; }

void brightness(float* x, int64_t channels, int64_t pixels, float factor) {
  for (int64_t p = 0; p < channels * pixels; ++p) x[p] = clip(x[p] * factor);
}

void blend(float* x, int64_t pixels, float factor, float rest) {
  for (int64_t p = 0; p < pixels; ++p) x[p] = clip(x[p] * factor + rest);
}

void contrast(float* x, int64_t channels, int64_t pixels, float factor) {
  const bool colour = channels == 3;  // with the mean luma; else each channel with its own mean
  for (int64_t c = 0; c < (colour ? 1 : channels); ++c) {
    float* plane = x + c * pixels;
    const float *green = plane + pixels, *blue = green + pixels;
    double sum = 0;
    for (int64_t start = 0; start < pixels; start += 1024) {
      const int64_t end = std::min(start + 1024, pixels);
      float part = 0;
      if (colour)
        for (int64_t p = start; p < end; ++p) part += luma(plane[p], green[p], blue[p]);
      else
        for (int64_t p = start; p < end; ++p) part += plane[p];
      sum += part;
    }
    blend(plane, colour ? 3 * pixels : pixels, factor, (1 - factor) * float(sum / pixels));
  }
}

void saturation(float* x, int64_t pixels, float factor) {
  float *green = x + pixels, *blue = green + pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    const float rest = (1 - factor) * luma(x[p], green[p], blue[p]);
    x[p] = clip(x[p] * factor + rest);
    green[p] = clip(green[p] * factor + rest);
    blue[p] = clip(blue[p] * factor + rest);
  }
}

void hue(float* x, int64_t pixels, float factor) {
  for (int64_t p = 0; p < pixels; ++p) {
    const float red = x[p], green = x[p + pixels], blue = x[p + 2 * pixels];
    const float value = std::max(std::max(red, green), blue);
    const float chroma = value - std::min(std::min(red, green), blue);
    const float scale = 1 / std::max(chroma, 1e-12f);
    const float of_red = (green - blue) * scale, of_green = (blue - red) * scale + 2, of_blue = (red - green) * scale + 4;
    const float place = (value == red ? of_red : value == green ? of_green : of_blue) + 6 * factor;
    for (int64_t c = 0; c < 3; ++c) {
      float k = place + (5 - 2 * c);
      k -= 6 * std::floor(k * (1.0f / 6));
      x[p + c * pixels] = clip(value - chroma * clip(std::min(k, 4 - k)));
    }
  }
}

void grayscale(float* x, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p) x[p] = x[p + pixels] = x[p + 2 * pixels] = luma(x[p], x[p + pixels], x[p + 2 * pixels]);
}

int64_t mirrored(int64_t i, int64_t size) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; }

void blur(float* x, int64_t channels, int64_t size, int64_t kernel, float sigma, float* scratch) {
  const int64_t reach = kernel / 2;
  std::vector<float> tap(reach + 1), line(size + 2 * reach);
  float sum = 0;
  for (int64_t t = 0; t <= reach; ++t) {
    tap[t] = std::exp(-0.5f * (t / sigma) * (t / sigma));
    sum += t ? 2 * tap[t] : tap[t];
  }
  int64_t used = 0;  // taps that float resolves beside the sum
  for (int64_t t = 0; t <= reach; ++t)
    if ((tap[t] /= sum) > 1e-8f) used = t;
  for (int64_t row = 0; row < channels * size; ++row) {
    const float* from = x + row * size;
    for (int64_t i = 0; i < size + 2 * reach; ++i) line[i] = from[mirrored(i - reach, size)];
    const float* middle = line.data() + reach;
    float* to = scratch + row * size;
    for (int64_t i = 0; i < size; ++i) to[i] = tap[0] * middle[i];
    for (int64_t t = 1; t <= used; ++t)
      for (int64_t i = 0; i < size; ++i) to[i] += tap[t] * (middle[i - t] + middle[i + t]);
  }
  for (int64_t c = 0; c < channels; ++c) {
    const float* plane = scratch + c * size * size;
    for (int64_t y = 0; y < size; ++y) {
      float* to = x + (c * size + y) * size;
      for (int64_t i = 0; i < size; ++i) to[i] = tap[0] * plane[y * size + i];
      for (int64_t t = 1; t <= used; ++t) {
        const float *above = plane + mirrored(y - t, size) * size, *below = plane + mirrored(y + t, size) * size;
        for (int64_t i = 0; i < size; ++i) to[i] += tap[t] * (above[i] + below[i]);
      }
    }
  }
}

}  // namespace
