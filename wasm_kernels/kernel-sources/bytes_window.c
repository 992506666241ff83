/* bytes_window: the beginning and the end of a byte string as one row of integers, the input of file-type models.
 *
 * Input: `bytes` U8 [L], L may be 0. Output: `window` I32 [1, head + tail].
 * Metadata, each a whole number unless said otherwise:
 *   head, tail  how many bytes of either end (1024)
 *   block       how many bytes are looked at from either end (4096)
 *   pad         what fills the row where there are no bytes (256)
 *   strip       "none", or "ascii-whitespace": drop blanks from the front of the first block and from the back
 *               of the last, before cutting (none)
 *
 * The head is padded behind, the tail in front. With strip = ascii-whitespace and the defaults this equals the
 * features of magika 1.0's standard model.
 */
#include "tradepost_kernel.h"

#define WINDOW_MAX (1 << 20)

/* What Python's bytes.strip() strips. */
static bool is_whitespace(uint8_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int parse_strip(const tk_document *in, bool *strip) {
    const tk_string *text = tk_metadata(in, "strip");
    *strip = text && tk_equal(*text, "ascii-whitespace");
    if (text && !*strip && !tk_equal(*text, "none"))
        return tk_fail("metadata 'strip' is '%.*s'; it must be none or ascii-whitespace", TK_SHOW(*text));
    return 0;
}

static int bytes_window(const tk_document *in, tk_document *out) {
    int64_t head, tail, block, pad;
    bool strip;
    const tk_tensor *bytes = tk_need(in, "bytes", TK_U8);
    if (!bytes || tk_metadata_int(in, "head", 1024, 0, WINDOW_MAX, &head) ||
        tk_metadata_int(in, "tail", 1024, 0, WINDOW_MAX, &tail) ||
        tk_metadata_int(in, "block", 4096, 0, INT32_MAX, &block) ||
        tk_metadata_int(in, "pad", 256, INT32_MIN, INT32_MAX, &pad) || parse_strip(in, &strip))
        return -1;
    if (bytes->rank != 1) return tk_fail("tensor 'bytes' has rank %d; it must have rank 1", bytes->rank);
    if (head + tail == 0) return tk_fail("metadata 'head' and 'tail' are both 0");

    tk_i32 *window = tk_add(out, "window", TK_I32, 2, (size_t[]){1, (size_t)(head + tail)});
    if (!window) return -1;
    for (int64_t i = 0; i < head + tail; i++) window[i] = (int32_t)pad;

    const uint8_t *first = bytes->data, *end = first + bytes->count;
    size_t seen = bytes->count < (size_t)block ? bytes->count : (size_t)block;
    const uint8_t *from = first, *from_end = first + seen;
    while (strip && from < from_end && is_whitespace(*from)) from++;
    for (tk_i32 *to = window; from < from_end && to < window + head;) *to++ = *from++;

    const uint8_t *back = end, *back_end = end - seen;
    while (strip && back > back_end && is_whitespace(back[-1])) back--;
    for (tk_i32 *to = window + head + tail; back > back_end && to > window + head;) *--to = *--back;
    return 0;
}

TK_REACTOR(bytes_window)
