/* sample_stats: count, mean, variance, extremes and histogram of a tensor, to watch inputs drift.
 *
 * Input: `x` F32 or U8 of any shape with at least one element. Output: `mean` and `variance` F64 [1] (of all elements:
 * divided by their number), `minimum` and `maximum` F64 [1], `count` I64 [1], `histogram` I64 [bins].
 * Metadata:
 *   bins  1 to 65536 (16)
 *   low   the lower end of the first bin (0)
 *   high  the upper end of the last bin (1 for F32, 256 for U8)
 *
 * Bins are equally wide; an element at the edge of two is in the upper one, and one below `low` or at `high` or above
 * is in the first or the last, so that the bins sum up to the count. Sums are double precision, in element order; the
 * variance is the mean of the squared distances from the mean.
 */
#include <math.h>

#include "tradepost_kernel.h"

#define BINS_MAX 65536

static double element(const tk_tensor *x, size_t at) {
    return x->dtype == TK_U8 ? ((const uint8_t *)x->data)[at] : ((const tk_f32 *)x->data)[at];
}

static int parse_range(const tk_document *in, double *low, double *high) {
    if (tk_metadata_numbers(in, "low", low, 1) < 0 || tk_metadata_numbers(in, "high", high, 1) < 0) return -1;
    return *low < *high ? 0 : tk_fail("metadata 'low' must be below 'high'");
}

static size_t bin_of(double value, double low, double high, size_t bins) {
    double place = floor((value - low) / (high - low) * (double)bins);
    return place < 0 ? 0 : place >= (double)bins ? bins - 1 : (size_t)place;
}

static int put_number(tk_document *out, const char *name, double value) {
    tk_f64 *number = tk_add(out, name, TK_F64, 1, (size_t[]){1});
    if (!number) return -1;
    *number = value;
    return 0;
}

static int sample_stats(const tk_document *in, tk_document *out) {
    int64_t bins;
    const tk_tensor *x = tk_find(in, "x");
    if (!x || x->dtype != TK_U8) x = tk_need(in, "x", TK_F32);
    if (!x) return -1;
    double low = 0, high = x->dtype == TK_U8 ? 256 : 1;
    if (tk_metadata_int(in, "bins", 16, 1, BINS_MAX, &bins) || parse_range(in, &low, &high)) return -1;
    if (!x->count) return tk_fail("tensor 'x' has no elements");

    tk_i64 *histogram = tk_add(out, "histogram", TK_I64, 1, (size_t[]){(size_t)bins});
    tk_i64 *count = tk_add(out, "count", TK_I64, 1, (size_t[]){1});
    if (!histogram || !count) return -1;
    *count = (int64_t)x->count;
    double sum = 0, squares = 0, minimum = element(x, 0), maximum = minimum;
    for (size_t i = 0; i < x->count; i++) {
        double value = element(x, i);
        if (!isfinite(value)) return tk_fail("tensor 'x' has a value that is not finite at %zu", i);
        sum += value;
        if (value < minimum) minimum = value;
        if (value > maximum) maximum = value;
        histogram[bin_of(value, low, high, (size_t)bins)]++;
    }
    double mean = sum / (double)x->count;
    for (size_t i = 0; i < x->count; i++) squares += (element(x, i) - mean) * (element(x, i) - mean);
    if (put_number(out, "mean", mean) || put_number(out, "variance", squares / (double)x->count) ||
        put_number(out, "minimum", minimum) || put_number(out, "maximum", maximum))
        return -1;
    return 0;
}

TK_REACTOR(sample_stats)
