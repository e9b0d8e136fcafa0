package ai.edgebert;

import android.content.Context;
import java.io.Closeable;
import java.io.File;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.Executor;

/**
 * A text model on this device: opened once, asked as often as needed, closed at the end.
 *
 * <p>Safe to use from any number of threads; calls take turns. Every failure is an {@link EdgeBertException}.
 * A call takes milliseconds to tens of milliseconds: off the main thread, use the variants with an executor.
 */
public final class EdgeBert implements Closeable {
    private final Object lock = new Object();
    private final ByteBuffer bytes;  // the model's memory, null when the engine mapped a file itself
    private final boolean mapped;
    private final long size;
    private final Task task;
    private final int outputs;
    private final int maxLength;
    private final List<String> labels;
    private long model;  // 0: closed
    private long session;

    /** Takes over the handle {@code model}. */
    private EdgeBert(long model, int threads, ByteBuffer bytes, long size, boolean mapped) {
        this.model = model;
        this.bytes = bytes;
        this.size = size;
        this.mapped = mapped;
        boolean ready = false;
        try {
            int[] info = Native.info(model);
            task = Task.values()[info[Native.TASK]];
            outputs = info[Native.OUTPUTS];
            maxLength = info[Native.MAX_LENGTH];
            if (info[Native.HAS_TOKENIZER] == 0) {
                throw new EdgeBertException(EdgeBertException.Code.FORMAT, "the model has no tokenizer in it");
            }
            List<String> names = new ArrayList<String>();
            for (int i = 0; i < info[Native.LABELS]; i++) names.add(new String(Native.label(model, i), Utf8.CHARSET));
            labels = Collections.unmodifiableList(names);
            session = Native.createSession(model, threads);
            ready = true;
        } finally {
            if (!ready) Native.closeModel(model);
        }
    }

    /** The model {@code asset} of the app, on one thread. It has to be stored uncompressed. */
    public static EdgeBert open(Context context, String asset) {
        return open(context, asset, 1);
    }

    /** As above on {@code threads} threads, the caller's included. Two are enough for a short text. */
    public static EdgeBert open(Context context, String asset, int threads) {
        Native.load();
        return open(ModelBytes.ofAsset(context, asset), threads);
    }

    /** A model file, for instance one that {@link ModelStore} installed. It must not change while it is open. */
    public static EdgeBert open(File file, int threads) {
        Native.load();
        return new EdgeBert(Native.openFile(Utf8.path(file.getPath())), threads, null, file.length(), true);
    }

    static EdgeBert open(ModelBytes model, int threads) {
        long handle = Native.openBuffer(model.buffer, model.offset, model.size);
        return new EdgeBert(handle, threads, model.buffer, model.size, model.mapped);
    }

    /** Version of the engine, "0.1.0". */
    public static String version() {
        Native.load();
        return new String(Native.version(), Utf8.CHARSET);
    }

    /** The CPU kernels in use, "neon-dotprod" for instance. */
    public static String kernels() {
        Native.load();
        return new String(Native.isa(), Utf8.CHARSET);
    }

    public Task task() {
        return task;
    }

    /** Names of the classes, in the order of the logits. */
    public List<String> labels() {
        return labels;
    }

    /** Longest text in tokens; what is longer is cut. */
    public int maxLength() {
        return maxLength;
    }

    /** Bytes of the model. */
    public long size() {
        return size;
    }

    /** Whether the model is read in place. Otherwise it had to be copied into memory, because the APK does not align it. */
    public boolean isMapped() {
        return mapped;
    }

    /** All classes, the most probable first. */
    public List<Label> classify(String text) {
        return classify(text, null);
    }

    /** All classes of a pair of texts, the most probable first. */
    public List<Label> classify(String text, String pair) {
        need(Task.CLASSIFICATION);
        return ranked(logits(text, pair));
    }

    /** The vector of {@code text}: the mean over its tokens, not normalised. */
    public float[] embed(String text) {
        need(Task.EMBEDDING);
        return logits(text, null);
    }

    /** The part of {@code passage} that answers {@code question} best; passages of any length. */
    public Answer answer(String question, String passage) {
        need(Task.QUESTION_ANSWERING);
        checkText(question);
        checkText(passage);
        synchronized (lock) {
            checkOpen();
            return new QuestionAnswering(model, session, maxLength).answer(question, passage);
        }
    }

    /** The model's raw numbers for a text: one a class, or the vector of an embedding model. {@code pair} may be null. */
    public float[] logits(String text, String pair) {
        if (task != Task.CLASSIFICATION) need(Task.EMBEDDING);
        checkText(text);
        byte[] one = Utf8.encode(text), two = Utf8.encode(pair);
        synchronized (lock) {
            checkOpen();
            return Native.runText(session, one, two, outputs);
        }
    }

    /** Token ids of a text or pair with the special tokens, cut to the model's length. {@code pair} may be null. */
    public int[] tokenIds(String text, String pair) {
        checkText(text);
        byte[] one = Utf8.encode(text), two = Utf8.encode(pair);
        synchronized (lock) {
            checkOpen();
            int[] all = Native.tokenize(model, one, two, 0);
            int[] ids = new int[all.length / 2];
            System.arraycopy(all, 0, ids, 0, ids.length);
            return ids;
        }
    }

    /** {@link #classify(String)} on {@code executor}. */
    public void classify(final String text, Executor executor, final Callback<List<Label>> callback) {
        execute(executor, callback, new Call<List<Label>>() {
            @Override
            public List<Label> run() {
                return classify(text);
            }
        });
    }

    /** {@link #embed(String)} on {@code executor}. */
    public void embed(final String text, Executor executor, final Callback<float[]> callback) {
        execute(executor, callback, new Call<float[]>() {
            @Override
            public float[] run() {
                return embed(text);
            }
        });
    }

    /** {@link #answer(String, String)} on {@code executor}. */
    public void answer(final String question, final String passage, Executor executor, final Callback<Answer> callback) {
        execute(executor, callback, new Call<Answer>() {
            @Override
            public Answer run() {
                return answer(question, passage);
            }
        });
    }

    /** Frees the model once a call in progress has ended. Closing twice is fine. */
    @Override
    public void close() {
        synchronized (lock) {
            if (model == 0) return;
            Native.freeSession(session);
            Native.closeModel(model);
            model = 0;
            session = 0;
        }
    }

    private interface Call<T> {
        T run();
    }

    private static <T> void execute(Executor executor, final Callback<T> callback, final Call<T> call) {
        executor.execute(new Runnable() {
            @Override
            public void run() {
                T result;
                try {
                    result = call.run();
                } catch (EdgeBertException error) {
                    callback.onError(error);
                    return;
                }
                callback.onResult(result);
            }
        });
    }

    private List<Label> ranked(float[] logits) {
        double highest = Double.NEGATIVE_INFINITY, total = 0;
        for (float logit : logits) highest = Math.max(highest, logit);
        for (float logit : logits) total += Math.exp(logit - highest);
        List<Label> ranked = new ArrayList<Label>();
        for (int i = 0; i < logits.length; i++) {
            ranked.add(new Label(i, labels.get(i), (float) (Math.exp(logits[i] - highest) / total)));
        }
        Collections.sort(ranked, new Comparator<Label>() {
            @Override
            public int compare(Label one, Label two) {
                return Float.compare(two.probability(), one.probability());
            }
        });
        return ranked;
    }

    private static void checkText(String text) {
        if (text == null) throw new EdgeBertException(EdgeBertException.Code.ARGUMENT, "the text is null");
    }

    private void need(Task wanted) {
        if (task != wanted) {
            throw new EdgeBertException(
                    EdgeBertException.Code.WRONG_TASK, "this is a model for " + task + ", the call needs one for " + wanted);
        }
    }

    private void checkOpen() {
        if (model == 0) throw new EdgeBertException(EdgeBertException.Code.CLOSED, "the model is closed");
    }
}
