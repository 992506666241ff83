/* quantize: floats to 8-bit integers and back, affinely, as ONNX's QuantizeLinear and DequantizeLinear do.
 *
 * Input: `x`, F32, U8 or I8 of any shape. Output: `y` of the same shape: U8 or I8 of an F32, F32 of a U8 or I8.
 * Metadata:
 *   scale       what a step of 1 stands for, more than 0: required, and one number, or one for each place of `axis`
 *   zero_point  the integer that stands for 0: one number, or as many as `scale` (0)
 *   axis        the axis whose places have their own scale, 0 to the rank less 1 (0)
 *   dtype       of an F32's output: "u8" or "i8" (u8)
 *
 * y = x / scale rounded to the nearest whole number, halves to even, plus zero_point, cut to the dtype's range. Back:
 * y = (x - zero_point) * scale. Scales are rounded to F32, and both are computed in F32 as onnxruntime does.
 */
#include <math.h>

#include "tradepost_kernel.h"

#define PLACES_MAX 4096

typedef struct {
    size_t places, repeat; /* how many scales, and how many elements in a row have the same */
    float scale[PLACES_MAX];
    int zero[PLACES_MAX];
    bool is_signed;
} parameters;

static int parse_scales(const tk_document *in, parameters *to) {
    static double numbers[PLACES_MAX];
    int count = tk_metadata_numbers(in, "scale", numbers, PLACES_MAX);
    if (count < 0) return -1;
    if (count == 0) return tk_fail("metadata 'scale' is missing");
    for (int i = 0; i < count; i++) {
        to->scale[i] = (float)numbers[i];
        if (!(to->scale[i] > 0)) return tk_fail("metadata 'scale' must be more than 0");
    }
    int zeros = tk_metadata_numbers(in, "zero_point", numbers, PLACES_MAX);
    if (zeros < 0) return -1;
    if (zeros > 1 && zeros != count)
        return tk_fail("metadata 'zero_point' has %d numbers; 'scale' has %d", zeros, count);
    int low = to->is_signed ? -128 : 0;
    for (int i = 0; i < count; i++) {
        double zero = zeros == 0 ? 0 : numbers[zeros == 1 ? 0 : i];
        if (!(zero >= low && zero <= low + 255) || zero != floor(zero))
            return tk_fail("metadata 'zero_point' must be whole numbers from %d to %d", low, low + 255);
        to->zero[i] = (int)zero;
    }
    to->places = (size_t)count;
    return 0;
}

static int parse_parameters(const tk_document *in, const tk_tensor *x, parameters *to) {
    int as_i8;
    int64_t axis;
    if (tk_metadata_choice(in, "dtype", "u8, i8", &as_i8)) return -1;
    to->is_signed = x->dtype == TK_F32 ? as_i8 : x->dtype == TK_I8;
    if (parse_scales(in, to) || tk_metadata_int(in, "axis", 0, 0, x->rank ? x->rank - 1 : 0, &axis)) return -1;
    if (to->places > 1 && (!x->rank || x->shape[axis] != to->places))
        return tk_fail("metadata 'scale' has %zu numbers; axis %lld has another length", to->places, (long long)axis);
    to->repeat = 1;
    for (int i = (int)axis + 1; i < x->rank; i++) to->repeat *= x->shape[i];
    return 0;
}

static size_t place_of(size_t at, const parameters *of) {
    return of->places == 1 ? 0 : at / of->repeat % of->places;
}

static int to_integers(const tk_tensor *x, const parameters *of, tk_document *out) {
    uint8_t *y = tk_add(out, "y", of->is_signed ? TK_I8 : TK_U8, x->rank, x->shape);
    if (!y) return -1;
    const tk_f32 *values = x->data;
    float low = of->is_signed ? -128 : 0;
    for (size_t i = 0; i < x->count; i++) {
        size_t place = place_of(i, of);
        if (isnan(values[i])) return tk_fail("tensor 'x' has a NaN at %zu", i);
        float step = rintf(values[i] / of->scale[place]) + (float)of->zero[place];
        y[i] = (uint8_t)(int)(step < low ? low : step > low + 255 ? low + 255 : step);
    }
    return 0;
}

static int to_floats(const tk_tensor *x, const parameters *of, tk_document *out) {
    tk_f32 *y = tk_add(out, "y", TK_F32, x->rank, x->shape);
    if (!y) return -1;
    const uint8_t *values = x->data;
    for (size_t i = 0; i < x->count; i++) {
        size_t place = place_of(i, of);
        int value = of->is_signed ? (int8_t)values[i] : values[i];
        y[i] = (float)(value - of->zero[place]) * of->scale[place];
    }
    return 0;
}

static int quantize(const tk_document *in, tk_document *out) {
    static parameters of;
    const tk_tensor *x = tk_find(in, "x");
    if (!x || (x->dtype != TK_U8 && x->dtype != TK_I8)) x = tk_need(in, "x", TK_F32);
    if (!x || parse_parameters(in, x, &of)) return -1;
    return x->dtype == TK_F32 ? to_integers(x, &of, out) : to_floats(x, &of, out);
}

TK_REACTOR(quantize)
