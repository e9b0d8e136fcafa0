package ai.edgebert.demo;

import ai.edgebert.Benchmark;
import ai.edgebert.EdgeBert;
import ai.edgebert.EdgeBertException;
import ai.edgebert.Label;
import ai.edgebert.SelfTest;
import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.text.Editable;
import android.text.TextWatcher;
import android.view.View;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.TextView;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;

/** The one screen: a text field and what the model makes of it. */
public final class MainActivity extends Activity implements LiveClassifier.Listener {
    private static final int SHOWN_LABELS = 3;
    private static final int BENCHMARK_RUNS = 200;
    private static final String EXTENSION = ".gguf";

    private LiveClassifier classifier;
    private String report;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.main);
        classifier = new LiveClassifier(this);
        showModels();
        EditText text = find(R.id.text);
        text.addTextChangedListener(new TextWatcher() {
            @Override
            public void beforeTextChanged(CharSequence before, int start, int count, int after) {}

            @Override
            public void onTextChanged(CharSequence now, int start, int before, int count) {}

            @Override
            public void afterTextChanged(Editable now) {
                typed();
            }
        });
        click(R.id.self_test, new Runnable() {
            @Override
            public void run() {
                selfTest();
            }
        });
        click(R.id.benchmark, new Runnable() {
            @Override
            public void run() {
                benchmark();
            }
        });
        click(R.id.share, new Runnable() {
            @Override
            public void run() {
                share();
            }
        });
    }

    @Override
    protected void onDestroy() {
        classifier.shutdown();
        super.onDestroy();
    }

    @Override
    public void onModel(EdgeBert model) {
        show(R.id.error, "");
        String size = String.format(locale(), "%.1f", model.size() / 1e6);
        show(R.id.facts, getString(R.string.ready, modelName(), size, EdgeBert.kernels()));
        typed();
    }

    @Override
    public void onLabels(List<Label> labels, double median, int runs) {
        LinearLayout list = find(R.id.labels);
        for (int i = 0; i < Math.min(SHOWN_LABELS, labels.size()); i++) {
            if (list.getChildCount() == i) getLayoutInflater().inflate(R.layout.label, list);
            fill(list.getChildAt(i), labels.get(i));
        }
        list.setVisibility(View.VISIBLE);
        show(R.id.latency, getString(R.string.latency, String.format(locale(), "%.2f", median), runs));
    }

    @Override
    public void onError(EdgeBertException error) {
        show(R.id.error, getString(R.string.failed, error.getMessage(), error.hint()));
    }

    private void showModels() {
        List<String> models = new ArrayList<String>();
        try {
            for (String asset : getAssets().list("")) if (asset.endsWith(EXTENSION)) models.add(asset);
        } catch (IOException error) {
            models.clear();
        }
        if (models.isEmpty()) {
            show(R.id.error, getString(R.string.no_models));
            return;
        }
        final Spinner spinner = find(R.id.models);
        ArrayAdapter<String> adapter =
                new ArrayAdapter<String>(this, android.R.layout.simple_spinner_item, models);
        adapter.setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item);
        spinner.setAdapter(adapter);
        spinner.setOnItemSelectedListener(new AdapterView.OnItemSelectedListener() {
            @Override
            public void onItemSelected(AdapterView<?> list, View view, int position, long id) {
                classifier.open(getApplicationContext(), (String) list.getItemAtPosition(position));
            }

            @Override
            public void onNothingSelected(AdapterView<?> list) {}
        });
    }

    private void typed() {
        String text = currentText();
        if (!text.isEmpty()) {
            classifier.type(text);
            return;
        }
        classifier.forget();
        find(R.id.labels).setVisibility(View.GONE);
        show(R.id.latency, getString(R.string.no_latency));
    }

    private void selfTest() {
        show(R.id.result, getString(R.string.self_test_running));
        find(R.id.share).setVisibility(View.GONE);
        final String name = modelName();
        classifier.work(new LiveClassifier.Work() {
            @Override
            public Runnable on(EdgeBert model) {
                final SelfTest test = runSelfTest(model, name);
                return new Runnable() {
                    @Override
                    public void run() {
                        show(R.id.result, test == null ? getString(R.string.no_golden, name) : words(test));
                    }
                };
            }
        });
    }

    private void benchmark() {
        show(R.id.result, getString(R.string.benchmark_running));
        final String name = modelName();
        final String typed = currentText(), text = typed.isEmpty() ? getString(R.string.example) : typed;
        classifier.work(new LiveClassifier.Work() {
            @Override
            public Runnable on(EdgeBert model) {
                final SelfTest test = runSelfTest(model, name);
                final Benchmark result = Benchmark.run(model, text, BENCHMARK_RUNS / 10, BENCHMARK_RUNS);
                final String json = BenchmarkReport.json(model, name, result, test, model.tokenIds(text, null).length);
                return new Runnable() {
                    @Override
                    public void run() {
                        report = json;
                        show(R.id.result, words(result));
                        find(R.id.share).setVisibility(View.VISIBLE);
                    }
                };
            }
        });
    }

    private void share() {
        Intent intent = new Intent(Intent.ACTION_SEND);
        intent.setType("application/json");
        intent.putExtra(Intent.EXTRA_SUBJECT, "edgebert-" + modelName() + ".json");
        intent.putExtra(Intent.EXTRA_TEXT, report);
        startActivity(Intent.createChooser(intent, getString(R.string.share)));
    }

    /** Null where the APK has no golden examples for the model. */
    private SelfTest runSelfTest(EdgeBert model, String name) {
        try {
            InputStream golden = getAssets().open(name + ".golden.jsonl");
            try {
                return SelfTest.run(model, golden);
            } finally {
                golden.close();
            }
        } catch (IOException error) {
            return null;
        }
    }

    private String words(SelfTest test) {
        if (test.passed()) return getString(R.string.self_test_passed, test.equalBits(), test.examples());
        return getString(R.string.self_test_failed, test.equalBits(), test.examples(), test.firstDifference());
    }

    private String words(Benchmark result) {
        return getString(
                R.string.benchmark_done,
                String.format(locale(), "%.2f", result.milliseconds(0.5)),
                String.format(locale(), "%.2f", result.milliseconds(0.9)),
                String.format(locale(), "%.2f", result.milliseconds(0.99)),
                result.runs());
    }

    private void fill(View row, Label label) {
        int percent = Math.round(100 * label.probability());
        ((TextView) row.findViewById(R.id.name)).setText(label.name());
        ((TextView) row.findViewById(R.id.percent)).setText(getString(R.string.percent, percent));
        ((ProgressBar) row.findViewById(R.id.bar)).setProgress(Math.round(1000 * label.probability()));
        row.setContentDescription(getString(R.string.label_row, label.name(), percent));
    }

    private String currentText() {
        EditText text = find(R.id.text);
        return text.getText().toString().trim();
    }

    /** The asset's name without its extension. */
    private String modelName() {
        Spinner spinner = find(R.id.models);
        String asset = String.valueOf(spinner.getSelectedItem());
        return asset.endsWith(EXTENSION) ? asset.substring(0, asset.length() - EXTENSION.length()) : asset;
    }

    private void show(int id, String text) {
        TextView view = find(id);
        view.setText(text);
        if (id == R.id.error) view.setVisibility(text.isEmpty() ? View.GONE : View.VISIBLE);
    }

    private void click(int id, final Runnable action) {
        find(id).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                action.run();
            }
        });
    }

    private java.util.Locale locale() {
        return getResources().getConfiguration().locale;
    }

    @SuppressWarnings("unchecked")
    private <T extends View> T find(int id) {
        return (T) findViewById(id);
    }
}
