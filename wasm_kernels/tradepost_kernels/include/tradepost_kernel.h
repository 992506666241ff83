/* tradepost_kernel.h: a tradepost-kernel/1 kernel in C is one function around which this header does the rest.
 *
 *     #include "tradepost_kernel.h"
 *
 *     static int doubled(const tk_document *in, tk_document *out) {
 *         const tk_tensor *x = tk_need(in, "x", TK_F32);
 *         if (!x) return -1;
 *         tk_f32 *y = tk_add(out, "y", TK_F32, x->rank, x->shape);
 *         if (!y) return -1;
 *         for (size_t i = 0; i < x->count; i++) y[i] = 2 * ((const tk_f32 *)x->data)[i];
 *         return 0;
 *     }
 *     TK_REACTOR(doubled)
 *
 * A tensor document is a safetensors file: named tensors and string metadata. `in` has been checked in full
 * (JSON, UTF-8, sizes, offsets, no gaps, no name twice), so a kernel may believe it. `out` is written in the
 * canonical form, so equal documents have equal bytes. A function that can fail returns NULL or a negative
 * number after tk_fail() has recorded why; the first message wins, and a kernel that recorded one has failed.
 *
 * Memory comes from a bump allocator and is never given back: every run has a fresh instance. It is zeroed,
 * and needs no libc; malloc may be used beside it.
 */
#ifndef TRADEPOST_KERNEL_H
#define TRADEPOST_KERNEL_H

#include <unistd.h>

#include "tk_base.h"
#include "tk_document.h"
#include "tk_safetensors.h"

typedef int (*tk_function)(const tk_document *in, tk_document *out);

static inline bool tk_run(tk_function kernel, const uint8_t *bytes, size_t length, tk_string *result) {
    tk_document in = {0}, out = {0};
    if (tk_parse(&in, bytes, length) == 0 && kernel(&in, &out) == 0 && !tk_message_length &&
        tk_encode(&out, result) == 0)
        return true;
    tk_fail("the kernel failed without a message");
    *result = (tk_string){tk_message, tk_message_length};
    return false;
}

/* The reactor form: `kernel` as the exports kernel_alloc and kernel_run. */
#define TK_REACTOR(kernel)                                                                                  \
    __attribute__((export_name("kernel_alloc"))) void *tk_kernel_alloc(size_t length) {                    \
        return tk_alloc(1, length ? length : 1);                                                           \
    }                                                                                                      \
    __attribute__((export_name("kernel_run"))) int64_t tk_kernel_run(const uint8_t *bytes, size_t length) { \
        tk_string result;                                                                                  \
        bool ok = tk_run(kernel, bytes, length, &result);                                                  \
        uint64_t region = (uint64_t)(uintptr_t)result.bytes << 32 | result.length;                         \
        return (int64_t)(ok ? region : region | 1ull << 63);                                               \
    }

static inline bool tk_read_stdin(uint8_t **bytes, size_t *length) {
    size_t capacity = 0;
    for (ssize_t count = 1; count > 0; *length += (size_t)count) {
        if (*length == capacity) {
            size_t larger_capacity = capacity ? capacity * 2 : TK_PAGE_BYTES;
            uint8_t *larger = tk_alloc(1, larger_capacity);
            if (!larger) return false;
            if (*length) memcpy(larger, *bytes, *length);
            *bytes = larger, capacity = larger_capacity;
        }
        count = read(STDIN_FILENO, *bytes + *length, capacity - *length);
        if (count < 0) return tk_fail("stdin cannot be read") == 0;
    }
    return true;
}

static inline int tk_run_command(tk_function kernel) {
    uint8_t *bytes = NULL;
    size_t length = 0;
    tk_string result = {0};
    bool ok = tk_read_stdin(&bytes, &length) && tk_run(kernel, bytes, length, &result);
    if (!ok) result = (tk_string){tk_message, tk_message_length};
    while (result.length) {
        ssize_t count = write(ok ? STDOUT_FILENO : STDERR_FILENO, result.bytes, result.length);
        if (count <= 0) return 2;
        result.bytes += count, result.length -= (size_t)count;
    }
    return ok ? 0 : 1;
}

/* The command form: `kernel` as main, from stdin to stdout. */
#define TK_COMMAND(kernel) \
    int main(void) { return tk_run_command(kernel); }

#endif
