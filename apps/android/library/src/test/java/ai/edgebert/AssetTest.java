package ai.edgebert;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import android.content.Context;
import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Opening from an app's assets, with a made-up Context: an APK is a file with the model somewhere in it. */
public class AssetTest {
    private static final File MODEL = new File(System.getProperty("edgebert.model"));

    @Rule public TemporaryFolder folder = new TemporaryFolder();

    private static final class MadeUpContext extends Context {
        private final File apk;
        private final long start;
        private final long length;
        boolean closed;

        MadeUpContext(File apk, long start, long length) {
            this.apk = apk;
            this.start = start;
            this.length = length;
        }

        @Override
        public AssetManager getAssets() {
            return new AssetManager() {
                @Override
                public AssetFileDescriptor openFd(String name) throws IOException {
                    // what Android says of a missing asset and of a compressed one
                    if (!name.equals("model.gguf")) throw new FileNotFoundException(name);
                    final FileInputStream file = new FileInputStream(apk);
                    return new AssetFileDescriptor() {
                        @Override
                        public FileDescriptor getFileDescriptor() {
                            try {
                                return file.getFD();
                            } catch (IOException error) {
                                throw new IllegalStateException(error);
                            }
                        }

                        @Override
                        public long getStartOffset() {
                            return start;
                        }

                        @Override
                        public long getLength() {
                            return length;
                        }

                        @Override
                        public void close() throws IOException {
                            closed = true;
                            file.close();
                        }
                    };
                }

                @Override
                public InputStream open(String name) throws IOException {
                    if (name.equals("missing.gguf")) throw new FileNotFoundException(name);
                    return new ByteArrayInputStream(new byte[0]);
                }
            };
        }
    }

    private File apk(int before) throws IOException {
        byte[] model = Files.readAllBytes(MODEL.toPath());
        File file = folder.newFile();
        FileOutputStream out = new FileOutputStream(file);
        out.write(new byte[before]);
        out.write(model);
        out.write(new byte[99]);
        out.close();
        return file;
    }

    private static void refused(EdgeBertException.Code code, Context context, String name) {
        try {
            EdgeBert.open(context, name).close();
            fail("was opened");
        } catch (EdgeBertException error) {
            assertEquals(error.getMessage(), code, error.code());
            assertFalse(error.hint().isEmpty());
        }
    }

    @Test
    public void aStoredAssetIsMapped() throws Exception {
        MadeUpContext context = new MadeUpContext(apk(4096), 4096, MODEL.length());
        EdgeBert model = EdgeBert.open(context, "model.gguf");
        assertTrue(context.closed);
        assertTrue(model.isMapped());
        assertEquals(MODEL.length(), model.size());
        assertFalse(model.classify("hello").isEmpty());
        model.close();
    }

    @Test
    public void missingCompressedAndCutAssetsAreTold() throws Exception {
        File apk = apk(4096);
        MadeUpContext whole = new MadeUpContext(apk, 4096, MODEL.length());
        refused(EdgeBertException.Code.IO, whole, "missing.gguf");
        refused(EdgeBertException.Code.COMPRESSED_ASSET, whole, "compressed.gguf");
        refused(EdgeBertException.Code.FORMAT, new MadeUpContext(apk, 4096, MODEL.length() / 2), "model.gguf");
        refused(EdgeBertException.Code.FORMAT, new MadeUpContext(apk, 4096, 0), "model.gguf");
        refused(EdgeBertException.Code.FORMAT, new MadeUpContext(apk, 0, 4096), "model.gguf");
    }
}
