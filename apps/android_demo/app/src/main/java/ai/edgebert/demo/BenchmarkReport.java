package ai.edgebert.demo;

import ai.edgebert.Benchmark;
import ai.edgebert.EdgeBert;
import ai.edgebert.SelfTest;
import android.os.Build;
import org.json.JSONException;
import org.json.JSONObject;

/** A benchmark on this phone in the form that `edgebert report` reads: docs/formats.md, "Device result 1". */
final class BenchmarkReport {
    private BenchmarkReport() {}

    /** {@code test} may be null. */
    static String json(EdgeBert model, String name, Benchmark benchmark, SelfTest test, int tokens) {
        try {
            JSONObject device = new JSONObject();
            device.put("name", Build.MANUFACTURER + " " + Build.MODEL);
            device.put("os", "Android " + Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT + ")");
            device.put("cpu", Build.HARDWARE);
            device.put("kernels", EdgeBert.kernels());
            JSONObject latency = new JSONObject();
            latency.put("p50", benchmark.milliseconds(0.5));
            latency.put("p90", benchmark.milliseconds(0.9));
            latency.put("p99", benchmark.milliseconds(0.99));
            JSONObject report = new JSONObject();
            report.put("format", "edgebert-device-result 1");
            report.put("model", name);
            report.put("model_bytes", model.size());
            report.put("engine", EdgeBert.version());
            report.put("device", device);
            report.put("tokens", tokens);
            report.put("runs", benchmark.runs());
            report.put("latency_ms", latency);
            if (test != null) {
                JSONObject golden = new JSONObject();
                golden.put("examples", test.examples());
                golden.put("equal_ids", test.equalIds());
                golden.put("equal_bits", test.equalBits());
                report.put("golden", golden);
            }
            return report.toString(2);
        } catch (JSONException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
