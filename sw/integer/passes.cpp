// The passes over data of the integer training step, fused: one loop for each operator that reads
// images. golden/ops/step says what they compute; tests/sw/integer/test_passes.py compares them
// with it in every bit. Tensors are (N, C, P), contiguous, P pixels.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using i8 = int8_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;
using u32 = uint32_t;

namespace {

constexpr i32 GRADIENT_MAX = 127 * 256 + 127, CODE_MAX = 127;
constexpr int FRACTION = 10;
constexpr i64 LEFT = i64(1) << 20, ABSENT = -256 * LEFT;    // golden.ops.step.statistics

inline i64 clamp(i64 x, i64 low, i64 high) { return std::min(std::max(x, low), high); }
inline i64 sat32(i64 x) { return clamp(x, INT32_MIN, INT32_MAX); }

// golden.random.counter_bits
inline u32 random8(u32 seed, u32 index) {
  u32 state = index * u32(-1640531535) + seed;
  state = (state ^ (state >> 15)) * u32(-2048144777);
  state = (state ^ (state >> 13)) * u32(-1028477379);
  return state >> 24;
}

// golden.arith.lanes with a multiplier and a shift that are known before the loop. A result fits
// int32. `each` runs a loop in its cheapest form: by a power of two, without a left shift, or
// whole.
struct Lanes {
  i64 multiplier;
  int left, right;
  Lanes(i64 m, i64 shift) {
    multiplier = shift > 62 ? 0 : clamp(m, 0, INT32_MAX);
    int s = int(clamp(shift, 0, 62));
    left = std::max(31 - s, 0);
    right = std::max(s - 31, 0);
  }
  i64 product(i64 x) const { return sat32(sat32(x) * (i64(1) << left)) * multiplier; }
  i64 nearest(i64 x) const { return (product(x) + (i64(1) << (30 + right))) >> (31 + right); }
  i64 drawn(i64 x, u32 r) const {
    return (product(x) + (i64(2 * r + 1) << (22 + right))) >> (31 + right);
  }
  // put(i, y) for i below count; get(i) gives an int32.
  template <typename Get, typename Put>
  void each_nearest(i64 count, Get get, Put put) const {
    if (left == 0 && multiplier == i64(1) << 30 && right < 30) {
      i64 half = i64(1) << right;
      for (i64 i = 0; i < count; i++) put(i, i32((i64(get(i)) + half) >> (right + 1)));
    } else if (left == 0) {
      i64 half = i64(1) << (30 + right);
      i32 m = i32(multiplier);
      for (i64 i = 0; i < count; i++) put(i, i32((i64(get(i)) * i64(m) + half) >> (31 + right)));
    } else {
      for (i64 i = 0; i < count; i++) put(i, i32(nearest(get(i))));
    }
  }
  // With the random bits of the indices first, first + step, ...
  template <typename Get, typename Put>
  void each_drawn(i64 count, u32 seed, u32 first, u32 step, Get get, Put put) const {
    if (left == 0 && multiplier == i64(1) << 30) {
      for (i64 i = 0; i < count; i++) {
        u32 r = random8(seed, first + u32(i) * step);
        put(i, i32((i64(get(i)) * 256 + (i64(2 * r + 1) << right)) >> (9 + right)));
      }
    } else {
      for (i64 i = 0; i < count; i++)
        put(i, i32(drawn(get(i), random8(seed, first + u32(i) * step))));
    }
  }
};

inline i32 watch32(i32 y) { return y ^ (y >> 31); }
inline i32 limited(i32 x, i32 most) { return std::min(std::max(x, -most), most); }

// The output columns whose tap j of a kernel lies in a row of w pixels: x = column sx + j - left.
struct Span {
  i64 first, end;
  Span(i64 j, i64 w, i64 sx, i64 left, i64 ow) {
    first = left - j <= 0 ? 0 : clamp((left - j + sx - 1) / sx, 0, ow);
    end = w - 1 + left - j < 0 ? 0 : clamp((w - 1 + left - j) / sx + 1, 0, ow);
    end = std::max(first, end);
  }
};

// visit(tap, output row, input row, span, offset) for every tap and row that meet: the input column
// of output column i is i sx + offset.
template <typename Visit>
void for_taps(i64 h, i64 w, i64 kh, i64 kw, i64 sy, i64 sx, i64 top, i64 left, i64 oh, i64 ow,
              Visit visit) {
  for (i64 i = 0; i < kh; i++)
    for (i64 j = 0; j < kw; j++) {
      Span span(j, w, sx, left, ow);
      for (i64 row = 0; row < oh; row++) {
        i64 y = row * sy + i - top;
        if (y >= 0 && y < h) visit(i * kw + j, row, y, span, j - left);
      }
    }
}

// Where the pixels of an image begin in a row of a group of images: (N / G, rows, G, P).
inline i64 place(i64 image, i64 row, i64 rows, i64 group, i64 p) {
  return ((image / group) * rows + row) * group * p + (image % group) * p;
}

// loop(keep): keep(i) has all bits where y above 0 and below the limit lets a gradient through,
// else none: an and is faster than a branch that no processor can foresee.
template <typename Loop>
void with_mask(const i8* y, i64 base, i32 limit, Loop loop) {
  if (y) {
    const i8* codes = y + base;
    u32 range = limit > 0 ? u32(limit) - 1 : 0;
    if (limit > 127)
      loop([=](i64 i) { return -i32(codes[i] > 0); });
    else
      loop([=](i64 i) { return -i32(u32(i32(codes[i])) - 1 < range); });
  } else {
    loop([](i64) { return -1; });
  }
}

inline i64 largest(const std::vector<i64>& tops) {
  i64 top = 0;
  for (i64 t : tops) top = std::max(top, t);
  return top;
}

// What a tap sees of a plane (H, W): pixel (row sy + down, column sx + right), zeros as padding.
template <typename T>
void picked_plane(const i8* source, T* target, i64 h, i64 w, i64 down, i64 right, i64 sy, i64 sx,
                  i64 oh, i64 ow, Span span) {
  for (i64 row = 0; row < oh; row++, target += ow) {
    i64 y = row * sy + down;
    if (y < 0 || y >= h) {
      std::memset(target, 0, ow * sizeof(T));
      continue;
    }
    const i8* line = source + y * w + right;
    for (i64 column = 0; column < span.first; column++) target[column] = 0;
    for (i64 column = span.first; column < span.end; column++) target[column] = line[column * sx];
    for (i64 column = span.end; column < ow; column++) target[column] = 0;
  }
}

// The same for strides of 1 and rows as wide as the plane's: one move, then what wrapped around.
template <typename T>
void moved_plane(const i8* source, T* target, i64 h, i64 w, i64 down, i64 right, i64 oh,
                 Span span) {
  i64 first = clamp(-down, 0, oh), end = clamp(h - down, first, oh);
  if (span.first >= span.end) first = end = oh;
  std::memset(target, 0, first * w * sizeof(T));
  std::memset(target + end * w, 0, (oh - end) * w * sizeof(T));
  if (first == end) return;
  const i8* moved = source + down * w + right;
  for (i64 at = first * w + span.first; at < (end - 1) * w + span.end; at++) target[at] = moved[at];
  for (i64 row = first; row < end; row++) {
    T* line = target + row * w;
    for (i64 column = 0; column < span.first; column++) line[column] = 0;
    for (i64 column = span.end; column < w; column++) line[column] = 0;
  }
}

// x (N, C, H, W) int8 to columns (N / G, C kh kw, G, OH OW), zeros as padding.
template <typename T>
void columns_of(const i8* x, T* out, i64 n, i64 group, i64 c, i64 h, i64 w, i64 kh, i64 kw, i64 sy,
             i64 sx, i64 top, i64 left, i64 oh, i64 ow, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i8* source = x + (image * c + channel) * h * w;
      for (i64 i = 0; i < kh; i++)
        for (i64 j = 0; j < kw; j++) {
          i64 tap = (channel * kh + i) * kw + j;
          T* target = out + place(image, tap, c * kh * kw, group, oh * ow);
          Span span(j, w, sx, left, ow);
          if (sx == 1 && sy == 1 && ow == w)
            moved_plane(source, target, h, w, i - top, j - left, oh, span);
          else
            picked_plane(source, target, h, w, i - top, j - left, sy, sx, oh, ow, span);
        }
    }
}

// The sums of columns (N / G, C kh kw, G, OH OW) at the pixels that they come from: (N, C, H, W).
template <typename T>
void sums_of_columns(const T* in, T* out, i64 n, i64 group, i64 c, i64 h, i64 w, i64 kh,
                  i64 kw, i64 sy, i64 sx, i64 top, i64 left, i64 oh, i64 ow, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      T* target = out + (image * c + channel) * h * w;
      std::memset(target, 0, h * w * sizeof(T));
      for (i64 i = 0; i < kh; i++)
        for (i64 j = 0; j < kw; j++) {
          i64 tap = (channel * kh + i) * kw + j;
          const T* source = in + place(image, tap, c * kh * kw, group, oh * ow);
          Span span(j, w, sx, left, ow);
          for (i64 row = 0; row < oh; row++, source += ow) {
            i64 y = row * sy + i - top;
            if (y < 0 || y >= h) continue;
            T* line = target + y * w + j - left;
            if (sx == 1)
              for (i64 column = span.first; column < span.end; column++)
                line[column] += source[column];
            else
              for (i64 column = span.first; column < span.end; column++)
                line[column * sx] += source[column];
          }
        }
    }
}

// Sums (N / G, C, G, P) to pre-norm codes (N, C, P).
template <typename T>
void pre_norm_of(const T* sums, const i32* shift, i8* q, i64 n, i64 group, i64 c, i64 p,
              int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const T* source = sums + place(image, channel, c, group, p);
      i8* target = q + (image * c + channel) * p;
      Lanes(i64(1) << 30, i64(shift[channel]) + 30)
          .each_nearest(p, [=](i64 i) { return i32(source[i]); },
                        [=](i64 i, i32 y) { target[i] = i8(std::min(std::max(y, -128), 127)); });
    }
}

// Sums (N / G, C, G, P) to codes (N, C, P): golden.ops.Rescale of sums + bias, half up.
template <typename T>
void rescale_of(const T* sums, const i32* bias, const i64* multiplier, const i64* shift, i64 zero,
                i64 low, i64 high, i8* y, i64 n, i64 group, i64 c, i64 p, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const T* source = sums + place(image, channel, c, group, p);
      i8* target = y + (image * c + channel) * p;
      i64 b = bias[channel];
      Lanes(multiplier[channel], shift[channel])
          .each_nearest(p, [=](i64 i) { return i32(sat32(i64(source[i]) + b)); },
                        [=](i64 i, i32 y) { target[i] = i8(clamp(i64(y) + zero, low, high)); });
    }
}

// Sums (N / G, C, G, P) to gradient codes of 16 bits (N, C, P), drawn, and the larger watch. first:
// the number of the first image in the batch.
template <typename T>
void gradient_codes_of(const T* sums, i64 multiplier, i64 shift, i64 seed, i64 first, i16* g,
                       i32* top, i64 n, i64 group, i64 c, i64 p, int threads) {
  std::vector<i64> tops(n * c);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const T* source = sums + place(image, channel, c, group, p);
      i16* target = g + (image * c + channel) * p;
      i32 most = 0;
      Lanes(multiplier, shift)
          .each_drawn(p, u32(seed), u32((first + image) * p * c + channel), u32(c),
                      [=](i64 i) { return i32(source[i]); },
                      [&most, target](i64 i, i32 y) {
                        most = std::max(most, watch32(y));
                        target[i] = i16(limited(y, GRADIENT_MAX));
                      });
      tops[image * c + channel] = most;
    }
  *top = i32(std::max(i64(*top), largest(tops)));
}

// Low and high digits of g (N, C, P) as (N / G, 2 C, G, P).
template <typename T>
void digits_of(const i16* g, T* out, i64 n, i64 group, i64 c, i64 p, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i16* source = g + (image * c + channel) * p;
      T* low = out + place(image, channel, 2 * c, group, p);
      T* high = out + place(image, c + channel, 2 * c, group, p);
      for (i64 i = 0; i < p; i++) {
        i32 v = limited(source[i], GRADIENT_MAX), h = (v + 128) >> 8;
        low[i] = T(v - (h << 8));
        high[i] = T(h);
      }
    }
}

// The lanes' results of p values as 16 bits and, drawn, as 8; their watch.
inline i32 both_widths(Lanes lanes, const i32* z, i16* g16, i8* g8, i64 p, u32 seed, u32 first,
                       u32 step) {
  i32 most = 0;
  lanes.each_nearest(p, [=](i64 i) { return z[i]; },
                     [&most, g16](i64 i, i32 y) {
                       most = std::max(most, watch32(y));
                       g16[i] = i16(limited(y, GRADIENT_MAX));
                     });
  for (i64 i = 0; i < p; i++) {
    i32 r = i32(random8(seed, first + u32(i) * step));
    g8[i] = i8(limited((g16[i] + r) >> 8, CODE_MAX));
  }
  return most;
}

// Codes of 8 bits (N, C, P) as (N / G, C, G, P).
template <typename T>
void rows_of(const i8* x, T* out, i64 n, i64 group, i64 c, i64 p, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i8* source = x + (image * c + channel) * p;
      T* target = out + place(image, channel, c, group, p);
      for (i64 i = 0; i < p; i++) target[i] = source[i];
    }
}
}  // namespace

extern "C" {

// Sums of q and of its squares, int64 (C), and the ends of chunks (C, K) as of
// golden.ops.step.NormStatistics.of_ends. start: the number of the first image in the batch.
void statistics(const i8* q, i64* total, i64* squares, i64* high_ends, i64* low_ends, i64 start,
                i64 n, i64 c, i64 p, i64 length, i64 chunks, int threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 channel = 0; channel < c; channel++) {
    i64 sum = 0, square = 0;
    i64 *highs = high_ends + channel * chunks, *lows = low_ends + channel * chunks;
    std::fill(highs, highs + chunks, ABSENT);
    std::fill(lows, lows + chunks, ABSENT);
    i64 all = (start + n) * p;
    for (i64 chunk = start * p / length; chunk * length < all; chunk++) {
      i64 begin = chunk * length, end = std::min(begin + length, all);
      int high = -129, low = 128;
      i64 first_high = 0, first_low = 0;
      for (i64 at = std::max(begin, start * p); at < end;) {
        i64 image = at / p, stop = std::min((image + 1) * p, end);
        stop = std::min(stop, at + (1 << 16));      // 2^16 squares fit 32 bits
        const i8* source = q + ((image - start) * c + channel) * p - image * p;
        int part_high = -129, part_low = 128;
        i32 part_sum = 0;
        u32 part_square = 0;
        for (i64 i = at; i < stop; i++) {
          i32 v = source[i];
          part_sum += v;
          part_square += u32(v * v);
          part_high = std::max(part_high, v);
          part_low = std::min(part_low, v);
        }
        sum += part_sum;
        square += part_square;
        if (part_high > high) {
          high = part_high;
          i64 i = at;
          while (source[i] != high) i++;
          first_high = i - begin;
        }
        if (part_low < low) {
          low = part_low;
          i64 i = at;
          while (source[i] != low) i++;
          first_low = i - begin;
        }
        at = stop;
      }
      highs[chunk] = i64(high) * LEFT + length - 1 - first_high;
      lows[chunk] = i64(~low) * LEFT + length - 1 - first_low;
    }
    total[channel] = sum;
    squares[channel] = square;
  }
}

// y and the watch. limit: of ReLU6, else above every code.
void norm_apply(const i8* q, const i8* sign, const i32* bias, const i32* multiplier,
                const i32* shift, i64 low, i64 limit, i8* y, i32* top, i64 n, i64 c, i64 p,
                int threads) {
  std::vector<i64> tops(n * c);
  i32 least = low == 0 ? 0 : INT32_MIN, most_of = i32(limit);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i8* source = q + (image * c + channel) * p;
      i8* target = y + (image * c + channel) * p;
      i32 s = sign[channel] * (1 << FRACTION), most = 0;
      i64 b = bias[channel];
      Lanes(multiplier[channel], shift[channel])
          .each_nearest(p, [=](i64 i) { return i32(sat32(i64(s * source[i]) + b)); },
                        [&most, target, least, most_of](i64 i, i32 v) {
                          v = std::min(std::max(v, least), most_of);
                          most = std::max(most, watch32(v));
                          target[i] = i8(std::min(std::max(v, -128), 127));
                        });
      tops[image * c + channel] = most;
    }
  *top = i32(largest(tops));
}

// y = lanes(shifted a + shifted b), and the watch; nearest. (N, P), P values of an image.
void residual_add(const i8* a, const i8* b, i64 left_a, i64 right_a, i64 left_b, i64 right_b,
                  i64 shift, i64 low, i8* y, i32* top, i64 n, i64 p, int threads) {
  std::vector<i64> tops(n);
  i32 least = low == 0 ? 0 : INT32_MIN;
  right_a = std::min(right_a, i64(31));
  right_b = std::min(right_b, i64(31));
#pragma omp parallel for num_threads(threads)
  for (i64 image = 0; image < n; image++) {
    const i8 *first = a + image * p, *second = b + image * p;
    i8* target = y + image * p;
    i32 most = 0;
    Lanes(i64(1) << 30, shift)
        .each_nearest(p,
                      [=](i64 i) {
                        return ((first[i] * (1 << left_a)) >> right_a) +
                               ((second[i] * (1 << left_b)) >> right_b);
                      },
                      [&most, target, least](i64 i, i32 v) {
                        v = std::max(v, least);
                        most = std::max(most, watch32(v));
                        target[i] = i8(std::min(std::max(v, -128), 127));
                      });
    tops[image] = most;
  }
  *top = i32(largest(tops));
}

// y = table[a][b], the codes counted from -128.
void lookup_pairs(const i8* a, const i8* b, const i8* table, i8* y, i64 count, int threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 i = 0; i < count; i++) y[i] = table[(a[i] + 128) * 256 + b[i] + 128];
}

// Sums of g and of g q by channel, int64 (C).
void norm_sums(const i16* g, const i8* q, const i8* mask, i64 limit, i64* sum_g, i64* sum_gq, i64 n,
               i64 c, i64 p, int threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 channel = 0; channel < c; channel++) {
    i64 first = 0, second = 0;
    for (i64 image = 0; image < n; image++) {
      i64 base = (image * c + channel) * p;
      const i16* source = g + base;
      const i8* codes = q + base;
      for (i64 begin = 0; begin < p; begin += 256) {      // 256 products of 2^22 fit 32 bits
        i64 end = std::min(begin + 256, p);
        with_mask(mask, base, i32(limit), [&first, &second, source, codes, begin, end](auto keep) {
          i32 sum = 0, product = 0;
          for (i64 i = begin; i < end; i++) {
            i32 v = limited(source[i], GRADIENT_MAX) & keep(i);
            sum += v;
            product += v * codes[i];
          }
          first += sum;
          second += product;
        });
      }
    }
    sum_g[channel] = first;
    sum_gq[channel] = second;
  }
}

// g16, g8 of the sums of a normed layer, and the watch: the gradient of the extremes of chunks.
// start: the number of the first image in the batch.
void norm_gradient(const i16* g, const i32* at_high, const i32* at_low, const i8* sign,
                   const i32* mean, const i32* spike, const i32* multiplier, const i32* shift,
                   i64 seed, const i8* mask, i64 limit, i16* g16, i8* g8, i32* top, i64 start,
                   i64 n, i64 c, i64 p, i64 length, int threads) {
  std::vector<i64> tops(n * c);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      i64 base = (image * c + channel) * p, first = (start + image) * p;
      i32 s = sign[channel] * (1 << FRACTION), centre = sign[channel] * mean[channel];
      std::vector<i32> z(p);
      const i16* source = g + base;
      with_mask(mask, base, i32(limit), [&](auto keep) {
        for (i64 i = 0; i < p; i++)
          z[i] = (limited(source[i], GRADIENT_MAX) & keep(i)) * s - centre;
      });
      for (i64 chunk = first / length; chunk <= (first + p - 1) / length; chunk++) {
        i64 high = chunk * length + at_high[chunk * c + channel] - first;
        i64 low = chunk * length + at_low[chunk * c + channel] - first;
        // Both at one place cancel; in between the sum may wrap.
        if (high >= 0 && high < p) z[high] = i32(u32(z[high]) - u32(spike[channel]));
        if (low >= 0 && low < p) z[low] = i32(u32(z[low]) + u32(spike[channel]));
      }
      tops[image * c + channel] =
          both_widths(Lanes(multiplier[channel], shift[channel]), z.data(), g16 + base, g8 + base,
                      p, u32(seed), u32(first * c + channel), u32(c));
    }
  *top = i32(largest(tops));
}

// The same with the gradient of a deviation.
void deviation_gradient(const i16* g, const i8* q, const i8* sign, const i32* centre,
                        const i16* slope, const i8* slope_shift, const i32* multiplier,
                        const i32* shift, i64 seed, const i8* mask, i64 limit, i16* g16, i8* g8,
                        i32* top, i64 start, i64 n, i64 c, i64 p, int threads) {
  std::vector<i64> tops(n * c);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      i64 base = (image * c + channel) * p;
      // slope q 2^7 has 30 bits: a shift of 30 leaves nothing, as larger ones do.
      i32 s = sign[channel], along = limited(slope[channel], 32767) * 128;
      i32 middle = centre[channel];
      int down = int(clamp(slope_shift[channel], 0, 30));
      i32 half = (1 << down) >> 1;
      std::vector<i32> z(p);
      const i16* source = g + base;
      const i8* codes = q + base;
      with_mask(mask, base, i32(limit), [&](auto keep) {
        for (i64 i = 0; i < p; i++) {
          i32 v = limited(source[i], GRADIENT_MAX) & keep(i);
          z[i] = s * (v * (1 << FRACTION) - ((along * codes[i] + half) >> down) - middle);
        }
      });
      tops[image * c + channel] =
          both_widths(Lanes(multiplier[channel], shift[channel]), z.data(), g16 + base, g8 + base,
                      p, u32(seed), u32((start + image) * p * c + channel), u32(c));
    }
  *top = i32(largest(tops));
}

// g = lanes(shifted a + shifted b under a mask), drawn, and the watch.
void gradient_add(const i16* a, const i16* b, const i8* mask, i64 limit, i64 left_a, i64 right_a,
                  i64 left_b, i64 right_b, i64 shift, i64 seed, i16* g, i32* top, i64 start, i64 n,
                  i64 c, i64 p, int threads) {
  std::vector<i64> tops(n * c);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      i64 base = (image * c + channel) * p;
      const i16 *first = a + base, *second = b + base;
      i16* target = g + base;
      i32 most = 0;
      with_mask(mask, base, i32(limit), [&](auto keep) {
        Lanes(i64(1) << 30, shift)
            .each_drawn(p, u32(seed), u32((start + image) * p * c + channel), u32(c),
                        [=](i64 i) {
                          i64 one = limited(first[i], GRADIENT_MAX);
                          i64 other = limited(second[i], GRADIENT_MAX) & keep(i);
                          return i32((one * (i64(1) << left_a) >> right_a) +
                                     (other * (i64(1) << left_b) >> right_b));
                        },
                        [&most, target](i64 i, i32 y) {
                          most = std::max(most, watch32(y));
                          target[i] = i16(limited(y, GRADIENT_MAX));
                        });
      });
      tops[image * c + channel] = most;
    }
  *top = i32(largest(tops));
}

// A kernel for each channel of x (N, C, H, W): int32 sums (N, C, OH, OW).
void depthwise_sums(const i8* x, const i8* weights, i32* out, i64 n, i64 c, i64 h, i64 w, i64 kh,
                    i64 kw, i64 sy, i64 sx, i64 top, i64 left, i64 oh, i64 ow, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i8* source = x + (image * c + channel) * h * w;
      i32* sums = out + (image * c + channel) * oh * ow;
      std::memset(sums, 0, oh * ow * sizeof(i32));
      for_taps(h, w, kh, kw, sy, sx, top, left, oh, ow, [&](i64 tap, i64 row, i64 y, Span span,
                                                            i64 offset) {
        i32 weight = weights[channel * kh * kw + tap];
        const i8* line = source + y * w + offset;
        i32* row_sums = sums + row * ow;
        for (i64 i = span.first; i < span.end; i++) row_sums[i] += weight * line[i * sx];
      });
    }
}

// The gradient of x of a kernel for each channel, as sums (N, C, H, W).
void depthwise_from(const i8* g8, const i8* weights, i32* out, i64 n, i64 c, i64 h, i64 w, i64 kh,
                    i64 kw, i64 sy, i64 sx, i64 top, i64 left, i64 oh, i64 ow, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (i64 image = 0; image < n; image++)
    for (i64 channel = 0; channel < c; channel++) {
      const i8* source = g8 + (image * c + channel) * oh * ow;
      i32* target = out + (image * c + channel) * h * w;
      std::memset(target, 0, h * w * sizeof(i32));
      for_taps(h, w, kh, kw, sy, sx, top, left, oh, ow, [&](i64 tap, i64 row, i64 y, Span span,
                                                            i64 offset) {
        i32 weight = weights[channel * kh * kw + tap];
        const i8* line = source + row * ow;
        i32* sums = target + y * w + offset;
        for (i64 i = span.first; i < span.end; i++) sums[i * sx] += weight * line[i];
      });
    }
}

// The gradient of the weights of a kernel for each channel, int64 (C, kh kw). A row has at most
// 512 columns: their products fit 32 bits.
void depthwise_kernel(const i8* x, const i16* g, i64* out, i64 n, i64 c, i64 h, i64 w, i64 kh,
                      i64 kw, i64 sy, i64 sx, i64 top, i64 left, i64 oh, i64 ow, int threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 channel = 0; channel < c; channel++) {
    i64* sums = out + channel * kh * kw;
    std::fill(sums, sums + kh * kw, 0);
    for (i64 image = 0; image < n; image++) {
      const i8* source = x + (image * c + channel) * h * w;
      const i16* gradient = g + (image * c + channel) * oh * ow;
      for_taps(h, w, kh, kw, sy, sx, top, left, oh, ow, [&](i64 tap, i64 row, i64 y, Span span,
                                                            i64 offset) {
        const i8* line = source + y * w + offset;
        const i16* values = gradient + row * ow;
        i32 sum = 0;
        for (i64 i = span.first; i < span.end; i++)
          sum += limited(values[i], GRADIENT_MAX) * line[i * sx];
        sums[tap] += sum;
      });
    }
  }
}

// Products of int8 into int32, and of floats that hold the integers exactly.
#define GEOMETRY                                                                                 \
  i64 n, i64 group, i64 c, i64 h, i64 w, i64 kh, i64 kw, i64 sy, i64 sx, i64 top, i64 left,      \
      i64 oh, i64 ow, int threads
#define GIVEN n, group, c, h, w, kh, kw, sy, sx, top, left, oh, ow, threads
#define ROWS i64 n, i64 group, i64 c, i64 p, int threads
#define PRODUCTS(kind, code, sum)                                                                \
  void columns_##kind(const i8* x, code* out, GEOMETRY) { columns_of(x, out, GIVEN); }           \
  void from_columns_##kind(const sum* in, sum* out, GEOMETRY) { sums_of_columns(in, out, GIVEN); } \
  void rows_##kind(const i8* x, code* out, ROWS) { rows_of(x, out, n, group, c, p, threads); }   \
  void digits_##kind(const i16* g, code* out, ROWS) {                                            \
    digits_of(g, out, n, group, c, p, threads);                                                  \
  }                                                                                              \
  void pre_norm_##kind(const sum* sums, const i32* shift, i8* q, ROWS) {                         \
    pre_norm_of(sums, shift, q, n, group, c, p, threads);                                        \
  }                                                                                              \
  void rescale_##kind(const sum* sums, const i32* bias, const i64* multiplier, const i64* shift, \
                      i64 zero, i64 low, i64 high, i8* y, ROWS) {                                \
    rescale_of(sums, bias, multiplier, shift, zero, low, high, y, n, group, c, p, threads);      \
  }                                                                                              \
  void gradient_codes_##kind(const sum* sums, i64 multiplier, i64 shift, i64 seed, i64 first,    \
                             i16* g, i32* top, ROWS) {                                           \
    gradient_codes_of(sums, multiplier, shift, seed, first, g, top, n, group, c, p, threads);    \
  }

PRODUCTS(int, i8, i32)
PRODUCTS(float, float, float)
}
