package ai.edgebert.demo;

import ai.edgebert.EdgeBert;
import ai.edgebert.EdgeBertException;
import ai.edgebert.Label;
import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** Keeps one model open on a thread of its own and answers on the main thread; an answer that is overtaken is dropped. */
final class LiveClassifier {
    private static final long DEBOUNCE_MS = 120;
    private static final int REMEMBERED_RUNS = 20;

    interface Listener {
        void onModel(EdgeBert model);

        void onLabels(List<Label> labels, double medianMilliseconds, int runs);

        void onError(EdgeBertException error);
    }

    /** Work on the model's thread; what it returns is run on the main thread. */
    interface Work {
        Runnable on(EdgeBert model);
    }

    private final ExecutorService thread = Executors.newSingleThreadExecutor();
    private final Handler main = new Handler(Looper.getMainLooper());
    private final Listener listener;
    private final Deque<Double> latencies = new ArrayDeque<Double>();  // of the model's thread
    private EdgeBert model;  // of the model's thread
    private int newest;  // of the main thread
    private Runnable waiting;

    LiveClassifier(Listener listener) {
        this.listener = listener;
    }

    /** Replaces the open model by the asset called {@code name}. */
    void open(final Context context, final String name) {
        thread.execute(new Runnable() {
            @Override
            public void run() {
                closeModel();
                try {
                    model = EdgeBert.open(context, name, Math.min(2, Runtime.getRuntime().availableProcessors()));
                } catch (EdgeBertException error) {
                    report(error);
                    return;
                }
                final EdgeBert opened = model;
                main.post(new Runnable() {
                    @Override
                    public void run() {
                        listener.onModel(opened);
                    }
                });
            }
        });
    }

    /** Classifies {@code text} once typing has paused. */
    void type(final String text) {
        forget();
        final int ticket = newest;
        waiting = new Runnable() {
            @Override
            public void run() {
                classify(text, ticket);
            }
        };
        main.postDelayed(waiting, DEBOUNCE_MS);
    }

    /** Drops the answers that are still on their way. */
    void forget() {
        if (waiting != null) main.removeCallbacks(waiting);
        newest++;
    }

    private void classify(final String text, final int ticket) {
        work(new Work() {
            @Override
            public Runnable on(EdgeBert model) {
                long start = System.nanoTime();
                final List<Label> labels = model.classify(text);
                remember((System.nanoTime() - start) / 1e6);
                final double median = median();
                final int runs = latencies.size();
                return new Runnable() {
                    @Override
                    public void run() {
                        if (ticket == newest) listener.onLabels(labels, median, runs);
                    }
                };
            }
        });
    }

    /** Runs {@code work} on the model's thread unless no model is open. */
    void work(final Work work) {
        thread.execute(new Runnable() {
            @Override
            public void run() {
                if (model == null) return;
                try {
                    main.post(work.on(model));
                } catch (EdgeBertException error) {
                    report(error);
                }
            }
        });
    }

    /** Closes the model when what is queued has been done. */
    void shutdown() {
        forget();
        thread.execute(new Runnable() {
            @Override
            public void run() {
                closeModel();
            }
        });
        thread.shutdown();
    }

    private void closeModel() {
        if (model != null) model.close();
        model = null;
        latencies.clear();
    }

    private void remember(double milliseconds) {
        latencies.addLast(milliseconds);
        if (latencies.size() > REMEMBERED_RUNS) latencies.removeFirst();
    }

    private double median() {
        double[] sorted = new double[latencies.size()];
        int at = 0;
        for (double value : latencies) sorted[at++] = value;
        Arrays.sort(sorted);
        return sorted[(sorted.length - 1) / 2];
    }

    private void report(final EdgeBertException error) {
        main.post(new Runnable() {
            @Override
            public void run() {
                listener.onError(error);
            }
        });
    }
}
