/* The ground under tradepost_kernel.h: recording a failure, memory, strings and exact decimal numbers. */
#ifndef TK_BASE_H
#define TK_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TK_PAGE_BYTES 65536u
#define TK_MESSAGE_BYTES_MAX 1024
#define TK_DOCUMENT_BYTES_MAX ((size_t)INT32_MAX)

/* UTF-8 of known length. What the header makes is also zero-terminated, but may hold zeros. */
typedef struct {
    const char *bytes;
    size_t length;
} tk_string;

/* ---- Failing ---- */

static char tk_message[TK_MESSAGE_BYTES_MAX];
static size_t tk_message_length;

static inline void tk_message_put(const char *bytes, size_t length) {
    size_t room = TK_MESSAGE_BYTES_MAX - tk_message_length;
    if (length > room) length = room;
    memcpy(tk_message + tk_message_length, bytes, length);
    tk_message_length += length;
}

static inline void tk_message_put_number(uint64_t value, bool negative) {
    char digits[21];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10); while (value /= 10);
    if (negative) digits[--at] = '-';
    tk_message_put(digits + at, sizeof digits - at);
}

/* Record why the kernel fails, and give -1. Formats: %s, %.*s, %d, %u, %zu, %lld, %%. */
__attribute__((format(printf, 1, 2))) static inline int tk_fail(const char *format, ...) {
    if (tk_message_length) return -1;
    va_list arguments;
    va_start(arguments, format);
    for (const char *at = format; *at; at++) {
        long long number;
        if (*at != '%') {
            tk_message_put(at, 1);
        } else if (*++at == 's') {
            const char *text = va_arg(arguments, const char *);
            tk_message_put(text, strlen(text));
        } else if (*at == '.') {
            size_t length = (size_t)va_arg(arguments, int);
            tk_message_put(va_arg(arguments, const char *), length);
            at += 2;
        } else if (*at == 'd') {
            number = va_arg(arguments, int);
            tk_message_put_number(number < 0 ? 0 - (uint64_t)number : (uint64_t)number, number < 0);
        } else if (*at == 'u') {
            tk_message_put_number(va_arg(arguments, unsigned), false);
        } else if (*at == 'z') {
            tk_message_put_number(va_arg(arguments, size_t), false);
            at += 1;
        } else if (*at == 'l') {
            number = va_arg(arguments, long long);
            tk_message_put_number(number < 0 ? 0 - (uint64_t)number : (uint64_t)number, number < 0);
            at += 2;
        } else {
            tk_message_put(at, 1);
        }
    }
    va_end(arguments);
    return -1;
}

/* The two arguments of %.*s; no message needs more than the first bytes of what a stranger wrote. */
#define TK_SHOW(string) (int)((string).length < 64 ? (string).length : 64), (string).bytes

/* ---- Memory ---- */

static uintptr_t tk_free, tk_free_end;

/* Zeroed memory, 16-aligned, never given back. NULL when there is none. */
static inline void *tk_alloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > TK_DOCUMENT_BYTES_MAX) goto out_of_memory;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > tk_free_end - tk_free) {
        size_t pages = (bytes + TK_PAGE_BYTES - 1) / TK_PAGE_BYTES;
        size_t first = __builtin_wasm_memory_grow(0, pages);
        if (first == (size_t)-1) goto out_of_memory;
        uintptr_t start = (uintptr_t)first * TK_PAGE_BYTES;
        if (start != tk_free_end) tk_free = start; /* somebody else grew memory in between */
        tk_free_end = start + pages * TK_PAGE_BYTES;
    }
    void *memory = (void *)tk_free;
    tk_free += bytes;
    return memory;
out_of_memory:
    tk_message_length = 0; /* the host knows this message, whatever failed before */
    tk_fail("out of memory");
    return NULL;
}

/* The list with room for one item more, moved if need be. */
static inline void *tk_room(void *list, size_t count, size_t *capacity, size_t item_bytes) {
    if (count < *capacity) return list;
    size_t larger_capacity = *capacity ? *capacity * 2 : 8;
    void *larger = tk_alloc(larger_capacity, item_bytes);
    if (!larger) return NULL;
    if (count) memcpy(larger, list, count * item_bytes);
    *capacity = larger_capacity;
    return larger;
}

/* ---- Strings and numbers ---- */

static inline tk_string tk_text(const char *text) {
    return (tk_string){text, strlen(text)};
}

static inline int tk_compare(tk_string a, tk_string b) {
    int order = memcmp(a.bytes, b.bytes, a.length < b.length ? a.length : b.length);
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

static inline bool tk_equal(tk_string a, const char *b) {
    return tk_compare(a, tk_text(b)) == 0;
}

/* Cut the next part off `rest` at `separator`; false when nothing is left. "" has one part, which is empty. */
static inline bool tk_split(tk_string *rest, char separator, tk_string *part) {
    if (!rest->bytes) return false;
    const char *end = memchr(rest->bytes, separator, rest->length);
    *part = *rest;
    if (end) {
        part->length = (size_t)(end - rest->bytes);
        *rest = (tk_string){end + 1, rest->length - part->length - 1};
    } else {
        *rest = (tk_string){NULL, 0};
    }
    return true;
}

static inline tk_string tk_trim(tk_string s) {
    while (s.length && s.bytes[0] == ' ') s.bytes++, s.length--;
    while (s.length && s.bytes[s.length - 1] == ' ') s.length--;
    return s;
}

/* A decimal number as mantissa * 10^exponent: at most 17 significant digits. */
static inline bool tk_decimal(tk_string s, bool *negative, uint64_t *mantissa, int *exponent) {
    size_t i = 0;
    int digits = 0;
    bool any = false, fraction = false;
    *mantissa = 0, *exponent = 0;
    *negative = s.length && s.bytes[0] == '-';
    if (s.length && (s.bytes[0] == '-' || s.bytes[0] == '+')) i++;
    for (; i < s.length; i++) {
        char c = s.bytes[i];
        if (c == '.' && !fraction) {
            fraction = true;
        } else if (c >= '0' && c <= '9') {
            if ((*mantissa || c != '0') && ++digits > 17) return false;
            *mantissa = *mantissa * 10 + (uint64_t)(c - '0');
            if (fraction) (*exponent)--;
            any = true;
        } else {
            break;
        }
    }
    if (!any || i == s.length) return any;
    if (s.bytes[i] != 'e' && s.bytes[i] != 'E') return false;
    i++;
    bool down = i < s.length && s.bytes[i] == '-';
    if (i < s.length && (s.bytes[i] == '-' || s.bytes[i] == '+')) i++;
    if (i == s.length || s.length - i > 3) return false;
    int power = 0;
    for (; i < s.length; i++) {
        if (s.bytes[i] < '0' || s.bytes[i] > '9') return false;
        power = power * 10 + (s.bytes[i] - '0');
    }
    *exponent += down ? -power : power;
    return true;
}

/* The double nearest to a decimal number, as Python's float() gives; false if it is none, has more than 17
 * significant digits, or is not a whole number times a power of ten from 10^-19 to 10^19. */
static inline bool tk_number(tk_string s, double *value) {
    bool negative;
    uint64_t mantissa, ten = 1;
    int exponent;
    if (!tk_decimal(s, &negative, &mantissa, &exponent)) return false;
    if (!mantissa) exponent = 0;
    for (; exponent < 0 && mantissa % 10 == 0; exponent++) mantissa /= 10;
    if (exponent < -19 || exponent > 19) return false;
    for (int i = exponent < 0 ? -exponent : exponent; i > 0; i--) ten *= 10;
    double magnitude;
    if (exponent >= 0) {
        magnitude = (double)((unsigned __int128)mantissa * ten);
    } else {
        /* The quotient has 64 bits or more; its lowest bit remembers whether there was a remainder, so that
         * rounding to 53 bits is right. Scaling by a power of two is exact. */
        int shift = 64 + __builtin_clzll(mantissa);
        unsigned __int128 dividend = (unsigned __int128)mantissa << shift;
        unsigned __int128 quotient = dividend / ten;
        quotient |= quotient * ten != dividend;
        uint64_t scale_bits = (uint64_t)(1023 - shift) << 52;
        double scale;
        memcpy(&scale, &scale_bits, sizeof scale);
        magnitude = (double)quotient * scale;
    }
    *value = negative ? -magnitude : magnitude;
    return true;
}

#endif
