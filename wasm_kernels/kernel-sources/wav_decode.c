/* wav_decode: a WAV file to samples: integers of 8, 16, 24 or 32 bits, floats of 32 or 64.
 *
 * Input: `bytes` U8 [L], a RIFF/WAVE file. Output: `samples` F32 [C, n], or [1, n] with channels = mix; `rate` I32
 * [1], frames a second.
 * Metadata:
 *   channels  "keep", or "mix": the mean of all channels, in double precision (keep)
 *
 * Integers are divided by 2^(bits - 1), so they lie in [-1, 1); 8-bit samples are unsigned, and 128 is 0. Floats
 * stay as they are, but must be finite as F32. Unknown chunks are skipped. A length that reaches beyond the file is
 * an error, except that the samples' length may be 4294967295, as programs write it that do not know the end: then
 * the samples reach to the end of the file.
 */
#include "tradepost_kernel.h"

#define CHANNELS_MAX 64
#define PCM 1
#define IEEE_FLOAT 3
#define EXTENSIBLE 0xFFFE

typedef struct {
    unsigned tag, channels, rate, frame_bytes, bits;
} format;

typedef struct {
    const uint8_t *bytes;
    size_t length;
} span;

/* ---- Chunks ---- */

static unsigned le16(const uint8_t *at) {
    return at[0] | (unsigned)at[1] << 8;
}

static uint32_t le32(const uint8_t *at) {
    return le16(at) | (uint32_t)le16(at + 2) << 16;
}

static bool is(const uint8_t *at, const char *name) {
    return memcmp(at, name, 4) == 0;
}

static int parse_format(span chunk, format *of) {
    if (chunk.length < 16) return tk_fail("the WAV file's format chunk has %zu bytes; it has 16 or more", chunk.length);
    const uint8_t *at = chunk.bytes;
    *of = (format){le16(at), le16(at + 2), le32(at + 4), le16(at + 12), le16(at + 14)};
    if (of->tag == EXTENSIBLE) {
        if (chunk.length < 40)
            return tk_fail("the WAV file's extended format chunk has %zu bytes; it has 40 or more", chunk.length);
        of->tag = le16(at + 24);
    }
    bool known = of->tag == PCM ? of->bits == 8 || of->bits == 16 || of->bits == 24 || of->bits == 32
                                : of->tag == IEEE_FLOAT && (of->bits == 32 || of->bits == 64);
    if (!known)
        return tk_fail("the WAV file has format %u with %u bits; it must be PCM (1) with 8, 16, 24 or 32 bits, or "
                       "float (3) with 32 or 64",
                       of->tag, of->bits);
    if (!of->channels || of->channels > CHANNELS_MAX)
        return tk_fail("the WAV file has %u channels; it must have 1 to %d", of->channels, CHANNELS_MAX);
    if (!of->rate || of->rate > INT32_MAX) return tk_fail("the WAV file has %u frames a second", of->rate);
    if (of->frame_bytes != of->channels * of->bits / 8)
        return tk_fail("the WAV file has frames of %u bytes for %u channels of %u bits", of->frame_bytes, of->channels,
                       of->bits);
    return 0;
}

/* Find the format and the samples. */
static int parse_file(span file, format *of, span *samples) {
    if (file.length < 12 || !is(file.bytes, "RIFF") || !is(file.bytes + 8, "WAVE"))
        return tk_fail("the bytes are not a WAV file: they must begin with RIFF and WAVE");
    bool has_format = false;
    for (size_t at = 12; file.length - at >= 8;) {
        const uint8_t *name = file.bytes + at;
        size_t length = le32(name + 4), rest = file.length - at - 8;
        bool is_data = is(name, "data");
        if (is_data && length == UINT32_MAX) length = rest;
        if (length > rest) return tk_fail("a chunk of the WAV file has %zu bytes, but only %zu follow", length, rest);
        span chunk = {name + 8, length};
        if (is(name, "fmt ")) {
            if (parse_format(chunk, of)) return -1;
            has_format = true;
        } else if (is_data) {
            if (!has_format) return tk_fail("the WAV file has samples before their format");
            *samples = chunk;
            return 0;
        }
        at += 8 + length;
        if (length % 2 && at < file.length) at++; /* chunks are padded to an even length */
    }
    return tk_fail("the WAV file has no samples: there is no chunk 'data'");
}

/* ---- Samples ---- */

static double sample(const uint8_t *at, const format *of) {
    if (of->tag == IEEE_FLOAT) return of->bits == 32 ? *(const tk_f32 *)at : *(const tk_f64 *)at;
    if (of->bits == 8) return (at[0] - 128) / 128.0;
    if (of->bits == 16) return *(const tk_i16 *)at / 32768.0;
    if (of->bits == 24) return (int32_t)((uint32_t)le16(at) << 8 | (uint32_t)at[2] << 24) / 2147483648.0;
    return *(const tk_i32 *)at / 2147483648.0;
}

static int put_samples(span samples, const format *of, bool mix, size_t frames, tk_f32 *out) {
    const uint8_t *at = samples.bytes;
    for (size_t frame = 0; frame < frames; frame++) {
        double sum = 0;
        for (size_t channel = 0; channel < of->channels; channel++, at += of->bits / 8) {
            double value = sample(at, of);
            if (!__builtin_isfinite((float)value)) return tk_fail("frame %zu is not finite as F32", frame);
            sum += value;
            if (!mix) out[channel * frames + frame] = (float)value;
        }
        if (mix) out[frame] = (float)(sum / of->channels);
    }
    return 0;
}

static int wav_decode(const tk_document *in, tk_document *out) {
    format of = {0};
    span samples = {0};
    int mix;
    const tk_tensor *bytes = tk_need(in, "bytes", TK_U8);
    if (!bytes || tk_metadata_choice(in, "channels", "keep, mix", &mix)) return -1;
    if (bytes->rank != 1) return tk_fail("tensor 'bytes' has rank %d; it must have rank 1", bytes->rank);
    if (parse_file((span){bytes->data, bytes->count}, &of, &samples)) return -1;
    if (samples.length % of.frame_bytes)
        return tk_fail("the WAV file has %zu bytes of samples, not whole frames of %u", samples.length, of.frame_bytes);

    size_t frames = samples.length / of.frame_bytes;
    tk_f32 *values = tk_add(out, "samples", TK_F32, 2, (size_t[]){mix ? 1 : of.channels, frames});
    tk_i32 *rate = tk_add(out, "rate", TK_I32, 1, (size_t[]){1});
    if (!values || !rate) return -1;
    rate[0] = (int32_t)of.rate;
    return put_samples(samples, &of, mix, frames, values);
}

TK_REACTOR(wav_decode)
