/* noop: gives its input document back as it is. The smallest reactor kernel, for measuring what a run costs.
 *
 * It does without tradepost_kernel.h to show the bare ABI.
 */
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 65536u

__attribute__((export_name("kernel_alloc"))) uintptr_t kernel_alloc(size_t length) {
    size_t first_page = __builtin_wasm_memory_grow(0, length / PAGE_BYTES + 1);
    return first_page == (size_t)-1 ? 0 : first_page * PAGE_BYTES;
}

__attribute__((export_name("kernel_run"))) uint64_t kernel_run(uint32_t pointer, uint32_t length) {
    return (uint64_t)pointer << 32 | length;
}
