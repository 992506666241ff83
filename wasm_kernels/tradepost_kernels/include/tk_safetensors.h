/* The bytes of a tensor document: tk_parse() believes nothing, tk_encode() writes the one canonical form.
 *
 * The header's JSON has a fixed shape, so it is parsed without recursion, and its strings are decoded into one
 * allocation: text never grows when its escapes are undone.
 *
 * Canonical: keys sorted ("__metadata__" first), no blanks, the fewest escapes, padded with blanks to a multiple
 * of 8, tensors in name order without gaps.
 */
#ifndef TK_SAFETENSORS_H
#define TK_SAFETENSORS_H

#include "tk_document.h"

#define TK_HEADER_BYTES_MAX (1u << 20)

/* ---- Reading ---- */

typedef struct {
    const uint8_t *at, *end;
    char *text; /* where decoded strings go */
    bool has_metadata;
} tk_json;

static inline int tk_json_error(const char *what) {
    return tk_fail("the document's header is not valid: %s", what);
}

static inline void tk_json_blanks(tk_json *json) {
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\n' || *json->at == '\r' || *json->at == '\t'))
        json->at++;
}

/* Step over blanks, and then over `wanted` if that is next. */
static inline bool tk_json_take(tk_json *json, uint8_t wanted) {
    tk_json_blanks(json);
    if (json->at == json->end || *json->at != wanted) return false;
    json->at++;
    return true;
}

/* After an item: true if another follows its comma, false at `close`; fails otherwise, with *ok = false. */
static inline bool tk_json_more(tk_json *json, uint8_t close, bool *ok) {
    if (tk_json_take(json, ',')) return true;
    if (!tk_json_take(json, close)) {
        tk_json_error("a comma or a closing bracket is missing");
        *ok = false;
    }
    return false;
}

static inline int tk_json_number(tk_json *json, uint64_t *value) {
    tk_json_blanks(json);
    const uint8_t *start = json->at;
    for (*value = 0; json->at < json->end && *json->at >= '0' && *json->at <= '9'; json->at++)
        if (__builtin_mul_overflow(*value, (uint64_t)10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*json->at - '0'), value))
            return tk_json_error("a number is too large");
    if (json->at == start || (*start == '0' && json->at - start > 1))
        return tk_json_error("a whole number is missing");
    return 0;
}

/* The bytes of the UTF-8 sequence at `at`, 0 if it is not well formed (Unicode 16, table 3-7). */
static inline int tk_utf8(const uint8_t *at, const uint8_t *end) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    int length = *at < 0x80 ? 1 : *at >> 5 == 6 ? 2 : *at >> 4 == 14 ? 3 : *at >> 3 == 30 ? 4 : 0;
    if (length <= 1) return length;
    if (end - at < length) return 0;
    uint32_t code = *at & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if (at[i] >> 6 != 2) return 0;
        code = code << 6 | (at[i] & 0x3F);
    }
    bool valid = code >= least[length] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    return valid ? length : 0;
}

/* Fails unless the bytes of `what` are UTF-8. */
static inline int tk_check_utf8(tk_string text, const char *what) {
    const uint8_t *at = (const uint8_t *)text.bytes, *end = at + text.length;
    for (int length; at < end; at += length)
        if (!(length = tk_utf8(at, end))) return tk_fail("%s is not UTF-8", what);
    return 0;
}

static inline char *tk_put_utf8(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

/* The four hex digits at `json`, or -1. */
static inline int32_t tk_json_hex(tk_json *json) {
    int32_t code = 0;
    if (json->end - json->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t c = *json->at++, letter = c | 0x20;
        if (c >= '0' && c <= '9') code = code << 4 | (c - '0');
        else if (letter >= 'a' && letter <= 'f') code = code << 4 | (letter - 'a' + 10);
        else return -1;
    }
    return code;
}

/* Decode the escape whose backslash has been taken. */
static inline int tk_json_escape(tk_json *json) {
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (json->at == json->end) return tk_json_error("an escape is cut off");
    uint8_t kind = *json->at++;
    if (kind != 'u') {
        for (const char *pair = escapes; *pair; pair += 2)
            if (*pair == (char)kind) {
                *json->text++ = pair[1];
                return 0;
            }
        return tk_json_error("an escape is unknown");
    }
    int32_t code = tk_json_hex(json);
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u') code = -1;
        else json->at += 2;
        int32_t low = code < 0 ? -1 : tk_json_hex(json);
        code = low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : -1;
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
        code = -1;
    }
    if (code < 0) return tk_json_error("a \\u escape is not valid");
    json->text = tk_put_utf8(json->text, (uint32_t)code);
    return 0;
}

static inline int tk_json_string(tk_json *json, tk_string *string) {
    if (!tk_json_take(json, '"')) return tk_json_error("a string is missing");
    string->bytes = json->text;
    while (json->at < json->end && *json->at != '"') {
        if (*json->at == '\\') {
            json->at++;
            if (tk_json_escape(json)) return -1;
            continue;
        }
        int length = tk_utf8(json->at, json->end);
        if (*json->at < 0x20 || !length) return tk_json_error("a string is not UTF-8, or has a control character");
        memcpy(json->text, json->at, (size_t)length);
        json->text += length, json->at += length;
    }
    if (json->at == json->end) return tk_json_error("a string has no end");
    json->at++;
    string->length = (size_t)(json->text - string->bytes);
    *json->text++ = 0; /* in place of the quotes */
    return 0;
}

static inline int tk_parse_metadata(tk_json *json, tk_document *document) {
    if (json->has_metadata) return tk_json_error("__metadata__ stands there twice");
    json->has_metadata = true;
    if (!tk_json_take(json, '{')) return tk_json_error("__metadata__ must be an object");
    bool ok = true;
    if (tk_json_take(json, '}')) return 0;
    do {
        tk_string key, value;
        if (tk_json_string(json, &key)) return -1;
        if (!tk_json_take(json, ':')) return tk_json_error("a colon is missing");
        if (tk_json_string(json, &value) || tk_add_metadata(document, key, value)) return -1;
    } while (tk_json_more(json, '}', &ok));
    return ok ? 0 : -1;
}

/* A list of at most `count_max` whole numbers; gives how many. */
static inline int tk_parse_numbers(tk_json *json, uint64_t *numbers, int count_max) {
    if (!tk_json_take(json, '[')) return tk_json_error("a list is missing");
    if (tk_json_take(json, ']')) return 0;
    bool ok = true;
    int count = 0;
    do {
        if (count == count_max) return tk_json_error("a list is too long");
        if (tk_json_number(json, &numbers[count++])) return -1;
    } while (tk_json_more(json, ']', &ok));
    return ok ? count : -1;
}

static inline int tk_parse_dtype(tk_json *json, tk_tensor *tensor) {
    tk_string name;
    if (tk_json_string(json, &name)) return -1;
    for (tensor->dtype = 0; tensor->dtype < TK_DTYPES; tensor->dtype++)
        if (tk_equal(name, tk_dtype_names[tensor->dtype])) return 0;
    return tk_fail("tensor '%.*s' has an unknown dtype", TK_SHOW(tensor->name));
}

static inline int tk_parse_shape(tk_json *json, tk_tensor *tensor) {
    uint64_t shape[TK_RANK_MAX];
    tensor->rank = tk_parse_numbers(json, shape, TK_RANK_MAX);
    for (int i = 0; i < tensor->rank; i++) {
        tensor->shape[i] = (size_t)shape[i];
        if (shape[i] > TK_DOCUMENT_BYTES_MAX)
            return tk_fail("tensor '%.*s' is too large", TK_SHOW(tensor->name));
    }
    return tensor->rank < 0 ? -1 : 0;
}

/* One tensor's entry; its `data` becomes its offset for now. */
static inline int tk_parse_tensor(tk_json *json, tk_document *document, tk_string name, tk_string data) {
    tk_tensor tensor = {.name = name};
    uint64_t offsets[2] = {0, 0};
    unsigned seen = 0;
    bool ok = true;
    if (!tk_json_take(json, '{')) return tk_json_error("a tensor must be an object");
    do {
        tk_string key;
        if (tk_json_string(json, &key)) return -1;
        if (!tk_json_take(json, ':')) return tk_json_error("a colon is missing");
        unsigned field = tk_equal(key, "dtype")          ? 1
                         : tk_equal(key, "shape")        ? 2
                         : tk_equal(key, "data_offsets") ? 4
                                                         : 0;
        if (!field || seen & field) return tk_json_error("a tensor has an unknown or repeated field");
        seen |= field;
        if (field == 1 && tk_parse_dtype(json, &tensor)) return -1;
        if (field == 2 && tk_parse_shape(json, &tensor)) return -1;
        if (field == 4 && tk_parse_numbers(json, offsets, 2) != 2)
            return tk_json_error("data_offsets must be two numbers");
    } while (tk_json_more(json, '}', &ok));
    if (!ok) return -1;
    if (seen != 7) return tk_json_error("a tensor lacks its dtype, shape or data_offsets");
    if (!tk_measure(&tensor) || offsets[0] > offsets[1] || offsets[1] > data.length ||
        tensor.bytes != offsets[1] - offsets[0])
        return tk_fail("the size of tensor '%.*s' does not fit its data", TK_SHOW(name));
    tensor.data = (void *)(data.bytes + offsets[0]);
    return tk_add_tensor(document, &tensor);
}

/* Whether the tensors cover their data without gap or overlap. In a canonical document each is found at once. */
static inline int tk_check_tiling(const tk_document *document, tk_string data) {
    const char *covered = data.bytes;
    size_t i = 0;
    for (size_t steps = 0; covered < data.bytes + data.length; steps++, i++) {
        if (steps > document->tensor_count)
            return tk_fail("the tensors leave gaps in their data, or overlap");
        if (i == document->tensor_count) i = 0;
        if (i < document->tensor_count && document->tensors[i].data == covered && document->tensors[i].bytes) {
            covered += document->tensors[i].bytes;
            steps = 0;
        }
    }
    size_t bytes = 0;
    for (i = 0; i < document->tensor_count; i++)
        if (__builtin_add_overflow(bytes, document->tensors[i].bytes, &bytes)) break;
    return bytes == data.length ? 0 : tk_fail("the tensors overlap");
}

/* Read the document in `bytes`; its tensors then lie there. */
static inline int tk_parse(tk_document *document, const uint8_t *bytes, size_t length) {
    uint64_t header_bytes;
    if (length < sizeof header_bytes) return tk_fail("the document is shorter than 8 bytes");
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    if (header_bytes > length - sizeof header_bytes || header_bytes > TK_HEADER_BYTES_MAX)
        return tk_fail("the document's header length is out of range");
    tk_json json = {bytes + 8, bytes + 8 + header_bytes, tk_alloc(1, (size_t)header_bytes + 1), false};
    tk_string data = {(const char *)json.end, length - 8 - (size_t)header_bytes};
    if (!json.text) return -1;
    if (!header_bytes || *json.at != '{' || !tk_json_take(&json, '{'))
        return tk_json_error("it does not begin with {");
    bool ok = true;
    if (!tk_json_take(&json, '}')) {
        do {
            tk_string name;
            if (tk_json_string(&json, &name)) return -1;
            if (!tk_json_take(&json, ':')) return tk_json_error("a colon is missing");
            if (tk_equal(name, "__metadata__") ? tk_parse_metadata(&json, document)
                                               : tk_parse_tensor(&json, document, name, data))
                return -1;
        } while (tk_json_more(&json, '}', &ok));
    }
    if (!ok) return -1;
    tk_json_blanks(&json);
    if (json.at != json.end) return tk_json_error("something follows it");
    return tk_check_tiling(document, data);
}

/* ---- Writing ---- */

/* Counts bytes; writes them too where `to` is set. */
typedef struct {
    char *to;
    size_t length;
} tk_sink;

static inline void tk_put(tk_sink *sink, const char *bytes, size_t length) {
    if (sink->to && length) memcpy(sink->to + sink->length, bytes, length);
    sink->length += length;
}

static inline void tk_put_text(tk_sink *sink, const char *text) {
    tk_put(sink, text, strlen(text));
}

static inline void tk_put_number(tk_sink *sink, size_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10); while (value /= 10);
    tk_put(sink, digits + at, sizeof digits - at);
}

static inline void tk_put_string(tk_sink *sink, tk_string string) {
    static const char hex[] = "0123456789abcdef", names[] = "btn?fr"; /* of 8 to 13; 11 has none */
    tk_put(sink, "\"", 1);
    for (size_t i = 0; i < string.length; i++) {
        uint8_t c = (uint8_t)string.bytes[i];
        if (c == '"' || c == '\\') {
            tk_put(sink, (const char[]){'\\', (char)c}, 2);
        } else if (c >= 8 && c <= 13 && c != 11) {
            tk_put(sink, (const char[]){'\\', names[c - 8]}, 2);
        } else if (c < 0x20) {
            tk_put(sink, (const char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
        } else {
            tk_put(sink, string.bytes + i, 1);
        }
    }
    tk_put(sink, "\"", 1);
}

static inline void tk_put_header(tk_sink *sink, const tk_document *document) {
    const char *separator = "{";
    for (size_t i = 0; i < document->entry_count; i++) {
        tk_put_text(sink, i ? "," : "{\"__metadata__\":{");
        tk_put_string(sink, document->entries[i].key);
        tk_put_text(sink, ":");
        tk_put_string(sink, document->entries[i].value);
    }
    if (document->entry_count) separator = "},";
    size_t offset = 0;
    for (size_t i = 0; i < document->tensor_count; i++) {
        const tk_tensor *tensor = &document->tensors[i];
        tk_put_text(sink, separator);
        tk_put_string(sink, tensor->name);
        tk_put_text(sink, ":{\"dtype\":\"");
        tk_put_text(sink, tk_dtype_names[tensor->dtype]);
        tk_put_text(sink, "\",\"shape\":[");
        for (int axis = 0; axis < tensor->rank; axis++) {
            if (axis) tk_put_text(sink, ",");
            tk_put_number(sink, tensor->shape[axis]);
        }
        tk_put_text(sink, "],\"data_offsets\":[");
        tk_put_number(sink, offset);
        tk_put_text(sink, ",");
        tk_put_number(sink, offset += tensor->bytes);
        tk_put_text(sink, "]}");
        separator = ",";
    }
    tk_put_text(sink, document->tensor_count ? "}" : document->entry_count ? "}}" : "{}");
    while (sink->length % 8) tk_put(sink, " ", 1);
}

/* Memory for `length` bytes that end with the document's data: around its only tensor, if that has the room in
 * front, else new. */
static inline char *tk_place(const tk_document *document, size_t front_bytes, size_t length) {
    for (size_t i = 0; i < document->tensor_count; i++) {
        const tk_tensor *tensor = &document->tensors[i];
        if (tensor->bytes == length - front_bytes && tensor->room >= front_bytes)
            return (char *)tensor->data - front_bytes;
    }
    return tk_alloc(1, length);
}

/* The canonical bytes of `document`, which is used up. */
static inline int tk_encode(const tk_document *document, tk_string *result) {
    tk_sink sink = {NULL, 0};
    tk_put_header(&sink, document);
    size_t header_bytes = sink.length, length = 8 + header_bytes;
    if (header_bytes > TK_HEADER_BYTES_MAX) return tk_fail("the output's names and metadata are too long");
    for (size_t i = 0; i < document->tensor_count; i++)
        if (__builtin_add_overflow(length, document->tensors[i].bytes, &length))
            return tk_fail("the output is too large");
    char *bytes = tk_place(document, 8 + header_bytes, length);
    if (!bytes) return -1;
    memcpy(bytes, &(uint64_t){header_bytes}, 8);
    sink = (tk_sink){bytes + 8, 0};
    tk_put_header(&sink, document);
    for (size_t i = 0; i < document->tensor_count; i++) {
        const tk_tensor *tensor = &document->tensors[i];
        if (sink.to + sink.length != tensor->data) tk_put(&sink, tensor->data, tensor->bytes);
    }
    *result = (tk_string){bytes, length};
    return 0;
}

#endif
