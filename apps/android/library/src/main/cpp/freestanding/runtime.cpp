// What the engine needs of a C++ runtime when it is built without the NDK: no libc++, no exceptions, bionic's
// libc. Every failure of the standard library is a lack of memory and ends the guarded call of its thread.
#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "guard.h"

// Its members, which the headers leave to libstdc++.
template class std::basic_string<char>;

void *operator new(size_t size) {
    void *memory = std::malloc(size != 0 ? size : 1);
    if (memory == nullptr) edgebert::out_of_memory();
    return memory;
}
void *operator new[](size_t size) { return operator new(size); }
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete[](void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete[](void *memory, size_t) noexcept { std::free(memory); }

namespace std {
const nothrow_t nothrow{};
void __throw_bad_alloc() { edgebert::out_of_memory(); }
void __throw_bad_array_new_length() { edgebert::out_of_memory(); }
void __throw_length_error(const char *) { edgebert::out_of_memory(); }
void __throw_logic_error(const char *) { edgebert::out_of_memory(); }
void __throw_out_of_range_fmt(const char *, ...) { edgebert::out_of_memory(); }
}  // namespace std

void *operator new(size_t size, const std::nothrow_t &) noexcept { return std::malloc(size != 0 ? size : 1); }
void operator delete(void *memory, const std::nothrow_t &) noexcept { std::free(memory); }

extern "C" {

void __cxa_pure_virtual() { std::abort(); }

// Statics of functions: the first byte says that the object is there, one lock serves all of them.
static pthread_mutex_t statics = PTHREAD_MUTEX_INITIALIZER;

int __cxa_guard_acquire(uint64_t *guard) {
    if (__atomic_load_n(reinterpret_cast<uint8_t *>(guard), __ATOMIC_ACQUIRE) != 0) return 0;
    pthread_mutex_lock(&statics);
    if (*reinterpret_cast<uint8_t *>(guard) == 0) return 1;
    pthread_mutex_unlock(&statics);
    return 0;
}

void __cxa_guard_release(uint64_t *guard) {
    __atomic_store_n(reinterpret_cast<uint8_t *>(guard), uint8_t{1}, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&statics);
}

// Thread-local variables before Android 10: the compiler asks for each by its control block, which has size,
// alignment, a place for our index and the initial value. One small array a thread, freed when it ends.
struct EmulatedVariable {
    size_t size;
    size_t alignment;
    uintptr_t index;
    const void *initial;
};

static constexpr uintptr_t MAX_VARIABLES = 16;
static pthread_key_t variables;
static pthread_once_t variables_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t indices = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t last_index = 0;

static void free_variables(void *array) {
    void **mine = static_cast<void **>(array);
    for (uintptr_t i = 0; i < MAX_VARIABLES; i++) std::free(mine[i]);
    std::free(mine);
}

static void create_key() {
    if (pthread_key_create(&variables, free_variables) != 0) std::abort();
}

static uintptr_t index_of(EmulatedVariable *variable) {
    uintptr_t index = __atomic_load_n(&variable->index, __ATOMIC_ACQUIRE);
    if (index != 0) return index;
    pthread_mutex_lock(&indices);
    if (variable->index == 0) __atomic_store_n(&variable->index, ++last_index, __ATOMIC_RELEASE);
    index = variable->index;
    pthread_mutex_unlock(&indices);
    if (index > MAX_VARIABLES) std::abort();
    return index;
}

void *__emutls_get_address(EmulatedVariable *variable) {
    pthread_once(&variables_once, create_key);
    const uintptr_t index = index_of(variable);
    void **mine = static_cast<void **>(pthread_getspecific(variables));
    if (mine == nullptr) {
        mine = static_cast<void **>(std::calloc(MAX_VARIABLES, sizeof(void *)));
        if (mine == nullptr || pthread_setspecific(variables, mine) != 0) std::abort();
    }
    void *&place = mine[index - 1];
    if (place == nullptr) {
        if (posix_memalign(&place, variable->alignment < 16 ? 16 : variable->alignment, variable->size) != 0)
            std::abort();
        if (variable->initial != nullptr)
            std::memcpy(place, variable->initial, variable->size);
        else
            std::memset(place, 0, variable->size);
    }
    return place;
}

// The headers of the build are glibc's, the library at run time is bionic's (or glibc's, on a desktop JVM).
int *bionic_errno() __asm__("__errno") __attribute__((weak));
int *glibc_errno() __asm__("__errno_location") __attribute__((weak));

// <errno.h> is compiled with this name in place of glibc's.
int *edgebert_errno() { return bionic_errno != nullptr ? bionic_errno() : glibc_errno(); }

// bionic: int, the text is in `buffer`; glibc: the text's address, which may be elsewhere.
uintptr_t any_strerror_r(int number, char *buffer, size_t size) __asm__("strerror_r");

int __xpg_strerror_r(int number, char *buffer, size_t size) {
    const uintptr_t answer = any_strerror_r(number, buffer, size);
    if ((answer & ~uintptr_t{0xffffffff}) == 0 && answer < 4096) return static_cast<int>(answer);
    const char *text = reinterpret_cast<const char *>(answer);
    if (text != buffer && size != 0) {
        const size_t length = std::strlen(text) < size - 1 ? std::strlen(text) : size - 1;
        std::memcpy(buffer, text, length);
        buffer[length] = '\0';
    }
    return 0;
}

}  // extern "C"
