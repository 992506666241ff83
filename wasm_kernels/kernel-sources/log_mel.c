/* log_mel: the log-mel spectrogram of speech, the input of most audio models.
 *
 * Input: `samples` F32 [n] or [1, n]; optionally `rate` I32 [1], as `wav_decode` returns it, which must equal the
 * metadata. Output: `mel` F32 [1, n_mels, frames], or [1, frames, n_mels] with layout = frames.
 * Metadata:
 *   rate    samples a second, 1 to 1000000 (16000)
 *   n_fft   samples of a frame and its window, 2 to 16384 (400)
 *   hop     samples from one frame to the next, 1 to n_fft (160, or n_fft if that is less)
 *   n_mels  bands, 1 to 512 (80)
 *   fmin    the lowest frequency in Hz (0)
 *   fmax    the highest, up to rate / 2 (rate / 2)
 *   scale   "htk": 2595 log10(1 + f / 700); or "slaney": linear below 1000 Hz, logarithmic above (htk)
 *   norm    "none", or "slaney": each band is divided by half its width in Hz (none)
 *   center  "reflect": n_fft / 2 samples are mirrored at both ends, so that frame i is around sample i * hop; or
 *           "none": frame i begins there (reflect)
 *   log     "ln", "log10" or "none", of the power or of `floor` where that is larger; or "whisper": log10, cut at 8
 *           below its highest, plus 4, divided by 4, without the last frame (ln)
 *   floor   at least 1e-19 (1e-10)
 *   layout  "bands" or "frames", whichever comes first (bands)
 *
 * With htk and none this is torchaudio's MelSpectrogram (its defaults), with slaney and slaney librosa's
 * melspectrogram and Whisper's: a periodic Hann window, |FFT|^2, triangles whose corners are equally far apart on
 * the mel scale. Everything is double precision, with cos, exp, log and log10 of musl compiled into this kernel, and
 * rounded to F32 at the end.
 */
#include <math.h>

#include "tradepost_kernel.h"

#define FFT_MAX 16384
#define MELS_MAX 512
static const double pi = 3.14159265358979323846;

typedef struct {
    double re, im;
} complex_number;

typedef struct {
    int64_t rate, n_fft, hop, n_mels;
    double fmin, fmax, floor;
    int slaney_scale, slaney_norm, no_center, log, frames_first;
} parameters;
enum { LOG_LN, LOG_10, LOG_NONE, LOG_WHISPER };

/* The constants of a run: the window, e^(-2 pi i k / n_fft), and each band's weights for all bins. */
typedef struct {
    double *window, *weights;
    complex_number *roots;
} tables;

/* ---- Parameters ---- */

static int parse_parameters(const tk_document *in, parameters *to) {
    if (tk_metadata_int(in, "rate", 16000, 1, 1000000, &to->rate) ||
        tk_metadata_int(in, "n_fft", 400, 2, FFT_MAX, &to->n_fft) ||
        tk_metadata_int(in, "hop", to->n_fft < 160 ? to->n_fft : 160, 1, to->n_fft, &to->hop) ||
        tk_metadata_int(in, "n_mels", 80, 1, MELS_MAX, &to->n_mels) ||
        tk_metadata_number(in, "fmin", 0, 0, to->rate / 2, &to->fmin) ||
        tk_metadata_number(in, "fmax", to->rate / 2, 0, to->rate / 2, &to->fmax) ||
        tk_metadata_number(in, "floor", 1e-10, 0, 1, &to->floor) ||
        tk_metadata_choice(in, "scale", "htk, slaney", &to->slaney_scale) ||
        tk_metadata_choice(in, "norm", "none, slaney", &to->slaney_norm) ||
        tk_metadata_choice(in, "center", "reflect, none", &to->no_center) ||
        tk_metadata_choice(in, "log", "ln, log10, none, whisper", &to->log) ||
        tk_metadata_choice(in, "layout", "bands, frames", &to->frames_first))
        return -1;
    if (to->fmin >= to->fmax) return tk_fail("metadata 'fmin' must be below 'fmax'");
    if (to->floor < 1e-19) return tk_fail("metadata 'floor' must be at least 1e-19");
    return 0;
}

static int check_samples(const tk_document *in, const tk_tensor *samples, const parameters *of) {
    if (samples->rank != 1 && !(samples->rank == 2 && samples->shape[0] == 1))
        return tk_fail("tensor 'samples' has rank %d; it must be [n] or [1, n], one channel", samples->rank);
    if (tk_check_finite(samples)) return -1;
    if (!tk_find(in, "rate")) return 0;
    const tk_tensor *rate = tk_need(in, "rate", TK_I32);
    if (!rate) return -1;
    if (rate->count != 1) return tk_fail("tensor 'rate' has %zu numbers; it must have one", rate->count);
    int32_t given = ((const tk_i32 *)rate->data)[0];
    if (given != of->rate)
        return tk_fail("the samples have a rate of %d; metadata 'rate' is %lld", given, (long long)of->rate);
    return 0;
}

/* How many frames `count` samples have, 0 if they are too few for one. */
static size_t count_frames(size_t count, const parameters *of) {
    size_t n_fft = (size_t)of->n_fft, hop = (size_t)of->hop;
    if (of->no_center) return count < n_fft ? 0 : 1 + (count - n_fft) / hop;
    if (count <= n_fft / 2) return 0; /* a mirror image needs one sample more than it has */
    return (of->log == LOG_WHISPER ? 0 : 1) + (count + n_fft / 2 * 2 - n_fft) / hop;
}

/* ---- Mel bands ---- */

static double to_mel(double hz, bool slaney) {
    if (!slaney) return 2595 * log10(1 + hz / 700);
    return hz < 1000 ? hz * 3 / 200 : 15 + log(hz / 1000) * 27 / log(6.4);
}

static double to_hz(double mel, bool slaney) {
    if (!slaney) return 700 * (pow(10, mel / 2595) - 1);
    return mel < 15 ? mel * 200 / 3 : 1000 * exp((mel - 15) * log(6.4) / 27);
}

static void fill_weights(const parameters *of, size_t bins, double *weights) {
    double low = to_mel(of->fmin, of->slaney_scale), high = to_mel(of->fmax, of->slaney_scale);
    double step = (high - low) / (double)(of->n_mels + 1);
    for (int64_t m = 0; m < of->n_mels; m++, weights += bins) {
        double left = to_hz(low + step * (double)m, of->slaney_scale);
        double top = to_hz(low + step * (double)(m + 1), of->slaney_scale);
        double right = to_hz(low + step * (double)(m + 2), of->slaney_scale);
        for (size_t k = 0; k < bins; k++) {
            double hz = (double)k * (double)of->rate / (double)of->n_fft;
            double up = (hz - left) / (top - left), down = (right - hz) / (right - top);
            double weight = up < down ? up : down;
            weights[k] = weight > 0 ? weight * (of->slaney_norm ? 2 / (right - left) : 1) : 0;
        }
    }
}

static int make_tables(const parameters *of, size_t bins, tables *to) {
    size_t n = (size_t)of->n_fft;
    to->window = tk_alloc(n, sizeof *to->window);
    to->roots = tk_alloc(n, sizeof *to->roots);
    to->weights = tk_alloc((size_t)of->n_mels * bins, sizeof *to->weights);
    if (!to->window || !to->roots || !to->weights) return -1;
    for (size_t k = 0; k < n; k++) {
        double turn = 2 * pi * (double)k / (double)n;
        to->window[k] = 0.5 - 0.5 * cos(turn);
        to->roots[k] = (complex_number){cos(turn), -sin(turn)};
    }
    fill_weights(of, bins, to->weights);
    return 0;
}

/* ---- Fourier transform ---- */

static size_t smallest_factor(size_t n) {
    for (size_t factor = 2; factor * factor <= n; factor++)
        if (n % factor == 0) return factor;
    return n;
}

/* The transform of n numbers, `stride` apart, to `out`: as many transforms of every p-th number as the smallest prime
 * p of n, put together. `roots` are those of the whole transform, `spare` has room for n. Of n = 2 * 2 * 2 * 2 * 5 * 5
 * it takes n * 18 steps instead of n * n. */
static void transform(const double *in, size_t stride, size_t n, size_t total, const complex_number *roots,
                      complex_number *spare, complex_number *out) {
    if (n == 1) {
        out[0] = (complex_number){in[0], 0};
        return;
    }
    size_t p = smallest_factor(n), m = n / p, root_step = total / n;
    for (size_t q = 0; q < p; q++) transform(in + q * stride, stride * p, m, total, roots, out + q * m, spare + q * m);
    for (size_t k = 0; k < n; k++) {
        complex_number sum = {0, 0};
        for (size_t q = 0; q < p; q++) {
            complex_number a = spare[q * m + k % m], b = roots[q * k % n * root_step];
            sum.re += a.re * b.re - a.im * b.im;
            sum.im += a.re * b.im + a.im * b.re;
        }
        out[k] = sum;
    }
}

/* ---- Frames ---- */

/* The sample at `at`, mirrored at either end. */
static double mirrored(const tk_f32 *samples, int64_t at, int64_t count) {
    if (at < 0) at = -at;
    if (at >= count) at = 2 * (count - 1) - at;
    return samples[at];
}

static double logarithm(double power, const parameters *of) {
    if (of->log == LOG_NONE) return power;
    if (power < of->floor) power = of->floor;
    return of->log == LOG_LN ? log(power) : log10(power);
}

/* Whisper's last step, over all values: at most 8 below the highest, plus 4, divided by 4. */
static void compress(double *values, size_t count) {
    double highest = values[0];
    for (size_t i = 1; i < count; i++)
        if (values[i] > highest) highest = values[i];
    for (size_t i = 0; i < count; i++) {
        if (values[i] < highest - 8) values[i] = highest - 8;
        values[i] = (values[i] + 4) / 4;
    }
}

/* The values of all frames, frame by frame. `frame` has room for n_fft numbers, `spectrum` for twice as many. */
static void analyse(const tk_tensor *samples, size_t frames, const parameters *of, const tables *with, double *frame,
                    complex_number *spectrum, double *values) {
    size_t n = (size_t)of->n_fft, bins = n / 2 + 1, mels = (size_t)of->n_mels;
    int64_t before = of->no_center ? 0 : of->n_fft / 2, count = (int64_t)samples->count;
    for (size_t f = 0; f < frames; f++) {
        int64_t start = (int64_t)f * of->hop - before;
        for (size_t i = 0; i < n; i++) frame[i] = with->window[i] * mirrored(samples->data, start + (int64_t)i, count);
        transform(frame, 1, n, n, with->roots, spectrum + n, spectrum);
        for (size_t k = 0; k < bins; k++) frame[k] = spectrum[k].re * spectrum[k].re + spectrum[k].im * spectrum[k].im;
        for (size_t m = 0; m < mels; m++) {
            const double *weights = with->weights + m * bins;
            double sum = 0;
            for (size_t k = 0; k < bins; k++) sum += weights[k] * frame[k];
            values[f * mels + m] = logarithm(sum, of);
        }
    }
    if (of->log == LOG_WHISPER) compress(values, frames * mels);
}

static int log_mel(const tk_document *in, tk_document *out) {
    parameters of;
    tables with;
    const tk_tensor *samples = tk_need(in, "samples", TK_F32);
    if (!samples || parse_parameters(in, &of) || check_samples(in, samples, &of)) return -1;
    size_t n = (size_t)of.n_fft, mels = (size_t)of.n_mels, frames = count_frames(samples->count, &of);
    if (!frames) return tk_fail("tensor 'samples' has %zu samples, too few for a frame of %zu", samples->count, n);

    size_t bands_first[3] = {1, mels, frames}, frames_first[3] = {1, frames, mels};
    tk_f32 *mel = tk_add(out, "mel", TK_F32, 3, of.frames_first ? frames_first : bands_first);
    double *values = mel ? tk_alloc(frames * mels, sizeof *values) : NULL, *frame = tk_alloc(n + 1, sizeof *frame);
    complex_number *spectrum = tk_alloc(2 * n, sizeof *spectrum);
    if (!mel || !values || !frame || !spectrum || make_tables(&of, n / 2 + 1, &with)) return -1;
    analyse(samples, frames, &of, &with, frame, spectrum, values);
    for (size_t f = 0; f < frames; f++)
        for (size_t m = 0; m < mels; m++)
            mel[of.frames_first ? f * mels + m : m * frames + f] = (float)values[f * mels + m];
    return 0;
}

TK_REACTOR(log_mel)
