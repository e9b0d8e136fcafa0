// The library's objects, closed when they go out of scope.
#ifndef EDGEBERT_RUNNER_MODEL_H
#define EDGEBERT_RUNNER_MODEL_H

#include <cstdint>
#include <memory>
#include <string>

#include "edgebert.h"
#include "failure.h"

namespace runner {

struct Close {
    void operator()(eb_model *model) const { eb_model_close(model); }
    void operator()(eb_session *session) const { eb_session_free(session); }
};

using Model = std::unique_ptr<eb_model, Close>;
using Session = std::unique_ptr<eb_session, Close>;

inline Model open_model(const std::string &path) {
    eb_model *model = nullptr;
    check(eb_model_open(path.c_str(), &model));
    return Model(model);
}

inline eb_info info_of(const Model &model) {
    eb_info info;
    check(eb_model_info(model.get(), &info));
    return info;
}

inline Session create_session(const Model &model, int32_t threads) {
    eb_session *session = nullptr;
    check(eb_session_create(model.get(), threads, &session));
    return Session(session);
}

}  // namespace runner

#endif
