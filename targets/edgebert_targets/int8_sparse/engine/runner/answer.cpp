// `logits` and `tokens`: a file of examples in, a file of answers out.
#include <vector>

#include "answers.h"
#include "commands.h"
#include "examples.h"
#include "failure.h"
#include "model.h"

namespace runner {

namespace {

// Sequences share a call up to this many tokens, so that a pass over the weights serves several.
constexpr size_t BATCH_TOKENS = 512;

struct Batch {
    std::vector<int32_t> ids, token_types, lengths;

    void clear() {
        ids.clear();
        token_types.clear();
        lengths.clear();
    }
};

void tokenize(const Model &model, int32_t max_length, Example &row) {
    const eb_info info = info_of(model);
    row.ids.resize(static_cast<size_t>(info.max_length));
    row.token_types.resize(row.ids.size());
    size_t count = 0;
    check(eb_tokenize(model.get(), row.text, row.text_size, row.pair, row.pair_size, max_length,
                      row.ids.data(), row.token_types.data(), row.ids.size(), &count));
    row.ids.resize(count);
    row.token_types.resize(count);
}

void run(eb_session *session, const eb_info &info, const Batch &batch, Answers &answers) {
    const eb_batch call = {batch.ids.data(), info.token_types > 0 ? batch.token_types.data() : nullptr,
                           batch.lengths.data(), batch.lengths.size()};
    size_t floats = 0;
    check(eb_output_size(session, &call, &floats));
    std::vector<float> logits(floats);
    check(eb_run(session, &call, logits.data(), floats));
    const bool of_tokens =
        info.task == EB_TASK_TOKEN_CLASSIFICATION || info.task == EB_TASK_QUESTION_ANSWERING;
    const int32_t *ids = batch.ids.data();
    const float *from = logits.data();
    for (int32_t length : batch.lengths) {
        const size_t tokens = static_cast<size_t>(length);
        const size_t own = static_cast<size_t>(info.outputs) * (of_tokens ? tokens : 1);
        answers.add(ids, tokens, from, own);
        ids += tokens;
        from += own;
    }
}

}  // namespace

void answer(const AnswerOptions &options) {
    Examples examples = read_examples(options.in);
    const Model model = open_model(options.model);
    const eb_info info = info_of(model);
    if (examples.are_texts && info.has_tokenizer == 0)
        throw Failure(options.model + " holds no tokenizer; send token ids instead of texts");
    const Session session = options.logits ? create_session(model, options.threads) : nullptr;
    Answers answers(static_cast<uint32_t>(examples.rows.size()));
    Batch batch;
    for (Example &row : examples.rows) {
        if (examples.are_texts) tokenize(model, options.max_length, row);
        if (!options.logits) {
            answers.add(row.ids.data(), row.ids.size(), nullptr, 0);
            continue;
        }
        if (!batch.lengths.empty() && batch.ids.size() + row.ids.size() > BATCH_TOKENS) {
            run(session.get(), info, batch, answers);
            batch.clear();
        }
        batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
        batch.token_types.insert(batch.token_types.end(), row.token_types.begin(), row.token_types.end());
        batch.lengths.push_back(static_cast<int32_t>(row.ids.size()));
        row = Example();
    }
    if (!batch.lengths.empty()) run(session.get(), info, batch, answers);
    answers.write(options.out);
}

}  // namespace runner
