/* Prints the logits of a fixed pseudo-random batch as hexadecimal floats, one a line, the same on every
 * machine that computes the same bits.
 *
 *     logits MODEL THREADS RUNS LENGTH...
 *
 * One sequence for each LENGTH; the batch is run RUNS times and the last results are printed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "edgebert.h"

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, eb_last_error());
    return 1;
}

/* splitmix64 */
static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int main(int argc, char **argv) {
    eb_model *model = NULL;
    eb_session *session = NULL;
    eb_info info;
    eb_batch batch;
    size_t sequences, tokens = 0, floats = 0, i;
    uint64_t state = 1;
    int run;

    if (argc < 5) {
        fprintf(stderr, "usage: logits MODEL THREADS RUNS LENGTH...\n");
        return 2;
    }
    if (eb_isa() == NULL) return failed("kernels");
    if (eb_model_open(argv[1], &model) != EB_OK) return failed(argv[1]);
    if (eb_model_info(model, &info) != EB_OK) return failed("info");
    if (eb_session_create(model, atoi(argv[2]), &session) != EB_OK) return failed("session");

    sequences = (size_t)argc - 4;
    int32_t *lengths = malloc(sequences * sizeof *lengths);
    if (lengths == NULL) return failed("memory");
    for (i = 0; i < sequences; i++) {
        lengths[i] = atoi(argv[i + 4]);
        tokens += (size_t)lengths[i];
    }
    int32_t *ids = malloc(tokens * sizeof *ids), *types = malloc(tokens * sizeof *types);
    if (ids == NULL || types == NULL) return failed("memory");
    for (i = 0; i < tokens; i++) {
        ids[i] = (int32_t)(next(&state) % (uint64_t)info.vocabulary);
        types[i] = info.token_types > 0 ? (int32_t)(next(&state) % (uint64_t)info.token_types) : 0;
    }
    batch.ids = ids;
    batch.token_types = types;
    batch.lengths = lengths;
    batch.sequences = sequences;
    if (eb_output_size(session, &batch, &floats) != EB_OK) return failed("size");
    float *logits = malloc(floats * sizeof *logits);
    if (logits == NULL) return failed("memory");
    for (run = 0; run < atoi(argv[3]); run++)
        if (eb_run(session, &batch, logits, floats) != EB_OK) return failed("run");

    printf("%s\n", eb_isa());
    if (run > 0)
        for (i = 0; i < floats; i++) printf("%a\n", (double)logits[i]);
    free(logits);
    free(ids);
    free(types);
    free(lengths);
    eb_session_free(session);
    eb_model_close(model);
    return 0;
}
