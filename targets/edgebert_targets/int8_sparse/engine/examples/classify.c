/* Classifies texts: classify model.gguf "a text" "another text"
 * cc classify.c -I../include libedgebert.so -Wl,-rpath,. -o classify */
#include <edgebert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(void) {
    fprintf(stderr, "%s\n", eb_last_error());
    return 1;
}

int main(int count, char **arguments) {
    eb_model *model;
    eb_session *session;
    eb_info info;
    if (count < 3) return fprintf(stderr, "usage: classify MODEL TEXT...\n"), 2;
    if (eb_model_open(arguments[1], &model) || eb_model_info(model, &info)) return failed();
    if (eb_session_create(model, 1, &session)) return failed();
    float *scores = malloc((size_t)info.outputs * sizeof *scores);
    for (int i = 2; i < count; i++) {
        const char *text = arguments[i];
        if (eb_run_text(session, text, strlen(text), NULL, 0, scores, (size_t)info.outputs)) return failed();
        eb_softmax(scores, (size_t)info.outputs);
        int best = 0;
        for (int k = 1; k < info.outputs; k++) best = scores[k] > scores[best] ? k : best;
        printf("%s\t%.4f\t%s\n", eb_model_label(model, best), scores[best], text);
    }
    free(scores);
    eb_session_free(session);
    eb_model_close(model);
    return 0;
}
