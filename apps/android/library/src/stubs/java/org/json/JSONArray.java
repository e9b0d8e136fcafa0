package org.json;

/** For the compiler only: the device brings the real one. */
public class JSONArray {
    public int length() {
        throw new UnsupportedOperationException();
    }

    public int getInt(int index) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public String getString(int index) throws JSONException {
        throw new UnsupportedOperationException();
    }
}
