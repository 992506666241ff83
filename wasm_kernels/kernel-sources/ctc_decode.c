/* ctc_decode: the text that a CTC model wrote: the best symbol of each step, without repeats and blanks.
 *
 * Input: `scores` F32 [T, K] or [N, T, K]: N lines of T steps over K symbols, the blank among them. The symbols'
 * names are the tensor `labels` U8 [L], newline-separated UTF-8, or the metadata of that name: K names, or K - 1
 * without the blank's.
 * Output: `text` U8 [bytes], the lines one after the other; `text_end` I32 [N], where each ends in it; `score` F32
 * [N], the mean probability of a line's symbols, 0 for a line without any; `symbol` and `step` I32 [S], the symbols
 * of all lines and the step at which each begins; `symbol_end` I32 [N], where each line ends in them.
 * Metadata:
 *   blank       the blank's place among the K symbols (0)
 *   activation  "none": the scores are probabilities, or "softmax", over each step in double precision (none)
 *   labels      see above
 *
 * Among equal scores the first symbol is best. A symbol that follows itself counts once unless a blank is between.
 * The softmax uses exp of musl, compiled into this kernel.
 */
#include <math.h>

#include "tradepost_kernel.h"

typedef struct {
    size_t lines, steps, symbols, blank;
    int softmax;
    const tk_string *names; /* of all symbols; the blank's is empty */
} parameters;

/* What all lines together decode to. */
typedef struct {
    int32_t *symbol, *step;
    size_t count, text_bytes;
} decoded;

/* ---- Parameters ---- */

static int parse_names(tk_string text, size_t symbols, size_t blank, const tk_string **names) {
    tk_string *list = tk_alloc(symbols, sizeof *list), rest = text, name;
    if (!list) return -1;
    size_t found = 0;
    while (tk_split(&rest, '\n', &name)) found++;
    if (found != symbols && found != symbols - 1)
        return tk_fail("there are %zu labels for %zu symbols; there must be as many, or one less without the blank",
                       found, symbols);
    rest = text;
    for (size_t at = 0; at < symbols; at++) {
        if ((at != blank || found == symbols) && !tk_split(&rest, '\n', &name)) name.length = 0;
        list[at] = at == blank ? (tk_string){"", 0} : name;
    }
    *names = list;
    return 0;
}

/* The labels from the tensor, else from the metadata. */
static int find_labels(const tk_document *in, tk_string *text) {
    const tk_string *metadata = tk_metadata(in, "labels");
    if (tk_find(in, "labels")) {
        const tk_tensor *tensor = tk_need(in, "labels", TK_U8);
        if (!tensor) return -1;
        if (metadata) return tk_fail("there are a tensor 'labels' and metadata 'labels'; one of them must do");
        *text = (tk_string){tensor->data, tensor->count};
        if (text->length && text->bytes[text->length - 1] == '\n') text->length--; /* as files end */
        return tk_check_utf8(*text, "tensor 'labels'");
    }
    if (!metadata) return tk_fail("there is no tensor 'labels', nor metadata of this name");
    *text = *metadata;
    return 0;
}

static int parse_parameters(const tk_document *in, const tk_tensor *scores, parameters *to) {
    int64_t blank;
    tk_string text;
    if (scores->rank != 2 && scores->rank != 3)
        return tk_fail("tensor 'scores' has rank %d; it must be [T, K] or [N, T, K]", scores->rank);
    const size_t *shape = scores->shape + (scores->rank == 3);
    *to = (parameters){.lines = scores->rank == 3 ? scores->shape[0] : 1, .steps = shape[0], .symbols = shape[1]};
    if (to->symbols < 2) return tk_fail("tensor 'scores' has %zu symbols; it must have 2 or more", to->symbols);
    if (tk_metadata_int(in, "blank", 0, 0, (int64_t)to->symbols - 1, &blank) ||
        tk_metadata_choice(in, "activation", "none, softmax", &to->softmax) || find_labels(in, &text))
        return -1;
    to->blank = (size_t)blank;
    return parse_names(text, to->symbols, to->blank, &to->names);
}

/* ---- Decoding ---- */

static double probability(const tk_f32 *step, size_t best, const parameters *of) {
    if (!of->softmax) return step[best];
    double sum = 0;
    for (size_t k = 0; k < of->symbols; k++) sum += exp((double)step[k] - step[best]);
    return 1 / sum;
}

/* Decode one line behind those that `to` has; gives its score. */
static float decode_line(const tk_f32 *step, const parameters *of, decoded *to) {
    size_t before = of->blank, first = to->count;
    double sum = 0;
    for (size_t t = 0; t < of->steps; t++, step += of->symbols) {
        size_t best = 0;
        for (size_t k = 1; k < of->symbols; k++)
            if (step[k] > step[best]) best = k;
        if (best != of->blank && best != before) {
            sum += probability(step, best, of);
            to->symbol[to->count] = (int32_t)best, to->step[to->count++] = (int32_t)t;
            to->text_bytes += of->names[best].length;
        }
        before = best;
    }
    return to->count > first ? (float)(sum / (double)(to->count - first)) : 0;
}

static int put(tk_document *out, const decoded *found, const int32_t *symbol_end, const parameters *of) {
    uint8_t *text = tk_add(out, "text", TK_U8, 1, &found->text_bytes);
    tk_i32 *text_end = tk_add(out, "text_end", TK_I32, 1, &of->lines);
    tk_i32 *ends = tk_add(out, "symbol_end", TK_I32, 1, &of->lines);
    tk_i32 *symbol = tk_add(out, "symbol", TK_I32, 1, &found->count);
    tk_i32 *step = tk_add(out, "step", TK_I32, 1, &found->count);
    if (!text || !text_end || !ends || !symbol || !step) return -1;
    size_t at = 0, written = 0;
    for (size_t n = 0; n < of->lines; n++) {
        for (; at < (size_t)symbol_end[n]; at++) {
            tk_string name = of->names[found->symbol[at]];
            symbol[at] = found->symbol[at], step[at] = found->step[at];
            memcpy(text + written, name.bytes, name.length);
            written += name.length;
        }
        text_end[n] = (int32_t)written, ends[n] = symbol_end[n];
    }
    return 0;
}

static int ctc_decode(const tk_document *in, tk_document *out) {
    parameters of;
    const tk_tensor *scores = tk_need(in, "scores", TK_F32);
    if (!scores || parse_parameters(in, scores, &of) || tk_check_finite(scores)) return -1;

    const tk_f32 *step = scores->data;
    size_t steps = scores->count / of.symbols; /* of all lines */
    decoded found = {tk_alloc(steps, sizeof(int32_t)), tk_alloc(steps, sizeof(int32_t)), 0, 0};
    int32_t *symbol_end = tk_alloc(of.lines, sizeof *symbol_end);
    tk_f32 *score = tk_add(out, "score", TK_F32, 1, &of.lines);
    if (!found.symbol || !found.step || !symbol_end || !score) return -1;
    for (size_t n = 0; n < of.lines; n++, step += of.steps * of.symbols) {
        score[n] = decode_line(step, &of, &found);
        symbol_end[n] = (int32_t)found.count;
        if (found.text_bytes > TK_DOCUMENT_BYTES_MAX) return tk_fail("the text is too long");
    }
    return put(out, &found, symbol_end, &of);
}

TK_REACTOR(ctc_decode)
