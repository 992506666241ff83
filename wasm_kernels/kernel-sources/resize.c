/* resize: 8-bit images to another size, by themselves or within a frame of a fixed size (letterbox).
 *
 * Input: `image` U8 [H, W], [H, W, C] or [N, H, W, C], C in 1, 3, 4. Output: `image` U8 of the same rank, and
 * `placed` I32 [6]: top, left, height and width of the picture in the output, then the H and W that it had. `nms`
 * takes it to move boxes back.
 * Metadata:
 *   size    "h,w", required; with fit = stretch one of them may be 0, and then follows from the aspect ratio
 *   fit     "stretch", or "letterbox": the largest picture of the same aspect ratio in a frame of h by w (stretch)
 *   filter  "bilinear", "nearest", "area" or "bicubic" (bilinear)
 *   place   where the picture lies in the frame: "center" (rounded up and left) or "corner", the top left (center)
 *   pad     the frame's pixels from 0 to 255: one number, or one for each channel (114)
 *
 * bilinear, area and bicubic equal Pillow's BILINEAR, BOX and BICUBIC, see tk_image.h. nearest is the pixel under
 * the output pixel's centre, computed in integers. Sides that follow from the aspect ratio are rounded to the
 * nearest whole number, halves up, and are at least 1.
 */
#include "tradepost_kernel.h"
#include "tk_image.h"

typedef struct {
    size_t height, width; /* of the output */
    size_t top, left, picture_height, picture_width;
    enum { BILINEAR, NEAREST, AREA, BICUBIC } filter;
    uint8_t pad[TK_CHANNELS_MAX];
} plan;

/* ---- Parameters ---- */

/* side * to / from, rounded, within [1, max]. */
static size_t scaled(size_t side, size_t to, size_t from, size_t max) {
    uint64_t result = ((uint64_t)side * to * 2 + from) / ((uint64_t)from * 2);
    return result < 1 ? 1 : result > max ? max : (size_t)result;
}

static int parse_size(const tk_document *in, bool letterbox, size_t *height, size_t *width) {
    double numbers[2];
    int count = tk_metadata_numbers(in, "size", numbers, 2);
    if (count < 0) return -1;
    if (count != 2) return tk_fail("metadata 'size' must be 'height,width'");
    for (int i = 0; i < 2; i++)
        if (!(numbers[i] >= 0 && numbers[i] <= TK_SIDE_MAX) || numbers[i] != floor(numbers[i]))
            return tk_fail("metadata 'size' must be whole numbers up to %d", TK_SIDE_MAX);
    *height = (size_t)numbers[0], *width = (size_t)numbers[1];
    if ((letterbox && (!*height || !*width)) || (!*height && !*width))
        return tk_fail("metadata 'size' can have one 0, and only with fit = stretch");
    return 0;
}

static int parse_pad(const tk_document *in, size_t channels, uint8_t *pad) {
    double numbers[TK_CHANNELS_MAX];
    if (tk_metadata_channels(in, "pad", 114, channels, numbers)) return -1;
    for (size_t c = 0; c < channels; c++) {
        if (!(numbers[c] >= 0 && numbers[c] <= 255) || numbers[c] != floor(numbers[c]))
            return tk_fail("metadata 'pad' must be whole numbers from 0 to 255");
        pad[c] = (uint8_t)numbers[c];
    }
    return 0;
}

static int make_plan(const tk_document *in, const tk_extent *size, plan *to) {
    int letterbox, filter, corner;
    if (tk_metadata_choice(in, "fit", "stretch, letterbox", &letterbox) ||
        tk_metadata_choice(in, "filter", "bilinear, nearest, area, bicubic", &filter) ||
        tk_metadata_choice(in, "place", "center, corner", &corner) || parse_pad(in, size->channels, to->pad) ||
        parse_size(in, letterbox, &to->height, &to->width))
        return -1;
    to->filter = filter;
    if (!to->height) to->height = scaled(size->height, to->width, size->width, SIZE_MAX);
    if (!to->width) to->width = scaled(size->width, to->height, size->height, SIZE_MAX);
    if (to->height > TK_SIDE_MAX || to->width > TK_SIDE_MAX)
        return tk_fail("the output would be %zu by %zu; a side has at most %d pixels", to->height, to->width,
                       TK_SIDE_MAX);
    to->picture_height = to->height, to->picture_width = to->width;
    if (letterbox && (uint64_t)to->height * size->width <= (uint64_t)to->width * size->height)
        to->picture_width = scaled(size->width, to->height, size->height, to->width);
    else if (letterbox)
        to->picture_height = scaled(size->height, to->width, size->width, to->height);
    to->top = corner ? 0 : (to->height - to->picture_height) / 2;
    to->left = corner ? 0 : (to->width - to->picture_width) / 2;
    return 0;
}

/* ---- Pixels ---- */

static void fill(uint8_t *out, size_t pixels, size_t channels, const uint8_t *pad) {
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < channels; c++) *out++ = pad[c];
}

/* The pixel of `from` pixels under the centre of pixel `at` of `to`. */
static size_t nearest_pixel(size_t at, size_t from, size_t to) {
    return (size_t)((2 * (uint64_t)at + 1) * from / (2 * (uint64_t)to));
}

static void resize_nearest(const uint8_t *pixels, const tk_extent *size, const plan *to, uint8_t *out) {
    size_t channels = size->channels;
    for (size_t y = 0; y < to->picture_height; y++, out += to->width * channels) {
        const uint8_t *row = pixels + nearest_pixel(y, size->height, to->picture_height) * size->width * channels;
        for (size_t x = 0; x < to->picture_width; x++)
            for (size_t c = 0, at = nearest_pixel(x, size->width, to->picture_width) * channels; c < channels; c++)
                out[x * channels + c] = row[at + c];
    }
}

static int make_resizer(const tk_extent *size, const plan *to, tk_resizer *resizer) {
    static const tk_filter filters[] = {[BILINEAR] = TK_BILINEAR, [AREA] = TK_BOX, [BICUBIC] = TK_BICUBIC};
    return tk_make_resizer(size, to->picture_height, to->picture_width, filters[to->filter], resizer);
}

static void resize_weighted(const uint8_t *pixels, const tk_extent *size, const plan *to, const tk_resizer *resizer,
                            uint8_t *out) {
    const uint8_t *rows = tk_resized_rows(resizer, size, pixels);
    for (size_t y = 0; y < to->picture_height; y++, out += to->width * size->channels) {
        const uint8_t *row = tk_resized_row(resizer, size, rows, y, out);
        if (row != out) memcpy(out, row, resizer->row_bytes);
    }
}

static tk_document *add_placed(tk_document *out, const tk_extent *size, const plan *to) {
    tk_i32 *placed = tk_add(out, "placed", TK_I32, 1, (size_t[]){6});
    if (!placed) return NULL;
    const size_t values[6] = {to->top, to->left, to->picture_height, to->picture_width, size->height, size->width};
    for (int i = 0; i < 6; i++) placed[i] = (int32_t)values[i];
    return out;
}

static int resize(const tk_document *in, tk_document *out) {
    tk_extent size;
    plan to;
    tk_resizer resizer;
    const tk_tensor *image = tk_need(in, "image", TK_U8);
    if (!image || tk_image_extent(image, &size) || make_plan(in, &size, &to)) return -1;

    size_t shape[4];
    memcpy(shape, image->shape, sizeof shape);
    size_t first = image->rank == 4, frame_pixels = to.height * to.width;
    shape[first] = to.height, shape[first + 1] = to.width;
    uint8_t *frame = tk_add(out, "image", TK_U8, image->rank, shape);
    if (!frame || !add_placed(out, &size, &to) || (to.filter != NEAREST && make_resizer(&size, &to, &resizer)))
        return -1;
    const uint8_t *pixels = image->data;
    for (size_t n = 0; n < size.images; n++, pixels += size.height * size.width * size.channels) {
        uint8_t *picture = frame + (to.top * to.width + to.left) * size.channels;
        if (to.picture_height * to.picture_width < frame_pixels) fill(frame, frame_pixels, size.channels, to.pad);
        if (to.filter == NEAREST) resize_nearest(pixels, &size, &to, picture);
        else resize_weighted(pixels, &size, &to, &resizer, picture);
        frame += frame_pixels * size.channels;
    }
    return 0;
}

TK_REACTOR(resize)
