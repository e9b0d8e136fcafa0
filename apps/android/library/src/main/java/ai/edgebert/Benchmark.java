package ai.edgebert;

import java.util.Arrays;

/** Times a model on this device. */
public final class Benchmark {
    private final int runs;
    private final long[] sortedNanoseconds;

    private Benchmark(long[] nanoseconds) {
        runs = nanoseconds.length;
        sortedNanoseconds = nanoseconds.clone();
        Arrays.sort(sortedNanoseconds);
    }

    /** {@code runs} calls with {@code text} after {@code warmUp} that do not count, tokenizing included. */
    public static Benchmark run(EdgeBert model, String text, int warmUp, int runs) {
        if (warmUp < 0 || runs < 1) {
            throw new EdgeBertException(EdgeBertException.Code.ARGUMENT, "a benchmark needs at least one run, not " + runs);
        }
        for (int i = 0; i < warmUp; i++) model.logits(text, null);
        long[] times = new long[runs];
        for (int i = 0; i < runs; i++) {
            long start = System.nanoTime();
            model.logits(text, null);
            times[i] = System.nanoTime() - start;
        }
        return new Benchmark(times);
    }

    public int runs() {
        return runs;
    }

    /** The time in milliseconds that a share {@code quantile} of the runs did not exceed; 0.5 is the median. */
    public double milliseconds(double quantile) {
        int rank = (int) Math.ceil(quantile * runs);
        return sortedNanoseconds[Math.min(runs, Math.max(1, rank)) - 1] / 1e6;
    }
}
