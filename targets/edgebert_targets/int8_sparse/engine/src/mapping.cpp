// POSIX mmap. The pages are private and read-only, so that a model costs memory once a machine.
#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace edgebert {

namespace {

eb_status system_error(const char *what, const char *path) {
    char text[128] = "";
    int number = errno;
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    return fail(EB_ERROR_IO, "cannot %s '%.300s': %s; check the path", what, path,
                strerror_r(number, text, sizeof text));
#else
    if (strerror_r(number, text, sizeof text) != 0) text[0] = '\0';
    return fail(EB_ERROR_IO, "cannot %s '%.300s': %s; check the path", what, path, text);
#endif
}

// Maps all of `file` or says why not.
eb_status map(int file, const char *path, uint8_t **data, size_t *size) {
    struct stat facts;
    if (fstat(file, &facts) != 0) return system_error("read", path);
    if (!S_ISREG(facts.st_mode)) {
        return fail(EB_ERROR_IO, "'%.300s' is not a regular file; give a model file", path);
    }
    if (facts.st_size == 0) return fail(EB_ERROR_FORMAT, "'%.300s' is empty; give a model file", path);
    if (static_cast<uint64_t>(facts.st_size) > SIZE_MAX / 2) {
        return fail(EB_ERROR_IO, "'%.300s' is larger than this machine can map", path);
    }
    *size = static_cast<size_t>(facts.st_size);
    void *mapped = mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped == MAP_FAILED) return system_error("map", path);
    *data = static_cast<uint8_t *>(mapped);
    return EB_OK;
}

}  // namespace

Mapping::~Mapping() {
    if (data_ != nullptr) munmap(data_, size_);
}

eb_status Mapping::open(const char *path) {
    // Not blocking: a named pipe would otherwise hang here until somebody writes to it.
    int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return system_error("open", path);
    eb_status status = map(file, path, &data_, &size_);
    close(file);
    return status;
}

}  // namespace edgebert
