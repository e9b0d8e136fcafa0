package ai.edgebert;

import java.nio.ByteBuffer;

/** The engine's functions. Handles are addresses: whoever calls these keeps them valid. */
final class Native {
    /** Positions in the answer of {@link #info}. */
    static final int TASK = 0, HIDDEN_SIZE = 2, LAYERS = 3, MAX_LENGTH = 5, OUTPUTS = 7, LABELS = 8, HAS_TOKENIZER = 9;

    /** Bytes that the start of a model in memory must be a multiple of. */
    static final int ALIGNMENT = 4;

    private static volatile boolean loaded;

    private Native() {}

    /** Loads the library once. Throws EdgeBertException NATIVE_LIBRARY. */
    static void load() {
        if (loaded) return;
        synchronized (Native.class) {
            if (loaded) return;
            try {
                System.loadLibrary("edgebert_jni");
            } catch (UnsatisfiedLinkError error) {
                throw new EdgeBertException(
                        EdgeBertException.Code.NATIVE_LIBRARY, "cannot load libedgebert_jni.so: " + error.getMessage(), error);
            }
            loaded = true;
        }
    }

    static native long openFile(byte[] zeroEndedPath);

    static native long openBuffer(ByteBuffer direct, long offset, long size);

    static native long bufferAddress(ByteBuffer direct);

    static native void closeModel(long model);

    static native int[] info(long model);

    static native byte[] label(long model, int index);

    static native long createSession(long model, int threads);

    static native void freeSession(long session);

    /** Ids, then as many token types. {@code pair} may be null; 0 as {@code maxLength}: the model's own. */
    static native int[] tokenize(long model, byte[] text, byte[] pair, int maxLength);

    static native float[] runIds(long session, int[] ids, int[] types, int[] lengths);

    static native float[] runText(long session, byte[] text, byte[] pair, int outputs);

    static native byte[] version();

    static native byte[] isa();
}
