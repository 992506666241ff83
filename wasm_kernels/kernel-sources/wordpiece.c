/* wordpiece: texts to the token ids of BERT and its relatives.
 *
 * Input: `text` U8 [L], UTF-8; `vocabulary` U8 [V], the bytes of a vocab.txt: a token on each line, whose number is
 * its id; optionally `text_end` I32 [N], where each of N texts ends in `text`, else it is one text.
 * Output: `input_ids`, `attention_mask` and `token_type_ids` I64 [N, T].
 * Metadata:
 *   length     tokens of a text at most, with the two special ones, 2 to 65536 (512); longer texts are cut
 *   padding    "longest": T is that of the longest text; or "length": it is `length` (longest)
 *   lowercase  "yes": accents and case are removed, as models named uncased want it; or "no" (yes)
 *   cls, sep, pad, unk  the special tokens, which the vocabulary must have ([CLS], [SEP], [PAD], [UNK])
 *
 * This is BERT's tokenizer: control characters are dropped, white space, punctuation and CJK ideographs separate
 * words, and each word is cut into the longest tokens of the vocabulary from the left, those behind the first with
 * ## in front. A word that cannot be cut so, or of more than 100 characters, is one unknown token. Characters are
 * classified by Unicode 14. Special tokens within a text are text.
 */
#include "tradepost_kernel.h"
#include "tk_unicode.h"

#define LENGTH_MAX 65536
#define WORD_CHARACTERS_MAX 100
#define WORD_BYTES_MAX (WORD_CHARACTERS_MAX * 4)
#define TOKENS_MAX (1 << 22)
#define NONE UINT32_MAX

/* The vocabulary by text: open addressing, where a slot is an id + 1. */
typedef struct {
    tk_string *tokens;
    uint32_t *slots, mask, count;
} vocabulary;

typedef struct {
    vocabulary words;
    int64_t length;
    int to_length, keep_case;
    uint32_t cls, sep, pad, unk;
} parameters;

/* A word being read: UTF-8, and the ids it and the words before became. */
typedef struct {
    uint8_t bytes[WORD_BYTES_MAX];
    size_t length, characters;
    uint32_t *ids;
    size_t count, count_max;
} writer;

/* ---- Vocabulary ---- */

static uint32_t hash(uint32_t state, const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) state = (state ^ bytes[i]) * 16777619u; /* FNV-1a */
    return state;
}
#define HASH_START 2166136261u

/* The id of `front` and `bytes` together, NONE without one. */
static uint32_t find(const vocabulary *in, tk_string front, const uint8_t *bytes, size_t length) {
    uint32_t state = hash(hash(HASH_START, (const uint8_t *)front.bytes, front.length), bytes, length);
    for (uint32_t at = state & in->mask; in->slots[at]; at = (at + 1) & in->mask) {
        tk_string token = in->tokens[in->slots[at] - 1];
        if (token.length == front.length + length && memcmp(token.bytes, front.bytes, front.length) == 0 &&
            memcmp(token.bytes + front.length, bytes, length) == 0)
            return in->slots[at] - 1;
    }
    return NONE;
}

static int read_vocabulary(const tk_document *in, vocabulary *to) {
    const tk_tensor *tensor = tk_need(in, "vocabulary", TK_U8);
    if (!tensor) return -1;
    tk_string text = {tensor->data, tensor->count}, rest, token;
    if (text.length && text.bytes[text.length - 1] == '\n') text.length--;
    if (tk_check_utf8(text, "tensor 'vocabulary'")) return -1;
    rest = text;
    while (tk_split(&rest, '\n', &token)) to->count++;
    if (to->count > TOKENS_MAX) return tk_fail("the vocabulary has %u tokens; it can have %d", to->count, TOKENS_MAX);
    uint32_t slots = 16;
    while (slots < 2 * to->count) slots *= 2;
    to->mask = slots - 1;
    to->tokens = tk_alloc(to->count, sizeof *to->tokens);
    to->slots = tk_alloc(slots, sizeof *to->slots);
    if (!to->tokens || !to->slots) return -1;
    rest = text;
    for (uint32_t id = 0; tk_split(&rest, '\n', &token); id++) {
        if (token.length && token.bytes[token.length - 1] == '\r') token.length--;
        const uint8_t *bytes = (const uint8_t *)token.bytes;
        to->tokens[id] = token;
        if (find(to, tk_text(""), bytes, token.length) != NONE)
            return tk_fail("the vocabulary has '%.*s' twice", TK_SHOW(token));
        uint32_t at = hash(HASH_START, bytes, token.length) & to->mask;
        while (to->slots[at]) at = (at + 1) & to->mask;
        to->slots[at] = id + 1;
    }
    return 0;
}

static int find_special(const tk_document *in, const vocabulary *words, const char *key, const char *usual,
                        uint32_t *id) {
    const tk_string *named = tk_metadata(in, key);
    tk_string token = named ? *named : tk_text(usual);
    *id = find(words, token, NULL, 0);
    return *id == NONE ? tk_fail("the vocabulary has no '%.*s', the token '%s'", TK_SHOW(token), key) : 0;
}

static int parse_parameters(const tk_document *in, parameters *to) {
    if (tk_metadata_int(in, "length", 512, 2, LENGTH_MAX, &to->length) ||
        tk_metadata_choice(in, "padding", "longest, length", &to->to_length) ||
        tk_metadata_choice(in, "lowercase", "yes, no", &to->keep_case) || read_vocabulary(in, &to->words) ||
        find_special(in, &to->words, "cls", "[CLS]", &to->cls) ||
        find_special(in, &to->words, "sep", "[SEP]", &to->sep) ||
        find_special(in, &to->words, "pad", "[PAD]", &to->pad) ||
        find_special(in, &to->words, "unk", "[UNK]", &to->unk))
        return -1;
    return 0;
}

/* ---- Words ---- */

static void put_id(writer *to, uint32_t id) {
    if (to->count < to->count_max) to->ids[to->count++] = id;
}

/* Cut the word into tokens. */
static void end_word(writer *to, const parameters *with) {
    size_t first = to->count, length = to->length;
    bool known = to->characters <= WORD_CHARACTERS_MAX;
    for (size_t start = 0; known && start < length;) {
        uint32_t id = NONE;
        size_t end = length;
        for (; end > start; end--) {
            if (end < length && to->bytes[end] >> 6 == 2) continue; /* within a character */
            id = find(&with->words, tk_text(start ? "##" : ""), to->bytes + start, end - start);
            if (id != NONE) break;
        }
        known = id != NONE;
        if (known) put_id(to, id);
        start = end;
    }
    if (!known) {
        to->count = first;
        put_id(to, with->unk);
    }
    to->length = to->characters = 0;
}

static void put_character(writer *to, uint32_t code) {
    if (to->characters++ < WORD_CHARACTERS_MAX)
        to->length = (size_t)(tk_put_utf8((char *)to->bytes + to->length, code) - (char *)to->bytes);
}

static bool is_ideograph(uint32_t code) {
    static const tk_code_range ranges[] = {
        {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
        {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF}, {0x2F800, 0x2FA1F},
    };
    return TK_IN(code, ranges);
}

/* A character of a word, or one that separates words. */
static void read_folded(writer *to, uint32_t code, const parameters *with) {
    bool blank = TK_IN(code, tk_blanks), alone = TK_IN(code, tk_punctuation);
    if ((blank || alone) && to->characters) end_word(to, with);
    if (!blank) put_character(to, code);
    if (alone) end_word(to, with);
}

static void read_character(writer *to, uint32_t code, const parameters *with) {
    uint32_t folded[4] = {code};
    if (!code || code == 0xFFFD || TK_IN(code, tk_controls)) return;
    bool ideograph = is_ideograph(code);
    if (ideograph && to->characters) end_word(to, with);
    int count = with->keep_case ? 1 : tk_fold(code, folded);
    for (int i = 0; i < count; i++) read_folded(to, folded[i], with);
    if (ideograph && to->characters) end_word(to, with);
}

/* The ids of one text, without the special ones. */
static void read_text(tk_string text, writer *to, const parameters *with) {
    const uint8_t *at = (const uint8_t *)text.bytes, *end = at + text.length;
    for (; at < end && to->count < to->count_max; at += tk_utf8(at, end)) {
        int length = tk_utf8(at, end);
        uint32_t code = length == 1 ? *at : *at & (0x7Fu >> length);
        for (int i = 1; i < length; i++) code = code << 6 | (at[i] & 0x3F);
        read_character(to, code, with);
    }
    if (to->characters) end_word(to, with);
}

/* ---- Texts ---- */

/* Where the texts end: `text_end`, or the end of `text` for one. */
static int find_ends(const tk_document *in, const tk_tensor *text, size_t *texts, const tk_i32 **ends) {
    static int32_t only;
    only = (int32_t)text->count, *texts = 1, *ends = &only;
    if (!tk_find(in, "text_end")) return 0;
    const tk_tensor *tensor = tk_need(in, "text_end", TK_I32);
    if (!tensor) return -1;
    if (tensor->rank != 1) return tk_fail("tensor 'text_end' has rank %d; it must have rank 1", tensor->rank);
    *texts = tensor->count, *ends = tensor->data;
    for (size_t n = 0, before = 0; n < *texts; n++) {
        int32_t end = (*ends)[n];
        if (end < (int32_t)before || (size_t)end > text->count)
            return tk_fail("tensor 'text_end' has %d; its numbers must rise, at most to the %zu bytes of 'text'", end,
                           text->count);
        before = (size_t)end;
    }
    return 0;
}

static int put(tk_document *out, uint32_t *const *ids, const size_t *counts, size_t texts, size_t width,
               const parameters *with) {
    size_t shape[2] = {texts, width};
    tk_i64 *input = tk_add(out, "input_ids", TK_I64, 2, shape);
    tk_i64 *mask = input ? tk_add(out, "attention_mask", TK_I64, 2, shape) : NULL;
    if (!mask || !tk_add(out, "token_type_ids", TK_I64, 2, shape)) return -1;
    for (size_t n = 0; n < texts; n++) {
        for (size_t t = 0; t < width; t++) {
            bool inner = t > 0 && t <= counts[n];
            *input++ = t == 0 ? with->cls : inner ? ids[n][t - 1] : t == counts[n] + 1 ? with->sep : with->pad;
            *mask++ = t < counts[n] + 2;
        }
    }
    return 0;
}

static int wordpiece(const tk_document *in, tk_document *out) {
    static parameters with;
    static writer to;
    size_t texts, start = 0, width = 2;
    const tk_i32 *ends;
    const tk_tensor *text = tk_need(in, "text", TK_U8);
    if (!text || find_ends(in, text, &texts, &ends) || parse_parameters(in, &with)) return -1;
    uint32_t **ids = tk_alloc(texts, sizeof *ids);
    size_t *counts = tk_alloc(texts, sizeof *counts);
    if (!ids || !counts) return -1;
    for (size_t n = 0; n < texts; n++) {
        tk_string part = {(const char *)text->data + start, (size_t)ends[n] - start};
        if (tk_check_utf8(part, "tensor 'text'")) return -1;
        start = (size_t)ends[n];
        /* A character gives at most 3 tokens, and takes a byte or more. */
        size_t room = part.length < SIZE_MAX / 4 ? part.length * 3 : SIZE_MAX;
        to.count = 0, to.count_max = room < (size_t)with.length - 2 ? room : (size_t)with.length - 2;
        to.ids = ids[n] = tk_alloc(to.count_max, sizeof *to.ids);
        if (!to.ids) return -1;
        read_text(part, &to, &with);
        counts[n] = to.count;
        if (counts[n] + 2 > width) width = counts[n] + 2;
    }
    return put(out, ids, counts, texts, with.to_length ? (size_t)with.length : width, &with);
}

TK_REACTOR(wordpiece)
