package ai.edgebert;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Runs the examples of a package's golden.jsonl and counts those that give the very bits the build recorded. */
public final class SelfTest {
    private final int examples;
    private final int equalIds;
    private final int equalBits;
    private final String firstDifference;

    private SelfTest(int examples, int equalIds, int equalBits, String firstDifference) {
        this.examples = examples;
        this.equalIds = equalIds;
        this.equalBits = equalBits;
        this.firstDifference = firstDifference;
    }

    /** Reads {@code golden} to its end and leaves closing it to the caller. */
    public static SelfTest run(EdgeBert model, InputStream golden) {
        int examples = 0, equalIds = 0, equalBits = 0;
        String difference = null;
        try {
            BufferedReader lines = new BufferedReader(new InputStreamReader(golden, Utf8.CHARSET));
            for (String line; (line = lines.readLine()) != null; ) {
                if (line.isEmpty()) continue;
                examples++;
                JSONObject row = new JSONObject(line);
                String text = row.getString("text"), pair = row.has("text_pair") ? row.getString("text_pair") : null;
                boolean ids = sameIds(model.tokenIds(text, pair), row.getJSONArray("ids"));
                boolean bits = sameBits(model.logits(text, pair), row.getJSONArray("logits"));
                if (ids) equalIds++;
                if (bits) equalBits++;
                if (!(ids && bits) && difference == null) difference = text;
            }
        } catch (IOException error) {
            throw new EdgeBertException(EdgeBertException.Code.IO, "cannot read the golden examples", error);
        } catch (JSONException error) {
            throw new EdgeBertException(
                    EdgeBertException.Code.FORMAT, "line " + examples + " of the golden examples is damaged", error);
        } catch (NumberFormatException error) {
            throw new EdgeBertException(
                    EdgeBertException.Code.FORMAT, "line " + examples + " of the golden examples is damaged", error);
        }
        return new SelfTest(examples, equalIds, equalBits, difference);
    }

    public int examples() {
        return examples;
    }

    /** Examples whose token ids are the recorded ones. */
    public int equalIds() {
        return equalIds;
    }

    /** Examples whose logits are the recorded ones to the last bit. */
    public int equalBits() {
        return equalBits;
    }

    /** Whether there was an example and every one was met exactly. */
    public boolean passed() {
        return examples > 0 && equalIds == examples && equalBits == examples;
    }

    /** The first text that gave something else, null if none did. */
    public String firstDifference() {
        return firstDifference;
    }

    private static boolean sameIds(int[] ids, JSONArray expected) throws JSONException {
        if (ids.length != expected.length()) return false;
        for (int i = 0; i < ids.length; i++) if (ids[i] != expected.getInt(i)) return false;
        return true;
    }

    private static boolean sameBits(float[] logits, JSONArray expected) throws JSONException {
        if (logits.length != expected.length()) return false;
        for (int i = 0; i < logits.length; i++) {
            float wanted = (float) Double.parseDouble(expected.getString(i));
            if (Float.floatToIntBits(logits[i]) != Float.floatToIntBits(wanted)) return false;
        }
        return true;
    }
}
