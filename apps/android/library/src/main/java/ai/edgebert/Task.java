package ai.edgebert;

/** What a model answers. The order is the engine's. */
public enum Task {
    CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING,
    EMBEDDING
}
