package android.content.res;

import java.io.IOException;
import java.io.InputStream;

/** For the compiler only: the device brings the real one. */
public class AssetManager {
    public AssetFileDescriptor openFd(String name) throws IOException {
        throw new UnsupportedOperationException();
    }

    public InputStream open(String name) throws IOException {
        throw new UnsupportedOperationException();
    }
}
