/* Runs a kernel's source as a native program, once: prints the nanoseconds of processor time that it took.
 *
 *     cc -O3 -DKERNEL='"topk.c"' -I wasm_kernels/tradepost_kernels/include -I wasm_kernels/kernel-sources \
 *         benchmarks/native_kernel.c -o topk && ./topk input.safetensors output.safetensors
 *
 * The memory is fresh, as that of an instance is, so its first use is counted.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 65536u
static size_t next_page;

static size_t grow(int memory, size_t pages) {
    (void)memory;
    size_t first = next_page;
    next_page += pages;
    return first;
}
#define __builtin_wasm_memory_grow grow

#include "tradepost_kernel.h"
#undef TK_REACTOR
#undef TK_COMMAND
#define TK_REACTOR(kernel) static const tk_function subject = kernel;
#define TK_COMMAND(kernel) static const tk_function subject = kernel;
#include KERNEL

int main(int argc, char **argv) {
    size_t room = (size_t)4 << 30;
    char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (memory == MAP_FAILED || !file) return 2;
    next_page = ((size_t)memory + PAGE_BYTES - 1) / PAGE_BYTES;
    uint8_t *input = tk_alloc(1, 1 << 30);
    size_t length = fread(input, 1, 1 << 30, file);
    struct timespec before, after;
    tk_string result;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    bool ok = tk_run(subject, input, length, &result);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    file = fopen(argv[2], "wb");
    if (!file || fwrite(result.bytes, 1, result.length, file) != result.length || fclose(file)) return 2;
    printf("%lld\n", (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec);
    return ok ? 0 : 1;
}
