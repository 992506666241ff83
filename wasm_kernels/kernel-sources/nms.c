/* nms: the boxes of a detector without those that a better box covers (non-maximum suppression).
 *
 * Input: `boxes` F32 [N, 4] or [1, N, 4]; `scores` F32 [N], [N, K] or [1, N, K] for K classes; optionally `placed`
 * I32 [6], as `resize` returns it: the boxes are then moved back into the picture before it was resized, and cut at
 * its border.
 * Output, best first: `boxes` F32 [M, 4] as x1, y1, x2, y2; `score` F32 [M]; `class` I32 [M]; `index` I32 [M], the
 * row of the input. M may be 0.
 * Metadata:
 *   format      of the input's boxes: "xyxy" (two corners), "xywh" (corner and size) or "cxcywh" (centre and size)
 *   pick        "best": each box stands for its best class; or "all": for every class that reaches score_min (best)
 *   across      "class": a box only covers boxes of its class; or "all" (class)
 *   iou         two boxes with a larger intersection over union cover each other, 0 to 1 (0.5)
 *   score_min   lower scores are dropped; rounded to F32, -1000000 to 1000000 (0.25)
 *   candidates  how many boxes are compared at most, the best ones, 1 to 65536 (4096)
 *   keep        how many boxes are kept at most, 1 to 65536 (100)
 *
 * Equal scores: the lower row first, then the lower class. The arithmetic is double precision, + - * / alone; a box
 * covers another if intersection > iou * union.
 */
#include "tradepost_kernel.h"

#define KEEP_MAX 65536

typedef enum { XYXY, XYWH, CXCYWH } box_format;

typedef struct {
    int format, all_classes, across_all;
    double iou, score_min;
    int64_t candidates, keep;
} parameters;

typedef struct {
    float score;
    uint32_t row, class;
} candidate;

typedef struct {
    double x1, y1, x2, y2, area;
} box;

static int parse_parameters(const tk_document *in, parameters *to) {
    if (tk_metadata_choice(in, "format", "xyxy, xywh, cxcywh", &to->format) ||
        tk_metadata_choice(in, "pick", "best, all", &to->all_classes) ||
        tk_metadata_choice(in, "across", "class, all", &to->across_all) ||
        tk_metadata_number(in, "iou", 0.5, 0, 1, &to->iou) ||
        tk_metadata_number(in, "score_min", 0.25, -1000000, 1000000, &to->score_min) ||
        tk_metadata_int(in, "candidates", 4096, 1, KEEP_MAX, &to->candidates) ||
        tk_metadata_int(in, "keep", 100, 1, KEEP_MAX, &to->keep))
        return -1;
    return 0;
}

/* ---- Input ---- */

/* The tensor as [rows, columns]: without a leading axis of 1, and with a column if it has none. */
static int rows_and_columns(const tk_tensor *tensor, const char *name, size_t *rows, size_t *columns) {
    bool batch = tensor->rank == 3 && tensor->shape[0] == 1;
    if (tensor->rank != 2 && !batch && !(tensor->rank == 1 && tk_equal(tensor->name, "scores")))
        return tk_fail("tensor '%s' has rank %d; it must be one image's", name, tensor->rank);
    *rows = tensor->shape[batch];
    *columns = tensor->rank == 1 ? 1 : tensor->shape[batch + 1];
    return 0;
}

static box read_box(const tk_f32 *values, int format) {
    double x = values[0], y = values[1], width = values[2], height = values[3];
    box read = {x, y, x + width, y + height, 0};
    if (format == XYXY) read = (box){x, y, width, height, 0};
    if (format == CXCYWH) read = (box){x - width / 2, y - height / 2, x + width / 2, y + height / 2, 0};
    double across = read.x2 - read.x1, down = read.y2 - read.y1;
    read.area = across > 0 && down > 0 ? across * down : 0;
    return read;
}

/* ---- Candidates, as a heap with the best at the root ---- */

static bool ranks_before(const candidate *a, const candidate *b) {
    if (a->score != b->score) return a->score > b->score;
    return a->row != b->row ? a->row < b->row : a->class < b->class;
}

static void sift_down(candidate *heap, size_t size, size_t root) {
    for (size_t child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && ranks_before(&heap[child + 1], &heap[child])) child++;
        if (!ranks_before(&heap[child], &heap[root])) return;
        candidate moved = heap[root];
        heap[root] = heap[child], heap[child] = moved;
    }
}

/* Count the candidates, and write them to `found` unless it is NULL. */
static size_t find_candidates(const tk_f32 *scores, size_t rows, size_t classes, const parameters *to,
                              candidate *found) {
    size_t count = 0;
    for (size_t row = 0; row < rows; row++, scores += classes) {
        size_t best = 0;
        for (size_t class = 1; class < classes; class++)
            if (scores[class] > scores[best]) best = class;
        size_t first = to->all_classes ? 0 : best, end = to->all_classes ? classes : best + 1;
        for (size_t class = first; class < end; class++) {
            if (!(scores[class] >= (float)to->score_min)) continue;
            if (found) found[count] = (candidate){scores[class], (uint32_t)row, (uint32_t)class};
            count++;
        }
    }
    return count;
}

/* ---- Suppression ---- */

static bool covers(const box *kept, const box *other, double iou) {
    double x1 = kept->x1 > other->x1 ? kept->x1 : other->x1, x2 = kept->x2 < other->x2 ? kept->x2 : other->x2;
    double y1 = kept->y1 > other->y1 ? kept->y1 : other->y1, y2 = kept->y2 < other->y2 ? kept->y2 : other->y2;
    if (!(x2 > x1 && y2 > y1)) return false;
    double shared = (x2 - x1) * (y2 - y1);
    return shared > iou * (kept->area + other->area - shared);
}

/* Move the best candidates that no better one covers to `kept` and `boxes`; returns how many. Uses up the heap. */
static size_t suppress(const tk_f32 *values, candidate *heap, size_t size, const parameters *to, candidate *kept,
                       box *boxes) {
    size_t count = 0;
    for (size_t i = size / 2; i-- > 0;) sift_down(heap, size, i);
    for (int64_t seen = 0; size && seen < to->candidates && count < (size_t)to->keep; seen++) {
        candidate best = heap[0];
        heap[0] = heap[--size];
        sift_down(heap, size, 0);
        boxes[count] = read_box(values + (size_t)best.row * 4, to->format);
        bool covered = false;
        for (size_t i = 0; i < count && !covered; i++)
            covered = (to->across_all || kept[i].class == best.class) && covers(&boxes[i], &boxes[count], to->iou);
        if (!covered) kept[count++] = best;
    }
    return count;
}

/* ---- Output ---- */

static double clamp(double value, double max) {
    return value < 0 ? 0 : value > max ? max : value;
}

/* Back to the picture before it was resized into `placed`. */
static box moved_back(box from, const tk_i32 *placed) {
    double top = placed[0], left = placed[1], height = placed[4], width = placed[5];
    double down = height / placed[2], across = width / placed[3];
    return (box){clamp((from.x1 - left) * across, width), clamp((from.y1 - top) * down, height),
                 clamp((from.x2 - left) * across, width), clamp((from.y2 - top) * down, height), 0};
}

static int parse_placed(const tk_document *in, const tk_i32 **placed) {
    *placed = NULL;
    if (!tk_find(in, "placed")) return 0;
    const tk_tensor *tensor = tk_need(in, "placed", TK_I32);
    if (!tensor) return -1;
    const tk_i32 *values = tensor->data;
    if (tensor->rank != 1 || tensor->count != 6 || values[2] < 1 || values[3] < 1 || values[4] < 1 || values[5] < 1)
        return tk_fail("tensor 'placed' must be [6]: top, left, height, width and the original height and width");
    *placed = values;
    return 0;
}

static int put(tk_document *out, const candidate *kept, const box *boxes, size_t count, const tk_i32 *placed) {
    tk_f32 *corners = tk_add(out, "boxes", TK_F32, 2, (size_t[]){count, 4});
    tk_f32 *score = tk_add(out, "score", TK_F32, 1, &count);
    tk_i32 *class = tk_add(out, "class", TK_I32, 1, &count);
    tk_i32 *index = tk_add(out, "index", TK_I32, 1, &count);
    if (!corners || !score || !class || !index) return -1;
    for (size_t i = 0; i < count; i++, corners += 4) {
        box at = placed ? moved_back(boxes[i], placed) : boxes[i];
        corners[0] = (float)at.x1, corners[1] = (float)at.y1, corners[2] = (float)at.x2, corners[3] = (float)at.y2;
        score[i] = kept[i].score, class[i] = (int32_t)kept[i].class, index[i] = (int32_t)kept[i].row;
    }
    return 0;
}

static int nms(const tk_document *in, tk_document *out) {
    parameters to;
    size_t rows, columns, score_rows, classes;
    const tk_i32 *placed;
    const tk_tensor *boxes = tk_need(in, "boxes", TK_F32), *scores = tk_need(in, "scores", TK_F32);
    if (!boxes || !scores || parse_parameters(in, &to) || parse_placed(in, &placed) ||
        rows_and_columns(boxes, "boxes", &rows, &columns) ||
        rows_and_columns(scores, "scores", &score_rows, &classes) || tk_check_finite(boxes) ||
        tk_check_finite(scores))
        return -1;
    if (columns != 4) return tk_fail("tensor 'boxes' has rows of %zu numbers; they must have 4", columns);
    if (score_rows != rows) return tk_fail("there are %zu boxes and %zu rows of scores", rows, score_rows);
    if (!classes) return tk_fail("tensor 'scores' has rows without scores");

    size_t count = find_candidates(scores->data, rows, classes, &to, NULL);
    size_t kept_max = count < (size_t)to.keep ? count : (size_t)to.keep;
    candidate *heap = tk_alloc(count, sizeof *heap), *kept = tk_alloc(kept_max, sizeof *kept);
    box *kept_boxes = tk_alloc(kept_max + 1, sizeof *kept_boxes);
    if (!heap || !kept || !kept_boxes) return -1;
    find_candidates(scores->data, rows, classes, &to, heap);
    size_t kept_count = suppress(boxes->data, heap, count, &to, kept, kept_boxes);
    return put(out, kept, kept_boxes, kept_count, placed);
}

TK_REACTOR(nms)
