/* EdgeBERT engine: runs block-sparse INT8 encoders, from text to logits, on a CPU.
 *
 * Ownership: what a function creates, the caller frees with the matching function. Strings returned by
 * the library belong to it and live as long as the object they came from; eb_last_error lives until the
 * calling thread's next call. The library takes no pointer it was given beyond the call, save for
 * eb_model_open_memory, whose bytes must outlive the model and its sessions. A model and its sessions may be
 * closed in any order: its memory goes with the last of them. Its file must not be changed while it is open;
 * replacing it by another one under the same name is fine.
 * Threads: a model may be used by any number of threads at once; a session by one thread at a time.
 * Errors: a function that can fail returns a status; eb_last_error then says what was expected and what came.
 * No exception and no abort crosses this boundary.
 * Results: logits are the same bits on every CPU, with any number of threads and in any batch.
 */
#ifndef EDGEBERT_H
#define EDGEBERT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EB_API __declspec(dllexport)
#else
#define EB_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct eb_model eb_model;
typedef struct eb_session eb_session;

typedef enum eb_status {
    EB_OK = 0,
    EB_ERROR_IO = 1,       /* the file cannot be opened or read */
    EB_ERROR_FORMAT = 2,   /* not a model file, or a damaged one */
    EB_ERROR_VERSION = 3,  /* a model file of a version or kind this library does not know */
    EB_ERROR_MEMORY = 4,   /* out of memory */
    EB_ERROR_ARGUMENT = 5, /* a null pointer, a size or an option out of range */
    EB_ERROR_INPUT = 6,    /* an id, a token type or a length the model cannot take */
    EB_ERROR_CPU = 7,      /* the CPU lacks what EDGEBERT_ISA asks for, or EDGEBERT_ISA names nothing known */
    EB_ERROR_THREADS = 8,  /* threads cannot be started */
    EB_ERROR_SPACE = 9     /* the caller's buffer is too small; eb_last_error says what is needed */
} eb_status;

typedef enum eb_task {
    EB_TASK_CLASSIFICATION = 0,       /* labels logits a sequence */
    EB_TASK_TOKEN_CLASSIFICATION = 1, /* labels logits a token */
    EB_TASK_QUESTION_ANSWERING = 2,   /* two logits a token: start, end */
    EB_TASK_EMBEDDING = 3             /* the mean of the token vectors, hidden_size floats a sequence */
} eb_task;

typedef struct eb_info {
    eb_task task;
    int32_t vocabulary;
    int32_t hidden_size;
    int32_t layers;
    int32_t heads;
    int32_t max_length;  /* tokens of a sequence, special tokens included */
    int32_t token_types; /* 0: the model has none and takes zeros */
    int32_t outputs;     /* floats a sequence, or a token for the tasks that answer a token */
    int32_t labels;      /* names that eb_model_label knows */
    int32_t has_tokenizer;
} eb_info;

/* Sequences of a batch, one after the other without padding. `lengths` holds `sequences` numbers >= 1;
 * `ids` holds their sum; `token_types` as many, or NULL for zeros. */
typedef struct eb_batch {
    const int32_t *ids;
    const int32_t *token_types;
    const int32_t *lengths;
    size_t sequences;
} eb_batch;

/* Version of the library, "0.2.0". */
EB_API const char *eb_version(void);

/* One line on the calling thread's last failed call; "" before any. */
EB_API const char *eb_last_error(void);

/* Name of the kernels that a session created now would use: "avx512-vnni", "avx-vnni", "avx2",
 * "neon-dotprod", "neon" or "scalar". The environment variable EDGEBERT_ISA chooses another; NULL when it
 * names what the CPU lacks, and eb_last_error then says so. */
EB_API const char *eb_isa(void);

/* Names of all kernels that this CPU can run, best first, separated by commas. */
EB_API const char *eb_isa_available(void);

/* Opens a model file; the weights are mapped, not read. Close *model with eb_model_close. */
EB_API eb_status eb_model_open(const char *path, eb_model **model);

/* Opens a model from `size` bytes at `data`, 4-byte aligned, which must outlive it and its sessions. */
EB_API eb_status eb_model_open_memory(const void *data, size_t size, eb_model **model);

/* NULL is allowed. */
EB_API void eb_model_close(eb_model *model);

EB_API eb_status eb_model_info(const eb_model *model, eb_info *info);

/* Name of label `index`, UTF-8; NULL out of range. */
EB_API const char *eb_model_label(const eb_model *model, int32_t index);

/* `threads` >= 1 counts the caller; the others sleep between calls. */
EB_API eb_status eb_session_create(const eb_model *model, int32_t threads, eb_session **session);

/* NULL is allowed. */
EB_API void eb_session_free(eb_session *session);

/* Floats that eb_run writes for `batch`. */
EB_API eb_status eb_output_size(const eb_session *session, const eb_batch *batch, size_t *floats);

/* Runs the model. `out` has room for `capacity` floats; rows in the order of the batch, tokens in order. */
EB_API eb_status eb_run(eb_session *session, const eb_batch *batch, float *out, size_t capacity);

/* Token ids of a text, or of a pair when `pair` is not NULL, with special tokens, cut to `max_length`
 * tokens longest first (0: the model's maximum). Bytes need not be valid UTF-8: each ill-formed sequence
 * counts as U+FFFD. Writes at most `capacity` numbers to `ids` and, unless NULL, `token_types`; *count is
 * the number of tokens, also with EB_ERROR_SPACE. */
EB_API eb_status eb_tokenize(const eb_model *model, const char *text, size_t text_size, const char *pair,
                             size_t pair_size, int32_t max_length, int32_t *ids, int32_t *token_types,
                             size_t capacity, size_t *count);

/* eb_tokenize and eb_run in one, for one text or pair. */
EB_API eb_status eb_run_text(eb_session *session, const char *text, size_t text_size, const char *pair,
                             size_t pair_size, float *out, size_t capacity);

/* In place: exp(x - max) / sum over `count` logits. */
EB_API void eb_softmax(float *logits, size_t count);

#ifdef __cplusplus
}
#endif

#endif
