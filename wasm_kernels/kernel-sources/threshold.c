/* threshold: which scores reach a value, where they are, and whether any does.
 *
 * Input: `scores` F32 of any shape. Output: `over` U8 of the same shape, 1 where a score reaches the value; `index`
 * I32 [M], the places of these in row order; `any` U8 [1], 1 if there is one: what a filter at the edge asks.
 * Metadata:
 *   value    the threshold, rounded to F32 (0.5)
 *   compare  "at-least", "above", "at-most" or "below" (at-least)
 */
#include <math.h>

#include "tradepost_kernel.h"

enum { AT_LEAST, ABOVE, AT_MOST, BELOW };

static bool passes(float score, float value, int compare) {
    if (compare == AT_LEAST) return score >= value;
    if (compare == ABOVE) return score > value;
    return compare == AT_MOST ? score <= value : score < value;
}

static int threshold(const tk_document *in, tk_document *out) {
    int compare;
    double wanted = 0.5;
    const tk_tensor *scores = tk_need(in, "scores", TK_F32);
    if (!scores || tk_metadata_choice(in, "compare", "at-least, above, at-most, below", &compare) ||
        tk_metadata_numbers(in, "value", &wanted, 1) < 0)
        return -1;
    float value = (float)wanted;
    size_t count = 0;
    const tk_f32 *score = scores->data;
    for (size_t i = 0; i < scores->count; i++) {
        if (isnan(score[i])) return tk_fail("tensor 'scores' has a NaN at %zu", i);
        count += passes(score[i], value, compare);
    }

    uint8_t *over = tk_add(out, "over", TK_U8, scores->rank, scores->shape);
    tk_i32 *index = tk_add(out, "index", TK_I32, 1, &count);
    uint8_t *any = tk_add(out, "any", TK_U8, 1, (size_t[]){1});
    if (!over || !index || !any) return -1;
    any[0] = count > 0;
    for (size_t i = 0; i < scores->count; i++)
        if ((over[i] = passes(score[i], value, compare))) *index++ = (int32_t)i;
    return 0;
}

TK_REACTOR(threshold)
