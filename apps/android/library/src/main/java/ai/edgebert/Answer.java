package ai.edgebert;

/** A part of a passage that answers a question. */
public final class Answer {
    private final String text;
    private final int start;
    private final int end;
    private final float score;

    Answer(String text, int start, int end, float score) {
        this.text = text;
        this.start = start;
        this.end = end;
        this.score = score;
    }

    public String text() {
        return text;
    }

    /** Index of the first UTF-16 character in the passage. */
    public int start() {
        return start;
    }

    /** Index behind the last UTF-16 character in the passage. */
    public int end() {
        return end;
    }

    /** Sum of the start's and the end's logits: higher is better; only to compare answers of one model. */
    public float score() {
        return score;
    }

    @Override
    public String toString() {
        return text;
    }
}
