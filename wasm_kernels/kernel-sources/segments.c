/* segments: probabilities over time to intervals, as voice activity detectors need it.
 *
 * Input: `scores` F32 [T], [T, 1] or [1, T], one for each frame. Output: `segments` I32 [S, 2], the first frame of
 * each interval and the frame behind its last; `seconds` F32 [S, 2], the same times `hop`.
 * Metadata:
 *   on           an interval begins with a score of at least this (0.5)
 *   off          it ends where the scores fall below this; at most `on` (on - 0.15, and at least 0.01)
 *   min_silence  it goes on if a score reaches `on` again before this many frames have passed and the score is still
 *                below `off`, 0 to 1000000 (4)
 *   min_length   shorter intervals are dropped: frames, 0 to 1000000 (8)
 *   pad          frames added at both ends; two intervals closer than twice this share the gap, 0 to 1000000 (1)
 *   hop          seconds of a frame (0.032)
 *
 * This is Silero VAD's get_speech_timestamps in frames, without its limit on the length of speech. Thresholds are
 * compared in double precision.
 */
#include "tradepost_kernel.h"

#define FRAMES_MAX 1000000

typedef struct {
    double on, off, hop;
    int64_t min_silence, min_length, pad;
} parameters;

typedef struct {
    int64_t start, end;
} interval;

static int parse_parameters(const tk_document *in, parameters *to) {
    to->on = 0.5, to->hop = 0.032;
    if (tk_metadata_numbers(in, "on", &to->on, 1) < 0) return -1;
    to->off = to->on < 0.01 ? to->on : to->on < 0.16 ? 0.01 : to->on - 0.15;
    if (tk_metadata_numbers(in, "off", &to->off, 1) < 0 || tk_metadata_numbers(in, "hop", &to->hop, 1) < 0 ||
        tk_metadata_int(in, "min_silence", 3, 0, FRAMES_MAX, &to->min_silence) ||
        tk_metadata_int(in, "min_length", 8, 0, FRAMES_MAX, &to->min_length) ||
        tk_metadata_int(in, "pad", 1, 0, FRAMES_MAX, &to->pad))
        return -1;
    if (to->off > to->on) return tk_fail("metadata 'off' must not be above 'on'");
    return to->hop > 0 ? 0 : tk_fail("metadata 'hop' must be more than 0");
}

/* The intervals without padding; returns how many. */
static size_t find(const tk_f32 *scores, size_t frames, const parameters *of, interval *found) {
    size_t count = 0;
    int64_t start = -1, fell = -1; /* -1: not within an interval, has not fallen below `off` */
    for (size_t t = 0; t < frames; t++) {
        int64_t now = (int64_t)t;
        if (scores[t] >= of->on) {
            fell = -1;
            if (start < 0) start = now;
        } else if (start >= 0 && scores[t] < of->off) {
            if (fell < 0) fell = now;
            if (now - fell < of->min_silence) continue;
            if (fell - start >= of->min_length) found[count++] = (interval){start, fell};
            start = fell = -1;
        }
    }
    if (start >= 0 && (int64_t)frames - start >= of->min_length) found[count++] = (interval){start, (int64_t)frames};
    return count;
}

/* Widen the intervals by `pad`, at most to the middle of a gap. */
static void widen(interval *found, size_t count, int64_t frames, int64_t pad) {
    for (size_t i = 0; i < count; i++) {
        if (i == 0) found[0].start = found[0].start > pad ? found[0].start - pad : 0;
        if (i + 1 == count) {
            found[i].end = found[i].end + pad < frames ? found[i].end + pad : frames;
            return;
        }
        int64_t gap = found[i + 1].start - found[i].end, share = gap < 2 * pad ? gap / 2 : pad;
        found[i].end += share, found[i + 1].start -= share;
    }
}

static int segments(const tk_document *in, tk_document *out) {
    parameters of;
    const tk_tensor *scores = tk_need(in, "scores", TK_F32);
    if (!scores || parse_parameters(in, &of)) return -1;
    bool flat = scores->rank == 1 || (scores->rank == 2 && (scores->shape[0] == 1 || scores->shape[1] == 1));
    if (!flat) return tk_fail("tensor 'scores' has rank %d; it must be [T], [T, 1] or [1, T]", scores->rank);
    if (tk_check_finite(scores)) return -1;

    interval *found = tk_alloc(scores->count / 2 + 1, sizeof *found);
    if (!found) return -1;
    size_t count = find(scores->data, scores->count, &of, found);
    widen(found, count, (int64_t)scores->count, of.pad);
    tk_i32 *frames = tk_add(out, "segments", TK_I32, 2, (size_t[]){count, 2});
    tk_f32 *seconds = tk_add(out, "seconds", TK_F32, 2, (size_t[]){count, 2});
    if (!frames || !seconds) return -1;
    for (size_t i = 0; i < count; i++) {
        *frames++ = (int32_t)found[i].start, *frames++ = (int32_t)found[i].end;
        *seconds++ = (float)((double)found[i].start * of.hop), *seconds++ = (float)((double)found[i].end * of.hop);
    }
    return 0;
}

TK_REACTOR(segments)
