package ai.edgebert;

/** One class with its probability. */
public final class Label {
    private final int index;
    private final String name;
    private final float probability;

    Label(int index, String name, float probability) {
        this.index = index;
        this.name = name;
        this.probability = probability;
    }

    /** Position among the model's labels, from 0. */
    public int index() {
        return index;
    }

    public String name() {
        return name;
    }

    /** Share of all labels' probabilities, in [0, 1]. */
    public float probability() {
        return probability;
    }

    @Override
    public String toString() {
        return name + " " + probability;
    }
}
