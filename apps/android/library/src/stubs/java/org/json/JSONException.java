package org.json;

/** For the compiler only: the device brings the real one. */
public class JSONException extends Exception {
    private static final long serialVersionUID = 1L;
}
