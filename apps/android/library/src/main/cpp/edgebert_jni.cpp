// The native half of ai.edgebert.Native: one function a method, errors as EdgeBertException.
// Handles are addresses; the Java side keeps them private and never uses one after closing it.
#include <jni.h>

#include <cstdint>

#include "edgebert.h"

namespace {

jclass exception_class = nullptr;
jmethodID exception_constructor = nullptr;

// Throws EdgeBertException(code, message) unless an exception is pending already. The message is UTF-8 and
// goes as bytes, because NewStringUTF takes another encoding.
void raise(JNIEnv *env, eb_status status, const char *message) {
    if (env->ExceptionCheck()) return;
    size_t length = 0;
    while (message[length] != '\0') length++;
    jbyteArray bytes = env->NewByteArray(static_cast<jsize>(length));
    if (bytes == nullptr) return;  // OutOfMemoryError is pending
    env->SetByteArrayRegion(bytes, 0, static_cast<jsize>(length), reinterpret_cast<const jbyte *>(message));
    jobject error = env->NewObject(exception_class, exception_constructor, static_cast<jint>(status), bytes);
    if (error != nullptr) env->Throw(static_cast<jthrowable>(error));
}

bool failed(JNIEnv *env, eb_status status) {
    if (status != EB_OK) raise(env, status, eb_last_error());
    return status != EB_OK;
}

eb_model *model_of(jlong handle) { return reinterpret_cast<eb_model *>(static_cast<intptr_t>(handle)); }
eb_session *session_of(jlong handle) { return reinterpret_cast<eb_session *>(static_cast<intptr_t>(handle)); }

// The bytes of a Java array while this object lives; null stays null.
class Bytes {
  public:
    Bytes(JNIEnv *env, jbyteArray array) : env_(env), array_(array) {
        if (array == nullptr) return;
        size_ = static_cast<size_t>(env->GetArrayLength(array));
        data_ = env->GetByteArrayElements(array, nullptr);
    }
    ~Bytes() {
        if (data_ != nullptr) env_->ReleaseByteArrayElements(array_, data_, JNI_ABORT);
    }
    Bytes(const Bytes &) = delete;
    Bytes &operator=(const Bytes &) = delete;

    bool lost() const { return array_ != nullptr && data_ == nullptr; }  // OutOfMemoryError is pending
    const char *data() const { return reinterpret_cast<const char *>(data_); }
    size_t size() const { return size_; }

  private:
    JNIEnv *env_;
    jbyteArray array_;
    jbyte *data_ = nullptr;
    size_t size_ = 0;
};

// Like Bytes, for int arrays.
class Ints {
  public:
    Ints(JNIEnv *env, jintArray array) : env_(env), array_(array) {
        if (array == nullptr) return;
        size_ = static_cast<size_t>(env->GetArrayLength(array));
        data_ = env->GetIntArrayElements(array, nullptr);
    }
    ~Ints() {
        if (data_ != nullptr) env_->ReleaseIntArrayElements(array_, data_, JNI_ABORT);
    }
    Ints(const Ints &) = delete;
    Ints &operator=(const Ints &) = delete;

    bool lost() const { return array_ != nullptr && data_ == nullptr; }
    const int32_t *data() const { return reinterpret_cast<const int32_t *>(data_); }
    size_t size() const { return size_; }

  private:
    JNIEnv *env_;
    jintArray array_;
    jint *data_ = nullptr;
    size_t size_ = 0;
};

jbyteArray to_bytes(JNIEnv *env, const char *text) {
    if (text == nullptr) return nullptr;
    size_t length = 0;
    while (text[length] != '\0') length++;
    jbyteArray bytes = env->NewByteArray(static_cast<jsize>(length));
    if (bytes != nullptr)
        env->SetByteArrayRegion(bytes, 0, static_cast<jsize>(length), reinterpret_cast<const jbyte *>(text));
    return bytes;
}

// Logits of `batch`, in a new Java array.
jfloatArray run(JNIEnv *env, eb_session *session, const eb_batch &batch) {
    size_t count = 0;
    if (failed(env, eb_output_size(session, &batch, &count))) return nullptr;
    if (count > INT32_MAX) {
        raise(env, EB_ERROR_ARGUMENT, "the answer does not fit a Java array; run fewer texts at a time");
        return nullptr;
    }
    jfloatArray answer = env->NewFloatArray(static_cast<jsize>(count));
    if (answer == nullptr) return nullptr;
    jfloat *floats = env->GetFloatArrayElements(answer, nullptr);
    if (floats == nullptr) return nullptr;
    const eb_status status = eb_run(session, &batch, floats, count);
    env->ReleaseFloatArrayElements(answer, floats, 0);
    return failed(env, status) ? nullptr : answer;
}

jlong JNICALL open_file(JNIEnv *env, jclass, jbyteArray path) {
    const Bytes bytes(env, path);
    if (bytes.lost()) return 0;
    if (bytes.size() == 0 || bytes.data()[bytes.size() - 1] != '\0') {
        raise(env, EB_ERROR_ARGUMENT, "the path of a model must end with a zero byte");
        return 0;
    }
    eb_model *model = nullptr;
    if (failed(env, eb_model_open(bytes.data(), &model))) return 0;
    return static_cast<jlong>(reinterpret_cast<intptr_t>(model));
}

jlong JNICALL open_buffer(JNIEnv *env, jclass, jobject buffer, jlong offset, jlong size) {
    const char *data = static_cast<const char *>(env->GetDirectBufferAddress(buffer));
    const jlong capacity = env->GetDirectBufferCapacity(buffer);
    if (data == nullptr || offset < 0 || size < 0 || offset > capacity || size > capacity - offset) {
        raise(env, EB_ERROR_ARGUMENT, "the model needs a direct buffer that holds the range asked for");
        return 0;
    }
    eb_model *model = nullptr;
    if (failed(env, eb_model_open_memory(data + offset, static_cast<size_t>(size), &model))) return 0;
    return static_cast<jlong>(reinterpret_cast<intptr_t>(model));
}

jlong JNICALL buffer_address(JNIEnv *env, jclass, jobject buffer) {
    return static_cast<jlong>(reinterpret_cast<intptr_t>(env->GetDirectBufferAddress(buffer)));
}

void JNICALL close_model(JNIEnv *, jclass, jlong model) { eb_model_close(model_of(model)); }

jintArray JNICALL info(JNIEnv *env, jclass, jlong model) {
    eb_info facts;
    if (failed(env, eb_model_info(model_of(model), &facts))) return nullptr;
    const jint values[] = {facts.task,   facts.vocabulary,   facts.hidden_size, facts.layers,
                           facts.heads,  facts.max_length,   facts.token_types, facts.outputs,
                           facts.labels, facts.has_tokenizer};
    jintArray array = env->NewIntArray(sizeof values / sizeof *values);
    if (array != nullptr) env->SetIntArrayRegion(array, 0, sizeof values / sizeof *values, values);
    return array;
}

jbyteArray JNICALL label(JNIEnv *env, jclass, jlong model, jint index) {
    return to_bytes(env, eb_model_label(model_of(model), index));
}

jlong JNICALL create_session(JNIEnv *env, jclass, jlong model, jint threads) {
    eb_session *session = nullptr;
    if (failed(env, eb_session_create(model_of(model), threads, &session))) return 0;
    return static_cast<jlong>(reinterpret_cast<intptr_t>(session));
}

void JNICALL free_session(JNIEnv *, jclass, jlong session) { eb_session_free(session_of(session)); }

// Ids, then as many token types.
jintArray JNICALL tokenize(JNIEnv *env, jclass, jlong model, jbyteArray text, jbyteArray pair,
                           jint max_length) {
    const Bytes one(env, text), two(env, pair);
    if (one.lost() || two.lost()) return nullptr;
    eb_info facts;
    if (failed(env, eb_model_info(model_of(model), &facts))) return nullptr;
    const jsize capacity = max_length > 0 && max_length < facts.max_length ? max_length : facts.max_length;
    jintArray answer = env->NewIntArray(2 * capacity);
    if (answer == nullptr) return nullptr;
    jint *ids = env->GetIntArrayElements(answer, nullptr);
    if (ids == nullptr) return nullptr;
    size_t count = 0;
    const eb_status status =
        eb_tokenize(model_of(model), one.data(), one.size(), two.data(), two.size(), capacity,
                    reinterpret_cast<int32_t *>(ids), reinterpret_cast<int32_t *>(ids) + capacity,
                    static_cast<size_t>(capacity), &count);
    jintArray exact = nullptr;
    if (status == EB_OK) {
        const jsize length = static_cast<jsize>(count);
        exact = env->NewIntArray(2 * length);
        if (exact != nullptr) {
            env->SetIntArrayRegion(exact, 0, length, ids);
            env->SetIntArrayRegion(exact, length, length, ids + capacity);
        }
    }
    env->ReleaseIntArrayElements(answer, ids, JNI_ABORT);
    return failed(env, status) ? nullptr : exact;
}

// `types` may be null: zeros.
jfloatArray JNICALL run_ids(JNIEnv *env, jclass, jlong session, jintArray ids, jintArray types,
                            jintArray lengths) {
    const Ints all(env, ids), kinds(env, types), sizes(env, lengths);
    if (all.lost() || kinds.lost() || sizes.lost()) return nullptr;
    uint64_t total = 0;
    for (size_t i = 0; i < sizes.size(); i++) total += sizes.data()[i] < 1 ? UINT32_MAX : sizes.data()[i];
    if (total != all.size() || (types != nullptr && kinds.size() != all.size())) {
        raise(env, EB_ERROR_ARGUMENT,
              "ids, token types and lengths do not fit together; lengths must add up to the ids");
        return nullptr;
    }
    const eb_batch batch = {all.data(), types == nullptr ? nullptr : kinds.data(), sizes.data(),
                            sizes.size()};
    return run(env, session_of(session), batch);
}

// For tasks with one answer a text: `outputs` floats.
jfloatArray JNICALL run_text(JNIEnv *env, jclass, jlong session, jbyteArray text, jbyteArray pair,
                             jint outputs) {
    const Bytes one(env, text), two(env, pair);
    if (one.lost() || two.lost()) return nullptr;
    jfloatArray answer = env->NewFloatArray(outputs);
    if (answer == nullptr) return nullptr;
    jfloat *floats = env->GetFloatArrayElements(answer, nullptr);
    if (floats == nullptr) return nullptr;
    const eb_status status = eb_run_text(session_of(session), one.data(), one.size(), two.data(), two.size(),
                                         floats, static_cast<size_t>(outputs));
    env->ReleaseFloatArrayElements(answer, floats, 0);
    return failed(env, status) ? nullptr : answer;
}

jbyteArray JNICALL version(JNIEnv *env, jclass) { return to_bytes(env, eb_version()); }

jbyteArray JNICALL isa(JNIEnv *env, jclass) {
    const char *name = eb_isa();
    if (name == nullptr) raise(env, EB_ERROR_CPU, eb_last_error());
    return to_bytes(env, name);
}

template <typename Function>
JNINativeMethod method(const char *name, const char *signature, Function function) {
    return {const_cast<char *>(name), const_cast<char *>(signature), reinterpret_cast<void *>(function)};
}

}  // namespace

extern "C" JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *machine, void *) {
    JNIEnv *env = nullptr;
    if (machine->GetEnv(reinterpret_cast<void **>(&env), JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    jclass native = env->FindClass("ai/edgebert/Native");
    jclass error = env->FindClass("ai/edgebert/EdgeBertException");
    if (native == nullptr || error == nullptr) return JNI_ERR;
    exception_constructor = env->GetMethodID(error, "<init>", "(I[B)V");
    exception_class = static_cast<jclass>(env->NewGlobalRef(error));
    if (exception_constructor == nullptr || exception_class == nullptr) return JNI_ERR;
    const JNINativeMethod methods[] = {
        method("openFile", "([B)J", open_file),
        method("openBuffer", "(Ljava/nio/ByteBuffer;JJ)J", open_buffer),
        method("bufferAddress", "(Ljava/nio/ByteBuffer;)J", buffer_address),
        method("closeModel", "(J)V", close_model),
        method("info", "(J)[I", info),
        method("label", "(JI)[B", label),
        method("createSession", "(JI)J", create_session),
        method("freeSession", "(J)V", free_session),
        method("tokenize", "(J[B[BI)[I", tokenize),
        method("runIds", "(J[I[I[I)[F", run_ids),
        method("runText", "(J[B[BI)[F", run_text),
        method("version", "()[B", version),
        method("isa", "()[B", isa),
    };
    const jint count = static_cast<jint>(sizeof methods / sizeof *methods);
    return env->RegisterNatives(native, methods, count) == JNI_OK ? JNI_VERSION_1_6 : JNI_ERR;
}
