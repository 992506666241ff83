/* crop_rotate: quadrilaterals of an image as upright pictures of one size, such as lines of text for a recogniser.
 *
 * Input: `image` U8 [H, W] or [H, W, C], C in 1, 3, 4; `quads` F32 [M, 4, 2]: the corners of each quadrilateral as
 * x, y, clockwise from its top left. Output: `crops` U8 [M, h, w, C], where M may be 0; `width` I32 [M], the columns
 * of each crop that show the picture; `turned` U8 [M], 1 where it was turned.
 * Metadata:
 *   height  of the crops, 1 to 4096 (48)
 *   width   of the crops, 1 to 32768 (320)
 *   fit     "pad": a picture keeps its aspect ratio, up to the whole width, and the rest is `pad`; or "stretch" (pad)
 *   turn    a picture is turned by 90 degrees against the clock if its height is at least this many times its width,
 *           0 for never, up to 1000 (1.5)
 *   pad     pixels that show no picture, 0 to 255 (0)
 *
 * A picture's width and height are the longer of its opposite sides. The projective map takes the corners of the
 * crop to those of the quadrilateral; the pixel at the centre of each crop's pixel is interpolated linearly between
 * its four neighbours, and beyond the image its border goes on. Corners are at pixel edges: the image spans 0 to W.
 * Double precision with + - * / and the square root alone.
 */
#include <math.h>

#include "tradepost_kernel.h"
#include "tk_image.h"

#define HEIGHT_MAX 4096
#define CORNER_MAX 1000000

typedef struct {
    int64_t height, width, pad;
    int stretch;
    double turn;
} parameters;

typedef struct {
    double x, y;
} point;

/* (x, y) to ((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1)). */
typedef struct {
    double a, b, c, d, e, f, g, h;
} projection;

static int parse_parameters(const tk_document *in, parameters *to) {
    if (tk_metadata_int(in, "height", 48, 1, HEIGHT_MAX, &to->height) ||
        tk_metadata_int(in, "width", 320, 1, TK_SIDE_MAX, &to->width) ||
        tk_metadata_choice(in, "fit", "pad, stretch", &to->stretch) ||
        tk_metadata_number(in, "turn", 1.5, 0, 1000, &to->turn) || tk_metadata_int(in, "pad", 0, 0, 255, &to->pad))
        return -1;
    return 0;
}

static int check_quads(const tk_tensor *quads) {
    if (quads->rank != 3 || quads->shape[1] != 4 || quads->shape[2] != 2)
        return tk_fail("tensor 'quads' must be [M, 4, 2]: x and y of four corners each");
    const tk_f32 *values = quads->data;
    for (size_t i = 0; i < quads->count; i++)
        if (!(fabsf(values[i]) <= CORNER_MAX))
            return tk_fail("quadrilateral %zu has a corner beyond %d, or not finite", i / 8, CORNER_MAX);
    return 0;
}

static double distance(point a, point b) {
    return sqrt((a.x - b.x) * (a.x - b.x) + (a.y - b.y) * (a.y - b.y));
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* The map of the unit square to a quadrilateral (Heckbert 1989); false if there is none. */
static bool project(const point *q, projection *to) {
    double dx1 = q[1].x - q[2].x, dx2 = q[3].x - q[2].x, dx3 = q[0].x - q[1].x + q[2].x - q[3].x;
    double dy1 = q[1].y - q[2].y, dy2 = q[3].y - q[2].y, dy3 = q[0].y - q[1].y + q[2].y - q[3].y;
    double whole = dx1 * dy2 - dx2 * dy1;
    if (whole == 0) return false;
    to->g = (dx3 * dy2 - dx2 * dy3) / whole, to->h = (dx1 * dy3 - dx3 * dy1) / whole;
    to->a = q[1].x - q[0].x + to->g * q[1].x, to->b = q[3].x - q[0].x + to->h * q[3].x, to->c = q[0].x;
    to->d = q[1].y - q[0].y + to->g * q[1].y, to->e = q[3].y - q[0].y + to->h * q[3].y, to->f = q[0].y;
    return 1 + to->g > 0 && 1 + to->h > 0 && 1 + to->g + to->h > 0; /* else a corner lies behind the horizon */
}

static double clamp(double value, double max) {
    return value < 0 ? 0 : value > max ? max : value;
}

/* The pixels around x, y, where the centre of the first pixel is 0, 0. */
static void interpolate(const uint8_t *pixels, const tk_extent *size, double x, double y, uint8_t *out) {
    double column = clamp(x, (double)(size->width - 1)), row = clamp(y, (double)(size->height - 1));
    size_t left = (size_t)column, top = (size_t)row, channels = size->channels;
    size_t right = left + 1 < size->width ? channels : 0, below = top + 1 < size->height ? size->width * channels : 0;
    double across = column - (double)left, down = row - (double)top;
    const uint8_t *at = pixels + (top * size->width + left) * channels;
    for (size_t c = 0; c < channels; c++, at++) {
        double upper = at[0] + (at[right] - at[0]) * across;
        double lower = at[below] + (at[below + right] - at[below]) * across;
        out[c] = (uint8_t)(upper + (lower - upper) * down + 0.5);
    }
}

/* One crop; gives the columns that show the picture, -1 if the quadrilateral has no inside. */
static int64_t crop(const uint8_t *pixels, const tk_extent *size, const tk_f32 *corners, const parameters *of,
                    uint8_t *turned, uint8_t *out) {
    point q[4], given[4];
    projection map;
    for (int i = 0; i < 4; i++) given[i] = (point){corners[2 * i], corners[2 * i + 1]};
    double width = larger(distance(given[0], given[1]), distance(given[3], given[2]));
    double height = larger(distance(given[0], given[3]), distance(given[1], given[2]));
    *turned = of->turn > 0 && height >= of->turn * width;
    for (int i = 0; i < 4; i++) q[i] = given[(i + *turned) % 4];
    if (!project(q, &map)) return -1;
    double ratio = *turned ? height / width : width / height, wanted = floor(ratio * (double)of->height + 0.5);
    int64_t columns = of->stretch || !(wanted < (double)of->width) ? of->width : wanted < 1 ? 1 : (int64_t)wanted;
    for (int64_t y = 0; y < of->height; y++) {
        for (int64_t x = 0; x < of->width; x++, out += size->channels) {
            if (x >= columns) {
                memset(out, (int)of->pad, size->channels);
                continue;
            }
            double u = ((double)x + 0.5) / (double)columns, v = ((double)y + 0.5) / (double)of->height;
            double depth = map.g * u + map.h * v + 1;
            interpolate(pixels, size, (map.a * u + map.b * v + map.c) / depth - 0.5,
                        (map.d * u + map.e * v + map.f) / depth - 0.5, out);
        }
    }
    return columns;
}

static int crop_rotate(const tk_document *in, tk_document *out) {
    tk_extent size;
    parameters of;
    const tk_tensor *image = tk_need(in, "image", TK_U8), *quads = tk_need(in, "quads", TK_F32);
    if (!image || !quads || tk_image_extent(image, &size) || check_quads(quads) || parse_parameters(in, &of))
        return -1;
    if (image->rank == 4) return tk_fail("tensor 'image' has rank 4; it must be one image, [H, W] or [H, W, C]");

    size_t count = quads->shape[0], shape[4] = {count, (size_t)of.height, (size_t)of.width, size.channels};
    uint8_t *crops = tk_add(out, "crops", TK_U8, 4, shape);
    tk_i32 *width = crops ? tk_add(out, "width", TK_I32, 1, &count) : NULL;
    uint8_t *turned = width ? tk_add(out, "turned", TK_U8, 1, &count) : NULL;
    if (!turned) return -1;
    const tk_f32 *corners = quads->data;
    size_t bytes = shape[1] * shape[2] * shape[3];
    for (size_t m = 0; m < count; m++, corners += 8, crops += bytes) {
        int64_t columns = crop(image->data, &size, corners, &of, &turned[m], crops);
        if (columns < 0) return tk_fail("quadrilateral %zu has no inside, or is not convex", m);
        width[m] = (int32_t)columns;
    }
    return 0;
}

TK_REACTOR(crop_rotate)
