// edgebert-runner: one static program that runs the engine on a device without Python.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "commands.h"
#include "failure.h"

namespace {

const char USAGE[] =
    "usage: edgebert-runner facts\n"
    "       edgebert-runner logits MODEL IN OUT [--threads N] [--max-length TOKENS]\n"
    "       edgebert-runner tokens MODEL IN OUT [--max-length TOKENS]\n"
    "       edgebert-runner bench MODEL [--length TOKENS] [--threads N] [--repeats R] [--warmup W]\n";

struct Usage {};

// The words after the command: first files, then options with a number each.
class Arguments {
  public:
    Arguments(int count, char **words) : end_(words + count), next_(words) {}

    std::string file() {
        if (next_ == end_) throw Usage();
        return *next_++;
    }

    // Takes all options there are; each of them once at most, in any order.
    template <typename... Rest>
    void options(Rest... known) {
        while (next_ != end_) {
            if (end_ - next_ < 2 || !(take(known) || ...)) throw Usage();
            next_ += 2;
        }
    }

    struct Option {
        const char *name;
        int32_t *value;
        long least, most;
    };

  private:
    bool take(const Option &option) const {
        if (std::strcmp(next_[0], option.name) != 0) return false;
        char *rest = nullptr;
        errno = 0;
        const long value = std::strtol(next_[1], &rest, 10);
        if (rest == next_[1] || *rest != '\0' || errno != 0 || value < option.least || value > option.most)
            throw runner::Failure(std::string(option.name) + " is '" + next_[1] + "'; give a number from " +
                                  std::to_string(option.least) + " to " + std::to_string(option.most));
        *option.value = static_cast<int32_t>(value);
        return true;
    }

    char **end_, **next_;
};

using Option = Arguments::Option;

void run(int count, char **words) {
    if (count < 2) throw Usage();
    const std::string command = words[1];
    Arguments arguments(count - 2, words + 2);
    if (command == "facts") {
        arguments.options();
        runner::facts();
    } else if (command == "logits" || command == "tokens") {
        runner::AnswerOptions options;
        options.model = arguments.file();
        options.in = arguments.file();
        options.out = arguments.file();
        options.logits = command == "logits";
        arguments.options(Option{"--threads", &options.threads, 1, 1024},
                          Option{"--max-length", &options.max_length, 1, 65536});
        runner::answer(options);
    } else if (command == "bench") {
        runner::BenchOptions options;
        options.model = arguments.file();
        arguments.options(Option{"--length", &options.length, 1, 65536},
                          Option{"--threads", &options.threads, 1, 1024},
                          Option{"--repeats", &options.repeats, 1, 1000000},
                          Option{"--warmup", &options.warmup, 0, 1000000});
        runner::bench(options);
    } else {
        throw Usage();
    }
}

int failed(const char *what) {
    std::fprintf(stderr, "edgebert-runner: %s\n", what);
    return 1;
}

}  // namespace

int main(int count, char **words) {
    try {
        run(count, words);
    } catch (const Usage &) {
        std::fputs(USAGE, stderr);
        return 2;
    } catch (const std::bad_alloc &) {
        return failed("out of memory");
    } catch (const std::exception &error) {
        return failed(error.what());
    }
    return std::fflush(stdout) == 0 ? 0 : failed("cannot write to stdout");
}
