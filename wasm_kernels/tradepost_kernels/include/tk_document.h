/* Tensor documents for tradepost_kernel.h: what they are, how to look into one and how to fill one.
 *
 * The bytes are safetensors: an 8-byte little-endian header length, a JSON header, the tensors' data.
 */
#ifndef TK_DOCUMENT_H
#define TK_DOCUMENT_H

#include "tk_base.h"

#define TK_RANK_MAX 8
#define TK_TENSORS_MAX 1024
#define TK_METADATA_MAX 1024
/* Left in front of each new tensor, so that a document of one tensor can be written around it without a copy. */
#define TK_ROOM_BYTES 512

typedef enum {
    TK_BOOL, TK_U8, TK_I8, TK_U16, TK_I16, TK_F16, TK_U32, TK_I32, TK_F32, TK_U64, TK_I64, TK_F64,
    TK_DTYPES
} tk_dtype;

static const char *const tk_dtype_names[TK_DTYPES] = {
    "BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64",
};
static const uint8_t tk_dtype_bytes[TK_DTYPES] = {1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8};

/* Elements as they lie in a document, where nothing promises alignment. */
#define TK_UNALIGNED __attribute__((aligned(1), may_alias))
typedef int16_t tk_i16 TK_UNALIGNED;
typedef uint16_t tk_u16 TK_UNALIGNED;
typedef int32_t tk_i32 TK_UNALIGNED;
typedef uint32_t tk_u32 TK_UNALIGNED;
typedef int64_t tk_i64 TK_UNALIGNED;
typedef uint64_t tk_u64 TK_UNALIGNED;
typedef float tk_f32 TK_UNALIGNED;
typedef double tk_f64 TK_UNALIGNED;

typedef struct {
    tk_string name;
    tk_dtype dtype;
    int rank;
    size_t shape[TK_RANK_MAX];
    size_t count; /* of elements */
    size_t bytes;
    void *data;
    size_t room; /* free bytes in front of the data */
} tk_tensor;

typedef struct {
    tk_string key, value;
} tk_entry;

/* Both lists are in byte order of their names, without duplicates. */
typedef struct {
    tk_tensor *tensors;
    size_t tensor_count, tensor_capacity;
    tk_entry *entries;
    size_t entry_count, entry_capacity;
} tk_document;

/* ---- Looking ---- */

/* The tensor of this name, or NULL. */
static inline const tk_tensor *tk_find(const tk_document *document, const char *name) {
    for (size_t i = 0; i < document->tensor_count; i++)
        if (tk_equal(document->tensors[i].name, name)) return &document->tensors[i];
    return NULL;
}

/* The tensor of this name and dtype; fails without it. */
static inline const tk_tensor *tk_need(const tk_document *document, const char *name, tk_dtype dtype) {
    const tk_tensor *tensor = tk_find(document, name);
    if (!tensor) {
        tk_fail("tensor '%s' is missing", name);
    } else if (tensor->dtype != dtype) {
        tk_fail("tensor '%s' is %s; it must be %s", name, tk_dtype_names[tensor->dtype], tk_dtype_names[dtype]);
        return NULL;
    }
    return tensor;
}

/* Fails unless every element of an F32 tensor is finite. */
static inline int tk_check_finite(const tk_tensor *tensor) {
    const tk_f32 *values = tensor->data;
    for (size_t i = 0; i < tensor->count; i++)
        if (!__builtin_isfinite(values[i]))
            return tk_fail("tensor '%.*s' has a value that is not finite", TK_SHOW(tensor->name));
    return 0;
}

/* The metadata value of this key, or NULL. */
static inline const tk_string *tk_metadata(const tk_document *document, const char *key) {
    for (size_t i = 0; i < document->entry_count; i++)
        if (tk_equal(document->entries[i].key, key)) return &document->entries[i].value;
    return NULL;
}

/* The whole number of this key, `fallback` without it; fails unless it lies in [min, max]. */
static inline int tk_metadata_int(const tk_document *document, const char *key, int64_t fallback, int64_t min,
                                  int64_t max, int64_t *value) {
    const tk_string *text = tk_metadata(document, key);
    double number = (double)fallback;
    if (text && !tk_number(tk_trim(*text), &number))
        return tk_fail("metadata '%s' is '%.*s'; it must be a number", key, TK_SHOW(*text));
    if (!(number >= (double)min && number <= (double)max) || number != (double)(int64_t)number)
        return tk_fail("metadata '%s' must be a whole number from %lld to %lld", key, (long long)min,
                       (long long)max);
    *value = (int64_t)number;
    return 0;
}

/* How many numbers the comma-separated list of this key has, 0 without it; fails if more than `count_max`. */
static inline int tk_metadata_numbers(const tk_document *document, const char *key, double *numbers,
                                      int count_max) {
    const tk_string *text = tk_metadata(document, key);
    if (!text) return 0;
    int count = 0;
    tk_string rest = *text, part;
    while (tk_split(&rest, ',', &part)) {
        if (count == count_max) return tk_fail("metadata '%s' has more than %d numbers", key, count_max);
        if (!tk_number(tk_trim(part), &numbers[count++]))
            return tk_fail("metadata '%s' has '%.*s'; it must be a decimal number of at most 17 digits", key,
                           TK_SHOW(part));
    }
    return count;
}

/* The decimal number of this key, `fallback` without it; fails unless it lies in [min, max]. */
static inline int tk_metadata_number(const tk_document *document, const char *key, double fallback, int64_t min,
                                     int64_t max, double *value) {
    const tk_string *text = tk_metadata(document, key);
    *value = fallback;
    if (text && !tk_number(tk_trim(*text), value))
        return tk_fail("metadata '%s' is '%.*s'; it must be a number", key, TK_SHOW(*text));
    if (!(*value >= (double)min && *value <= (double)max))
        return tk_fail("metadata '%s' must be a number from %lld to %lld", key, (long long)min, (long long)max);
    return 0;
}

/* The place in the comma-separated `choices` of what this key names, 0 without it; fails on any other text. */
static inline int tk_metadata_choice(const tk_document *document, const char *key, const char *choices, int *choice) {
    const tk_string *text = tk_metadata(document, key);
    *choice = 0;
    tk_string rest = tk_text(choices), part;
    for (int at = 0; text && tk_split(&rest, ',', &part); at++) {
        if (tk_compare(tk_trim(part), *text) == 0) {
            *choice = at;
            return 0;
        }
    }
    return text ? tk_fail("metadata '%s' is '%.*s'; it must be one of: %s", key, TK_SHOW(*text), choices) : 0;
}

/* ---- Filling ---- */

/* The list with a gap for `name`, whose place is *at; NULL on a duplicate. Names are the items' first member. */
static inline void *tk_insert(void *list, size_t *count, size_t *capacity, size_t count_max, size_t item_bytes,
                              tk_string name, size_t *at) {
    if (*count == count_max) {
        tk_fail("a document has more than %zu names of a kind", count_max);
        return NULL;
    }
    char *items = tk_room(list, *count, capacity, item_bytes);
    if (!items) return NULL;
    for (*at = *count; *at > 0; --*at) {
        tk_string before;
        memcpy(&before, items + (*at - 1) * item_bytes, sizeof before);
        int order = tk_compare(before, name);
        if (order < 0) break;
        if (order == 0) {
            tk_fail("a document has two '%.*s'", TK_SHOW(name));
            return NULL;
        }
    }
    memmove(items + (*at + 1) * item_bytes, items + *at * item_bytes, (*count - *at) * item_bytes);
    ++*count;
    return items;
}

/* Add a tensor that exists, such as one of the input; its bytes are not copied. */
static inline int tk_add_tensor(tk_document *document, const tk_tensor *tensor) {
    if (!tensor->name.length || tk_equal(tensor->name, "__metadata__"))
        return tk_fail("a tensor cannot be named '%.*s'", TK_SHOW(tensor->name));
    size_t at;
    tk_tensor *tensors = tk_insert(document->tensors, &document->tensor_count, &document->tensor_capacity,
                                   TK_TENSORS_MAX, sizeof *tensor, tensor->name, &at);
    if (!tensors) return -1;
    document->tensors = tensors;
    tensors[at] = *tensor;
    return 0;
}

/* Set a tensor's count and bytes from its dtype and shape; false if they overflow. */
static inline bool tk_measure(tk_tensor *tensor) {
    tensor->count = 1;
    for (int i = 0; i < tensor->rank; i++)
        if (__builtin_mul_overflow(tensor->count, tensor->shape[i], &tensor->count)) return false;
    return !__builtin_mul_overflow(tensor->count, (size_t)tk_dtype_bytes[tensor->dtype], &tensor->bytes) &&
           tensor->bytes <= TK_DOCUMENT_BYTES_MAX;
}

/* Add a tensor of zeros and give its data, 16-aligned. `name` must outlive the document. */
static inline void *tk_add(tk_document *document, const char *name, tk_dtype dtype, int rank,
                           const size_t *shape) {
    tk_tensor tensor = {.name = tk_text(name), .dtype = dtype, .rank = rank};
    if (rank < 0 || rank > TK_RANK_MAX) {
        tk_fail("tensor '%s' cannot have rank %d", name, rank);
        return NULL;
    }
    if (rank) memcpy(tensor.shape, shape, (size_t)rank * sizeof *shape);
    if (!tk_measure(&tensor)) {
        tk_fail("tensor '%s' would be too large", name);
        return NULL;
    }
    char *memory = tk_alloc(1, TK_ROOM_BYTES + tensor.bytes);
    if (!memory) return NULL;
    tensor.room = TK_ROOM_BYTES;
    tensor.data = memory + TK_ROOM_BYTES;
    return tk_add_tensor(document, &tensor) == 0 ? tensor.data : NULL;
}

/* Add a metadata entry of UTF-8 text; nothing is copied. */
static inline int tk_add_metadata(tk_document *document, tk_string key, tk_string value) {
    size_t at;
    tk_entry *entries = tk_insert(document->entries, &document->entry_count, &document->entry_capacity,
                                  TK_METADATA_MAX, sizeof *entries, key, &at);
    if (!entries) return -1;
    document->entries = entries;
    entries[at] = (tk_entry){key, value};
    return 0;
}

#endif
