package ai.edgebert;

import java.nio.charset.Charset;

/** Every failure of this library: what is wrong, as a code that a program can act on, and what to do about it. */
public final class EdgeBertException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private static final Charset UTF_8 = Charset.forName("UTF-8");

    /** Kinds of failures. The first ten are those of the engine, in its order. */
    public enum Code {
        OK("this is a bug in the library: please report it"),
        IO("check that the file is there and readable"),
        FORMAT("the model file is damaged or no model: build or download it again"),
        VERSION("update the library, or build the model with the version that belongs to it"),
        MEMORY("free some memory, or use a smaller model or shorter texts"),
        ARGUMENT("check the arguments of the call"),
        INPUT("the text has too many tokens or ids that the model does not know: shorten or check it"),
        CPU("unset EDGEBERT_ISA, or name kernels that this CPU has"),
        THREADS("ask for fewer threads"),
        SPACE("this is a bug in the library: please report it"),
        COMPRESSED_ASSET("store the model uncompressed: add noCompress 'gguf' to androidResources in build.gradle"),
        WRONG_TASK("use the method that belongs to the model's task"),
        CLOSED("open the model again: it was closed"),
        TAMPERED("the update is not what its publisher signed: keep the old model and download again"),
        NATIVE_LIBRARY("package the native library for this device's ABI: arm64-v8a or x86_64");

        private final String hint;

        Code(String hint) {
            this.hint = hint;
        }
    }

    private final Code code;

    EdgeBertException(Code code, String message) {
        super(message);
        this.code = code;
    }

    EdgeBertException(Code code, String message, Throwable cause) {
        super(message, cause);
        this.code = code;
    }

    /** Called by native code: a status of the engine and its message in UTF-8. */
    EdgeBertException(int status, byte[] message) {
        this(codeOf(status), new String(message, UTF_8));
    }

    private static Code codeOf(int status) {
        boolean known = status > Code.OK.ordinal() && status <= Code.SPACE.ordinal();
        return known ? Code.values()[status] : Code.OK;
    }

    /** What kind of failure this is. */
    public Code code() {
        return code;
    }

    /** What to do about it, in one sentence for a developer. */
    public String hint() {
        return code.hint;
    }
}
