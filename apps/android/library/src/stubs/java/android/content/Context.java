package android.content;

import android.content.res.AssetManager;

/** For the compiler only: the device brings the real one. */
public abstract class Context {
    public abstract AssetManager getAssets();
}
