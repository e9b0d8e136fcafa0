package ai.edgebert;

/** Where the answer of an asynchronous call goes. One of the two is called, once, on the executor's thread. */
public interface Callback<T> {
    void onResult(T result);

    void onError(EdgeBertException error);
}
