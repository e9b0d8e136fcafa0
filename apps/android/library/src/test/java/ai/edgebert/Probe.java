package ai.edgebert;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Base64;

/** Answers lines of base64 words on standard input: `answer QUESTION PASSAGE`, `embed TEXT`, `logits TEXT`. Floats as bits. */
public final class Probe {
    private Probe() {}

    public static void main(String[] arguments) throws IOException {
        EdgeBert model = EdgeBert.open(new File(arguments[0]), 1);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, Utf8.CHARSET));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] words = line.split(" ", -1);
            try {
                System.out.println(reply(model, words));
            } catch (EdgeBertException error) {
                System.out.println("error " + error.code());
            }
        }
        model.close();
    }

    private static String reply(EdgeBert model, String[] words) {
        if (words[0].equals("answer")) {
            Answer answer = model.answer(text(words[1]), text(words[2]));
            return answer.start() + " " + answer.end() + " " + Float.floatToIntBits(answer.score());
        }
        float[] values = words[0].equals("embed") ? model.embed(text(words[1])) : model.logits(text(words[1]), null);
        StringBuilder bits = new StringBuilder();
        for (float value : values) bits.append(Float.floatToIntBits(value)).append(' ');
        return bits.toString().trim();
    }

    private static String text(String word) {
        return new String(Base64.getDecoder().decode(word), Utf8.CHARSET);
    }
}
