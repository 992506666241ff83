/* delta_filter: whether a frame or reading differs enough from the last one that was passed on, or is due anyway.
 *
 * Input: `x` and `last`, both U8 or both F32, of one shape with at least one element; optionally `age` F32 [1], the
 * seconds since `last` was passed on. Without elements, `last` means that there is none yet. Output: `pass` U8 [1];
 * `change` F32 [1]; `last`, the tensor for the next call: `x` if it passes, else `last` as it was. A caller keeps it,
 * since kernels have no memory of their own.
 * Metadata:
 *   change   the change from which on it passes, at least 0 (0.02)
 *   measure  "mean": the mean of |x - last|; or "share": the share of elements that differ by more than `level` (mean)
 *   scale    what differences are divided by, more than 0 (255 for U8, 1 for F32)
 *   level    for share, of a difference after the division, at least 0 (0.1)
 *   due      the age in seconds from which on it passes in any case; 0 for never (0)
 *
 * The first reading passes, with a change of 0. Computed in double precision, in element order.
 */
#include <math.h>

#include "tradepost_kernel.h"

typedef struct {
    int share;
    double change, scale, level, due;
} parameters;

static const int64_t limit = 1000000000;

static int parse_parameters(const tk_document *in, bool bytes, parameters *to) {
    if (tk_metadata_number(in, "change", 0.02, 0, limit, &to->change) ||
        tk_metadata_choice(in, "measure", "mean, share", &to->share) ||
        tk_metadata_number(in, "scale", bytes ? 255 : 1, 0, limit, &to->scale) ||
        tk_metadata_number(in, "level", 0.1, 0, limit, &to->level) ||
        tk_metadata_number(in, "due", 0, 0, limit, &to->due))
        return -1;
    return to->scale > 0 ? 0 : tk_fail("metadata 'scale' cannot be 0");
}

static bool same_shape(const tk_tensor *a, const tk_tensor *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

/* Whether `age` says that the reading is due; -1 on a mistake. */
static int is_due(const tk_document *in, const parameters *of) {
    if (!tk_find(in, "age")) return 0;
    const tk_tensor *age = tk_need(in, "age", TK_F32);
    if (!age) return -1;
    if (age->count != 1) return tk_fail("tensor 'age' has %zu numbers; it must have one", age->count);
    float seconds = ((const tk_f32 *)age->data)[0];
    if (!isfinite(seconds)) return tk_fail("tensor 'age' is not finite");
    return of->due > 0 && seconds >= of->due;
}

static double element(const tk_tensor *x, size_t at) {
    return x->dtype == TK_U8 ? ((const uint8_t *)x->data)[at] : ((const tk_f32 *)x->data)[at];
}

static int measure(const tk_tensor *x, const tk_tensor *last, const parameters *of, double *change) {
    double sum = 0;
    for (size_t i = 0; i < x->count; i++) {
        double difference = fabs(element(x, i) - element(last, i)) / of->scale;
        if (!isfinite(difference)) return tk_fail("tensors 'x' and 'last' must be finite");
        sum += of->share ? difference > of->level : difference;
    }
    *change = sum / (double)x->count;
    return 0;
}

static int check_finite(const tk_tensor *x) {
    for (size_t i = 0; i < x->count; i++)
        if (!isfinite(element(x, i))) return tk_fail("tensors 'x' and 'last' must be finite");
    return 0;
}

static int delta_filter(const tk_document *in, tk_document *out) {
    parameters of;
    const tk_tensor *x = tk_find(in, "x");
    if (!x || x->dtype != TK_U8) x = tk_need(in, "x", TK_F32);
    const tk_tensor *last = x ? tk_need(in, "last", x->dtype) : NULL;
    if (!x || !last || parse_parameters(in, x->dtype == TK_U8, &of)) return -1;
    if (!x->count) return tk_fail("tensor 'x' has no elements");
    if (last->count && !same_shape(x, last)) return tk_fail("tensors 'x' and 'last' must have the same shape");
    int due = is_due(in, &of);
    if (due < 0) return -1;

    double change = 0;
    if (last->count ? measure(x, last, &of, &change) : check_finite(x)) return -1;
    bool pass = due || !last->count || change >= of.change;
    uint8_t *passes = tk_add(out, "pass", TK_U8, 1, (size_t[]){1});
    tk_f32 *changed = tk_add(out, "change", TK_F32, 1, (size_t[]){1});
    if (!passes || !changed) return -1;
    *passes = pass, *changed = (float)change;
    tk_tensor next = pass ? *x : *last;
    next.name = last->name;
    return tk_add_tensor(out, &next);
}

TK_REACTOR(delta_filter)
