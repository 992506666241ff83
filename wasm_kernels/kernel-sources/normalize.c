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
#include "tk_image.h"

typedef struct {
    int height, width;
    bool planes;
    float value[TK_CHANNELS_MAX][256];
} parameters;

/* ---- Parameters ---- */

static int parse_size(const tk_document *in, const tk_extent *size, parameters *to) {
    double numbers[2] = {(double)size->height, (double)size->width};
    int count = tk_metadata_numbers(in, "size", numbers, 2);
    if (count < 0) return -1;
    if (count == 1) return tk_fail("metadata 'size' has one number; it must be 'height,width'");
    for (int i = 0; i < 2; i++)
        if (!(numbers[i] >= 1 && numbers[i] <= TK_SIDE_MAX) || numbers[i] != floor(numbers[i]))
            return tk_fail("metadata 'size' must be whole numbers from 1 to %d", TK_SIDE_MAX);
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

static int parse_parameters(const tk_document *in, const tk_extent *size, parameters *to) {
    double scale[TK_CHANNELS_MAX], mean[TK_CHANNELS_MAX], std[TK_CHANNELS_MAX];
    if (parse_size(in, size, to) || parse_layout(in, &to->planes) ||
        tk_metadata_channels(in, "scale", 255, size->channels, scale) ||
        tk_metadata_channels(in, "mean", 0, size->channels, mean) ||
        tk_metadata_channels(in, "std", 1, size->channels, std))
        return -1;
    for (size_t c = 0; c < size->channels; c++) {
        if (scale[c] == 0 || std[c] == 0) return tk_fail("metadata 'scale' and 'std' cannot be 0");
        for (int pixel = 0; pixel < 256; pixel++)
            to->value[c][pixel] = (float)((pixel / scale[c] - mean[c]) / std[c]);
    }
    return 0;
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

static tk_f32 *add_image(tk_document *out, const tk_extent *size, const parameters *to) {
    size_t height = (size_t)to->height, width = (size_t)to->width;
    if (to->planes) return tk_add(out, "image", TK_F32, 4, (size_t[]){size->images, size->channels, height, width});
    return tk_add(out, "image", TK_F32, 4, (size_t[]){size->images, height, width, size->channels});
}

static int normalize(const tk_document *in, tk_document *out) {
    tk_extent size;
    static parameters to;
    const tk_tensor *image = tk_need(in, "image", TK_U8);
    if (!image || tk_image_extent(image, &size) || parse_parameters(in, &size, &to)) return -1;

    tk_resizer resizer;
    tk_f32 *values = add_image(out, &size, &to);
    if (!values || tk_make_resizer(&size, (size_t)to.height, (size_t)to.width, TK_BILINEAR, &resizer)) return -1;
    uint8_t *room = tk_alloc(1, resizer.row_bytes);
    if (!room) return -1;

    const uint8_t *pixels = image->data;
    for (size_t n = 0; n < size.images; n++, pixels += size.height * size.width * size.channels) {
        const uint8_t *rows = tk_resized_rows(&resizer, &size, pixels);
        for (int y = 0; y < to.height; y++)
            put_row(tk_resized_row(&resizer, &size, rows, (size_t)y, room), &to, size.channels, y, values);
        values += size.channels * (size_t)to.height * (size_t)to.width;
    }
    return 0;
}

TK_REACTOR(normalize)
