/* pool_normalize: one vector for each text from the vectors of its tokens, as sentence embeddings are made.
 *
 * Input: `hidden` F32 [N, T, D]; with pool = mean or max also `mask` I64 or I32 [N, T], where a token that is not 0
 * counts. Output: `embedding` F32 [N, D].
 * Metadata:
 *   pool       "mean" or "max" of the tokens that count, or "cls": the first token (mean)
 *   normalize  "l2": the vector is divided by its Euclidean length, or "none" (l2)
 *
 * A text of which no token counts, and a vector of length 0, give zeros. Sums are double precision, in the order of
 * the tokens and of the dimensions; the square root is Wasm's own, which rounds correctly.
 */
#include <math.h>

#include "tradepost_kernel.h"

typedef enum { MEAN, MAX, CLS } pooling;

static int64_t mask_at(const tk_tensor *mask, size_t at) {
    return mask->dtype == TK_I64 ? ((const tk_i64 *)mask->data)[at] : ((const tk_i32 *)mask->data)[at];
}

/* The mask that belongs to `hidden`, or NULL. */
static const tk_tensor *need_mask(const tk_document *in, const tk_tensor *hidden) {
    const tk_tensor *mask = tk_find(in, "mask");
    if (!mask || mask->dtype != TK_I32) mask = tk_need(in, "mask", TK_I64);
    if (!mask) return NULL;
    if (mask->rank == 2 && mask->shape[0] == hidden->shape[0] && mask->shape[1] == hidden->shape[1]) return mask;
    tk_fail("tensor 'mask' must be [%zu, %zu], a number for each token of 'hidden'", hidden->shape[0],
            hidden->shape[1]);
    return NULL;
}

static void add(double *restrict pooled, const tk_f32 *token, size_t size) {
    for (size_t d = 0; d < size; d++) pooled[d] += token[d];
}

static void keep_larger(double *restrict pooled, const tk_f32 *token, size_t size) {
    for (size_t d = 0; d < size; d++) pooled[d] = token[d] > pooled[d] ? token[d] : pooled[d];
}

/* The pooled vector of one text, whose first token's vector is `token`. */
static void pool(const tk_f32 *token, const tk_tensor *mask, size_t first, size_t tokens, size_t size, int how,
                 double *restrict pooled) {
    size_t counted = 0;
    memset(pooled, 0, size * sizeof *pooled);
    if (how == CLS) add(pooled, token, size);
    for (size_t t = 0; how != CLS && t < tokens; t++, token += size) {
        if (!mask_at(mask, first + t)) continue;
        if (how == MEAN || !counted) add(pooled, token, size);
        else keep_larger(pooled, token, size);
        counted++;
    }
    for (size_t d = 0; how == MEAN && counted && d < size; d++) pooled[d] /= (double)counted;
}

static double length_of(const double *vector, size_t size) {
    double sum = 0;
    for (size_t d = 0; d < size; d++) sum += vector[d] * vector[d];
    return sqrt(sum);
}

static int pool_normalize(const tk_document *in, tk_document *out) {
    int how, plain;
    const tk_tensor *hidden = tk_need(in, "hidden", TK_F32), *mask = NULL;
    if (!hidden || tk_metadata_choice(in, "pool", "mean, max, cls", &how) ||
        tk_metadata_choice(in, "normalize", "l2, none", &plain))
        return -1;
    if (hidden->rank != 3) return tk_fail("tensor 'hidden' has rank %d; it must be [N, T, D]", hidden->rank);
    size_t texts = hidden->shape[0], tokens = hidden->shape[1], size = hidden->shape[2];
    if (!tokens) return tk_fail("tensor 'hidden' has texts without tokens");
    if ((how != CLS && !(mask = need_mask(in, hidden))) || tk_check_finite(hidden)) return -1;

    const tk_f32 *token = hidden->data;
    tk_f32 *embedding = tk_add(out, "embedding", TK_F32, 2, (size_t[]){texts, size});
    double *pooled = tk_alloc(size + 1, sizeof *pooled);
    if (!embedding || !pooled) return -1;
    for (size_t n = 0; n < texts; n++, token += tokens * size, embedding += size) {
        pool(token, mask, n * tokens, tokens, size, how, pooled);
        double length = plain ? 1 : length_of(pooled, size);
        for (size_t d = 0; d < size; d++) embedding[d] = (float)(length > 0 ? pooled[d] / length : 0);
    }
    return 0;
}

TK_REACTOR(pool_normalize)
