/* topk: the k highest scores of each row, as probabilities and with their labels if wanted.
 *
 * Input: `scores` F32 [N, K], or [K] for one row. Output: `index` I32 [N, k] and `score` F32 [N, k], best first,
 * and of equal scores the lower index first.
 * Metadata:
 *   k           how many (1)
 *   activation  "softmax", over the whole row in double precision, or "none" (softmax)
 *   labels      the K names, newline-separated; the output's metadata then has `labels` too: the names of the
 *               output's N * k indices, row by row
 */
#include <math.h>

#include "tradepost_kernel.h"

/* Whether row[a] ranks before row[b]. */
static bool ranks_before(const tk_f32 *row, size_t a, size_t b) {
    return row[a] != row[b] ? row[a] > row[b] : a < b;
}

/* Restore the heap of indices, best at the root, below `root`. */
static void sift_down(const tk_f32 *row, uint32_t *heap, size_t size, size_t root) {
    for (size_t child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && ranks_before(row, heap[child + 1], heap[child])) child++;
        if (!ranks_before(row, heap[child], heap[root])) return;
        uint32_t index = heap[root];
        heap[root] = heap[child], heap[child] = index;
    }
}

/* The k best of `size` indices, through a heap: size + k log(size) steps whatever k is. */
static void select_best(const tk_f32 *row, size_t size, uint32_t *heap, size_t k, tk_i32 *index) {
    for (size_t i = 0; i < size; i++) heap[i] = (uint32_t)i;
    for (size_t i = size / 2; i-- > 0;) sift_down(row, heap, size, i);
    for (size_t i = 0; i < k; i++) {
        index[i] = (int32_t)heap[0];
        heap[0] = heap[--size];
        sift_down(row, heap, size, 0);
    }
}

static int softmax_scores(const tk_f32 *row, size_t size, const tk_i32 *index, size_t k, tk_f32 *score) {
    double best = row[index[0]], sum = 0;
    if (!isfinite(best)) return tk_fail("the highest score of a row is infinite, so it has no softmax");
    for (size_t i = 0; i < size; i++) sum += exp(row[i] - best);
    for (size_t i = 0; i < k; i++) score[i] = (float)(exp(row[index[i]] - best) / sum);
    return 0;
}

static int parse_activation(const tk_document *in, bool *softmax) {
    const tk_string *text = tk_metadata(in, "activation");
    *softmax = !text || tk_equal(*text, "softmax");
    if (!*softmax && !tk_equal(*text, "none"))
        return tk_fail("metadata 'activation' is '%.*s'; it must be softmax or none", TK_SHOW(*text));
    return 0;
}

/* Write the names of `count` indices as metadata. */
static int add_labels(tk_document *out, tk_string text, size_t size, const tk_i32 *index, size_t count) {
    tk_string *labels = tk_alloc(size, sizeof *labels), label;
    if (!labels) return -1;
    size_t found = 0, length = 0;
    while (tk_split(&text, '\n', &label)) {
        if (found < size) labels[found] = label;
        found++;
    }
    if (found != size) return tk_fail("metadata 'labels' has %zu names for %zu scores", found, size);
    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(length, labels[index[i]].length + 1, &length))
            return tk_fail("the output's labels are too long");
    char *joined = tk_alloc(1, length ? length : 1), *end = joined;
    if (!joined) return -1;
    for (size_t i = 0; i < count; i++) {
        label = labels[index[i]];
        if (i) *end++ = '\n';
        memcpy(end, label.bytes, label.length);
        end += label.length;
    }
    return tk_add_metadata(out, tk_text("labels"), (tk_string){joined, (size_t)(end - joined)});
}

static int topk(const tk_document *in, tk_document *out) {
    bool softmax;
    int64_t k_wanted;
    const tk_tensor *scores = tk_need(in, "scores", TK_F32);
    if (!scores || parse_activation(in, &softmax)) return -1;
    if (scores->rank != 1 && scores->rank != 2)
        return tk_fail("tensor 'scores' has rank %d; it must be [N, K] or [K]", scores->rank);
    size_t rows = scores->rank == 2 ? scores->shape[0] : 1, size = scores->shape[scores->rank - 1];
    if (!size) return tk_fail("tensor 'scores' has rows without scores");
    if (tk_metadata_int(in, "k", 1, 1, (int64_t)size, &k_wanted)) return -1;

    size_t k = (size_t)k_wanted;
    const tk_f32 *data = scores->data;
    for (size_t i = 0; i < scores->count; i++)
        if (isnan(data[i])) return tk_fail("tensor 'scores' has a NaN in row %zu", i / size);

    tk_i32 *index = tk_add(out, "index", TK_I32, 2, (size_t[]){rows, k});
    tk_f32 *score = tk_add(out, "score", TK_F32, 2, (size_t[]){rows, k});
    uint32_t *heap = tk_alloc(size, sizeof *heap);
    if (!index || !score || !heap) return -1;
    for (size_t row = 0; row < rows; row++, data += size, index += k, score += k) {
        select_best(data, size, heap, k, index);
        if (softmax && softmax_scores(data, size, index, k, score)) return -1;
        for (size_t i = 0; i < k && !softmax; i++) score[i] = data[index[i]];
    }
    const tk_string *labels = tk_metadata(in, "labels");
    return labels ? add_labels(out, *labels, size, index - rows * k, rows * k) : 0;
}

TK_REACTOR(topk)
