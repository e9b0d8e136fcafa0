package org.json;

/** For the compiler only: the device brings the real one. */
public class JSONObject {
    public JSONObject(String text) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public boolean has(String name) {
        throw new UnsupportedOperationException();
    }

    public String getString(String name) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public JSONArray getJSONArray(String name) throws JSONException {
        throw new UnsupportedOperationException();
    }
}
