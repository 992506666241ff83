/* 8-bit images for kernels in C: their extent, and resizing as Pillow does it. Include it after tradepost_kernel.h.
 *
 * Resizing equals Pillow's Image.resize bit for bit with BOX, BILINEAR and BICUBIC, each channel on its own:
 * half-pixel centres, a filter that widens when it shrinks (antialiasing), weights of 22 bits, first across and then
 * down, rounded to 8 bits after each. Weights are computed in double precision with + - * / alone.
 */
#ifndef TK_IMAGE_H
#define TK_IMAGE_H

#include <math.h>

#include "tk_document.h"

#define TK_SIDE_MAX 32768
#define TK_CHANNELS_MAX 4
#define TK_WEIGHT_BITS 22 /* 8-bit pixels times these sum up to less than 2^31 */

typedef struct {
    size_t images, height, width, channels;
} tk_extent;

/* The extent of a tensor [H, W], [H, W, C] or [N, H, W, C], C in 1, 3, 4; fails on any other. */
static inline int tk_image_extent(const tk_tensor *image, tk_extent *size) {
    static const char form[] = "[H, W], [H, W, C] or [N, H, W, C]";
    if (image->rank < 2 || image->rank > 4)
        return tk_fail("tensor 'image' has rank %d; it must be %s", image->rank, form);
    const size_t *shape = image->shape + (image->rank == 4);
    size_t images = image->rank == 4 ? image->shape[0] : 1, channels = image->rank > 2 ? shape[2] : 1;
    *size = (tk_extent){images, shape[0], shape[1], channels};
    if (channels != 1 && channels != 3 && channels != 4)
        return tk_fail("tensor 'image' has %zu channels; it must be %s with 1, 3 or 4", channels, form);
    if (!size->height || !size->width || size->height > TK_SIDE_MAX || size->width > TK_SIDE_MAX)
        return tk_fail("tensor 'image' is %zu by %zu; a side has 1 to %d pixels", size->height, size->width,
                       TK_SIDE_MAX);
    return 0;
}

/* The numbers of this key, one for each channel; one number stands for all, `fallback` for none. */
static inline int tk_metadata_channels(const tk_document *in, const char *key, double fallback, size_t channels,
                                       double *numbers) {
    int count = tk_metadata_numbers(in, key, numbers, TK_CHANNELS_MAX);
    if (count < 0) return -1;
    if (count == 0) numbers[0] = fallback, count = 1;
    if (count != 1 && count != (int)channels)
        return tk_fail("metadata '%s' has %d numbers; the image has %zu channels", key, count, channels);
    for (size_t c = (size_t)count; c < channels; c++) numbers[c] = numbers[0];
    return 0;
}

/* ---- Filters ---- */

typedef enum { TK_BOX, TK_BILINEAR, TK_BICUBIC } tk_filter;

/* One output position's pixels: `count` from `first`, each with its weight. */
typedef struct {
    int first, count;
    const int32_t *weights;
} tk_taps;

static inline double tk_filter_at(tk_filter filter, double x) {
    if (filter == TK_BOX) return x > -0.5 && x <= 0.5 ? 1 : 0;
    x = fabs(x);
    if (filter == TK_BILINEAR) return x < 1 ? 1 - x : 0;
    const double a = -0.5;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* The taps of each of `out_size` positions over `in_size` pixels; NULL without memory. In Pillow's order of
 * operations (precompute_coeffs and normalize_coeffs_8bpc in Resample.c), to round alike. */
static inline tk_taps *tk_make_taps(int in_size, int out_size, tk_filter filter) {
    static const double half_widths[] = {0.5, 1, 2};
    double scale = (double)in_size / out_size;
    double filter_scale = scale < 1 ? 1 : scale;
    double support = half_widths[filter] * filter_scale;
    size_t taps_max = (size_t)ceil(support) * 2 + 1;
    tk_taps *axis = tk_alloc((size_t)out_size, sizeof *axis);
    int32_t *weights = tk_alloc((size_t)out_size * taps_max, sizeof *weights);
    double *exact = tk_alloc(taps_max, sizeof *exact);
    if (!axis || !weights || !exact) return NULL;
    for (int out = 0; out < out_size; out++, weights += taps_max) {
        double center = (out + 0.5) * scale, sum = 0;
        int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        if (first < 0) first = 0;
        if (end > in_size) end = in_size;
        int count = end - first;
        for (int i = 0; i < count; i++) {
            exact[i] = tk_filter_at(filter, (i + first - center + 0.5) * (1 / filter_scale));
            sum += exact[i];
        }
        for (int i = 0; i < count; i++) {
            double weight = exact[i] / sum * (1 << TK_WEIGHT_BITS);
            weights[i] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        axis[out] = (tk_taps){first, count, weights};
    }
    return axis;
}

/* ---- Resizing ---- */

static inline uint8_t tk_rounded_pixel(int32_t sum) {
    int32_t pixel = (sum + (1 << (TK_WEIGHT_BITS - 1))) >> TK_WEIGHT_BITS;
    return (uint8_t)(pixel < 0 ? 0 : pixel > 255 ? 255 : pixel);
}

/* One row resized across. `channels` is a constant at each call, which unrolls the loops over it. */
static inline __attribute__((always_inline)) void tk_row_across(const uint8_t *row, const tk_taps *axis,
                                                                int out_width, const int channels, uint8_t *out) {
    for (int x = 0; x < out_width; x++, out += channels) {
        int32_t sums[TK_CHANNELS_MAX] = {0};
        const uint8_t *pixel = row + axis[x].first * channels;
        for (int i = 0; i < axis[x].count; i++, pixel += channels)
            for (int c = 0; c < channels; c++) sums[c] += pixel[c] * axis[x].weights[i];
        for (int c = 0; c < channels; c++) out[c] = tk_rounded_pixel(sums[c]);
    }
}

static inline void tk_resize_across(const uint8_t *rows, const tk_extent *size, const tk_taps *axis, int out_width,
                                    uint8_t *out) {
    size_t stride = size->width * size->channels, out_stride = (size_t)out_width * size->channels;
    for (size_t y = 0; y < size->height; y++, rows += stride, out += out_stride) {
        if (size->channels == 1) tk_row_across(rows, axis, out_width, 1, out);
        else if (size->channels == 3) tk_row_across(rows, axis, out_width, 3, out);
        else tk_row_across(rows, axis, out_width, 4, out);
    }
}

/* One row of the result from several rows of `stride` bytes; `sums` has room for a row. */
static inline void tk_resize_down(const uint8_t *rows, size_t stride, tk_taps tap, int32_t *restrict sums,
                                  uint8_t *restrict out) {
    const uint8_t *row = rows + (size_t)tap.first * stride;
    memset(sums, 0, stride * sizeof *sums);
    for (int i = 0; i < tap.count; i++, row += stride)
        for (size_t x = 0; x < stride; x++) sums[x] += row[x] * tap.weights[i];
    for (size_t x = 0; x < stride; x++) out[x] = tk_rounded_pixel(sums[x]);
}

/* What resizing images of one size needs: taps of both axes, and room for an image of the final width. */
typedef struct {
    size_t height, width, row_bytes; /* of the result */
    tk_taps *across, *down;
    uint8_t *narrowed;
    int32_t *sums;
} tk_resizer;

static inline int tk_make_resizer(const tk_extent *from, size_t height, size_t width, tk_filter filter,
                                  tk_resizer *to) {
    size_t row_bytes = width * from->channels;
    *to = (tk_resizer){.height = height, .width = width, .row_bytes = row_bytes};
    to->across = tk_make_taps((int)from->width, (int)width, filter);
    to->down = tk_make_taps((int)from->height, (int)height, filter);
    to->narrowed = tk_alloc(from->height, row_bytes);
    to->sums = tk_alloc(row_bytes, sizeof *to->sums);
    return to->across && to->down && to->narrowed && to->sums ? 0 : -1;
}

/* The rows of an image at the final width: its own if it has that, else in the resizer. */
static inline const uint8_t *tk_resized_rows(const tk_resizer *with, const tk_extent *from, const uint8_t *pixels) {
    if (with->width == from->width) return pixels;
    tk_resize_across(pixels, from, with->across, (int)with->width, with->narrowed);
    return with->narrowed;
}

/* Row `y` of the result: that of `rows` if the height stays, else made in `out`. */
static inline const uint8_t *tk_resized_row(const tk_resizer *with, const tk_extent *from, const uint8_t *rows,
                                            size_t y, uint8_t *out) {
    if (with->height == from->height) return rows + y * with->row_bytes;
    tk_resize_down(rows, with->row_bytes, with->down[y], with->sums, out);
    return out;
}

#endif
