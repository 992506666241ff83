/* checksum: the CRC-32 (as zlib's) of each tensor's bytes. A command kernel: it reads stdin and writes stdout.
 *
 * Output: `crc32` U32 [T], for the input's T tensors in name order; metadata `names`, newline-separated.
 */
#include "tradepost_kernel.h"

static uint32_t crc32(const uint8_t *bytes, size_t length) {
    uint32_t table[256], crc = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    for (size_t i = 0; i < length; i++) crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xFF];
    return ~crc;
}

static int checksum(const tk_document *in, tk_document *out) {
    size_t names_length = 0;
    for (size_t i = 0; i < in->tensor_count; i++) names_length += in->tensors[i].name.length + 1;
    tk_u32 *crcs = tk_add(out, "crc32", TK_U32, 1, &in->tensor_count);
    char *names = tk_alloc(1, names_length + 1);
    if (!crcs || !names) return -1;
    char *end = names;
    for (size_t i = 0; i < in->tensor_count; i++) {
        const tk_tensor *tensor = &in->tensors[i];
        crcs[i] = crc32(tensor->data, tensor->bytes);
        if (i) *end++ = '\n';
        memcpy(end, tensor->name.bytes, tensor->name.length);
        end += tensor->name.length;
    }
    return tk_add_metadata(out, tk_text("names"), (tk_string){names, (size_t)(end - names)});
}

TK_COMMAND(checksum)
