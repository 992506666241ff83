/* normalize: 8-bit images to what image models take: resized, scaled, normalised, in planes.
 *
 * Input: `image` U8 [H, W], [H, W, C] or [N, H, W, C], C in 1, 3, 4. Output: `image` F32 [N, C, h, w].
 * Metadata; a list has one number, or one for each channel:
 *   size    "h,w" (as it is)
 *   scale   what pixels are divided by (255)
 *   mean    what is then subtracted (0)
 *   std     what that is then divided by (1)
 *   layout  "nchw", or "nhwc" for an output of [N, h, w, C] (nchw)
 *
 * Resizing equals Pillow's Image.resize((w, h), BILINEAR) bit for bit, each channel on its own: half-pixel
 * centres, a triangle filter that widens when it shrinks (antialiasing), weights of 22 bits, first across and
 * then down, rounded to 8 bits after each. Then (x / scale - mean) / std is computed in double precision, once
 * for each of the 256 values, and rounded to F32.
 */
#include <math.h>

#include "tradepost_kernel.h"

#define SIDE_MAX 32768
#define CHANNELS_MAX 4
#define WEIGHT_BITS 22 /* 8-bit pixels times these sum up to less than 2^31 */

typedef struct {
    size_t images, height, width, channels;
} extent;

typedef struct {
    int height, width;
    bool planes;
    float value[CHANNELS_MAX][256];
} parameters;

/* One output position's pixels: `count` from `first`, each with its weight. */
typedef struct {
    int first, count;
    const int32_t *weights;
} taps;

/* ---- Parameters ---- */

static int parse_extent(const tk_tensor *image, extent *size) {
    static const char form[] = "[H, W], [H, W, C] or [N, H, W, C]";
    if (image->rank < 2 || image->rank > 4)
        return tk_fail("tensor 'image' has rank %d; it must be %s", image->rank, form);
    const size_t *shape = image->shape + (image->rank == 4);
    *size = (extent){image->rank == 4 ? image->shape[0] : 1, shape[0], shape[1], image->rank > 2 ? shape[2] : 1};
    if (size->channels != 1 && size->channels != 3 && size->channels != 4)
        return tk_fail("tensor 'image' has %zu channels; it must be %s with 1, 3 or 4", size->channels, form);
    if (!size->height || !size->width || size->height > SIDE_MAX || size->width > SIDE_MAX)
        return tk_fail("tensor 'image' is %zu by %zu; a side has 1 to %d pixels", size->height, size->width, SIDE_MAX);
    return 0;
}

/* One number for each channel. */
static int parse_channels(const tk_document *in, const char *key, double fallback, size_t channels, double *numbers) {
    int count = tk_metadata_numbers(in, key, numbers, CHANNELS_MAX);
    if (count < 0) return -1;
    if (count == 0) numbers[0] = fallback, count = 1;
    if (count != 1 && count != (int)channels)
        return tk_fail("metadata '%s' has %d numbers; the image has %zu channels", key, count, channels);
    for (size_t c = (size_t)count; c < channels; c++) numbers[c] = numbers[0];
    return 0;
}

static int parse_size(const tk_document *in, const extent *size, parameters *to) {
    double numbers[2] = {(double)size->height, (double)size->width};
    int count = tk_metadata_numbers(in, "size", numbers, 2);
    if (count < 0) return -1;
    if (count == 1) return tk_fail("metadata 'size' has one number; it must be 'height,width'");
    for (int i = 0; i < 2; i++)
        if (!(numbers[i] >= 1 && numbers[i] <= SIDE_MAX) || numbers[i] != floor(numbers[i]))
            return tk_fail("metadata 'size' must be whole numbers from 1 to %d", SIDE_MAX);
    to->height = (int)numbers[0], to->width = (int)numbers[1];
    return 0;
}

static int parse_layout(const tk_document *in, bool *planes) {
    const tk_string *text = tk_metadata(in, "layout");
    *planes = !text || tk_equal(*text, "nchw");
    if (!*planes && !tk_equal(*text, "nhwc"))
        return tk_fail("metadata 'layout' is '%.*s'; it must be nchw or nhwc", TK_SHOW(*text));
    return 0;
}

static int parse_parameters(const tk_document *in, const extent *size, parameters *to) {
    double scale[CHANNELS_MAX], mean[CHANNELS_MAX], std[CHANNELS_MAX];
    if (parse_size(in, size, to) || parse_layout(in, &to->planes) ||
        parse_channels(in, "scale", 255, size->channels, scale) ||
        parse_channels(in, "mean", 0, size->channels, mean) || parse_channels(in, "std", 1, size->channels, std))
        return -1;
    for (size_t c = 0; c < size->channels; c++) {
        if (scale[c] == 0 || std[c] == 0) return tk_fail("metadata 'scale' and 'std' cannot be 0");
        for (int pixel = 0; pixel < 256; pixel++)
            to->value[c][pixel] = (float)((pixel / scale[c] - mean[c]) / std[c]);
    }
    return 0;
}

/* ---- Resizing ---- */

static double triangle(double x) {
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* The taps of each of `out_size` positions over `in_size` pixels; NULL without memory. In double precision, in
 * Pillow's order of operations (precompute_coeffs and normalize_coeffs_8bpc in Resample.c), to round alike. */
static taps *make_taps(int in_size, int out_size) {
    double scale = (double)in_size / out_size;
    double filter_scale = scale < 1 ? 1 : scale;
    double support = filter_scale; /* the triangle's half width is 1 */
    size_t taps_max = (size_t)ceil(support) * 2 + 1;
    taps *axis = tk_alloc((size_t)out_size, sizeof *axis);
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
            exact[i] = triangle((i + first - center + 0.5) * (1 / filter_scale));
            sum += exact[i];
        }
        for (int i = 0; i < count; i++)
            weights[i] = (int32_t)(0.5 + exact[i] / sum * (1 << WEIGHT_BITS));
        axis[out] = (taps){first, count, weights};
    }
    return axis;
}

static uint8_t rounded(int32_t sum) {
    int32_t pixel = (sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    return (uint8_t)(pixel > 255 ? 255 : pixel); /* weights are not negative, nor is the sum */
}

/* One row resized across. `channels` is a constant at each call, which unrolls the loops over it. */
static inline __attribute__((always_inline)) void across(const uint8_t *row, const taps *axis, int out_width,
                                                         const int channels, uint8_t *out) {
    for (int x = 0; x < out_width; x++, out += channels) {
        int32_t sums[CHANNELS_MAX] = {0};
        const uint8_t *pixel = row + axis[x].first * channels;
        for (int i = 0; i < axis[x].count; i++, pixel += channels)
            for (int c = 0; c < channels; c++) sums[c] += pixel[c] * axis[x].weights[i];
        for (int c = 0; c < channels; c++) out[c] = rounded(sums[c]);
    }
}

static void resize_across(const uint8_t *rows, const extent *size, const taps *axis, int out_width,
                          uint8_t *out) {
    size_t stride = size->width * size->channels, out_stride = (size_t)out_width * size->channels;
    for (size_t y = 0; y < size->height; y++, rows += stride, out += out_stride) {
        if (size->channels == 1) across(rows, axis, out_width, 1, out);
        else if (size->channels == 3) across(rows, axis, out_width, 3, out);
        else across(rows, axis, out_width, 4, out);
    }
}
/* One row of the result from several rows of `stride` bytes; `sums` has room for a row. */
static void resize_down(const uint8_t *rows, size_t stride, taps tap, int32_t *restrict sums, uint8_t *restrict out) {
    const uint8_t *row = rows + (size_t)tap.first * stride;
    memset(sums, 0, stride * sizeof *sums);
    for (int i = 0; i < tap.count; i++, row += stride)
        for (size_t x = 0; x < stride; x++) sums[x] += row[x] * tap.weights[i];
    for (size_t x = 0; x < stride; x++) out[x] = rounded(sums[x]);
}

/* ---- Output ---- */

static void put_row(const uint8_t *row, const parameters *to, size_t channels, int y, tk_f32 *out) {
    size_t width = (size_t)to->width, plane = (size_t)to->height * width;
    size_t channel_step = to->planes ? plane : 1, pixel_step = to->planes ? 1 : channels;
    out += (size_t)y * width * pixel_step;
    for (size_t c = 0; c < channels; c++) {
        const float *value = to->value[c];
        for (size_t x = 0; x < width; x++) out[c * channel_step + x * pixel_step] = value[row[x * channels + c]];
    }
}

static tk_f32 *add_image(tk_document *out, const extent *size, const parameters *to) {
    size_t height = (size_t)to->height, width = (size_t)to->width;
    if (to->planes) return tk_add(out, "image", TK_F32, 4, (size_t[]){size->images, size->channels, height, width});
    return tk_add(out, "image", TK_F32, 4, (size_t[]){size->images, height, width, size->channels});
}

static int normalize(const tk_document *in, tk_document *out) {
    extent size;
    static parameters to;
    const tk_tensor *image = tk_need(in, "image", TK_U8);
    if (!image || parse_extent(image, &size) || parse_parameters(in, &size, &to)) return -1;

    size_t row_bytes = (size_t)to.width * size.channels;
    tk_f32 *values = add_image(out, &size, &to);
    taps *across_taps = make_taps((int)size.width, to.width), *down_taps = make_taps((int)size.height, to.height);
    uint8_t *narrowed = tk_alloc(size.height, row_bytes), *row = tk_alloc(1, row_bytes);
    int32_t *sums = tk_alloc(row_bytes, sizeof *sums);
    if (!values || !across_taps || !down_taps || !narrowed || !row || !sums) return -1;

    const uint8_t *pixels = image->data;
    for (size_t n = 0; n < size.images; n++, pixels += size.height * size.width * size.channels) {
        const uint8_t *rows = pixels;
        if ((size_t)to.width != size.width) {
            resize_across(pixels, &size, across_taps, to.width, narrowed);
            rows = narrowed;
        }
        for (int y = 0; y < to.height; y++) {
            const uint8_t *result = rows + (size_t)y * row_bytes;
            if ((size_t)to.height != size.height) {
                resize_down(rows, row_bytes, down_taps[y], sums, row);
                result = row;
            }
            put_row(result, &to, size.channels, y, values);
        }
        values += size.channels * (size_t)to.height * (size_t)to.width;
    }
    return 0;
}

TK_REACTOR(normalize)
