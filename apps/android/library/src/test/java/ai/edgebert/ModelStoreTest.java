package ai.edgebert;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.fail;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.nio.file.Files;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.Signature;
import java.util.Arrays;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Models that arrive after the app. */
public class ModelStoreTest {
    private static final String ALGORITHM = "SHA256withECDSA";

    @Rule public TemporaryFolder folder = new TemporaryFolder();
    private byte[] model;
    private KeyPair keys;
    private ModelStore store;

    @Before
    public void prepare() throws Exception {
        model = Files.readAllBytes(new File(System.getProperty("edgebert.model")).toPath());
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(256);
        keys = generator.generateKeyPair();
        store = new ModelStore(folder.getRoot(), keys.getPublic(), ALGORITHM);
    }

    private static byte[] statement(byte[] content) throws Exception {
        StringBuilder hex = new StringBuilder();
        for (byte b : MessageDigest.getInstance("SHA-256").digest(content)) hex.append(String.format("%02x", b));
        return ("edgebert-update 1\n" + content.length + "\n" + hex + "\n").getBytes(Utf8.CHARSET);
    }

    private static byte[] signature(byte[] statement, PrivateKey key) throws Exception {
        Signature signature = Signature.getInstance(ALGORITHM);
        signature.initSign(key);
        signature.update(statement);
        return signature.sign();
    }

    private File install(byte[] statement, byte[] signature, byte[] content) {
        return store.install("home.gguf", statement, signature, new ByteArrayInputStream(content));
    }

    private void refused(EdgeBertException.Code code, byte[] statement, byte[] signature, byte[] content) {
        try {
            install(statement, signature, content);
            fail("was installed");
        } catch (EdgeBertException error) {
            assertEquals(error.getMessage(), code, error.code());
        }
        assertFalse(new File(folder.getRoot(), "home.gguf.part").exists());
    }

    @Test
    public void aSignedModelIsInstalledAndOpens() throws Exception {
        assertNull(store.installed("home.gguf"));
        byte[] statement = statement(model);
        File file = install(statement, signature(statement, keys.getPrivate()), model);
        assertEquals(file, store.installed("home.gguf"));
        assertArrayEquals(model, Files.readAllBytes(file.toPath()));
        EdgeBert.open(file, 1).close();
    }

    @Test
    public void whatIsNotSignedIsRefusedAndTheOldModelStays() throws Exception {
        byte[] good = statement(model), signature = signature(good, keys.getPrivate());
        install(good, signature, model);
        KeyPairGenerator other = KeyPairGenerator.getInstance("EC");
        other.initialize(256);
        refused(EdgeBertException.Code.TAMPERED, good, signature(good, other.generateKeyPair().getPrivate()), model);
        refused(EdgeBertException.Code.TAMPERED, good, new byte[8], model);
        refused(EdgeBertException.Code.TAMPERED, statement(new byte[1]), signature, model);
        byte[] flipped = model.clone();
        flipped[model.length / 2] ^= 1;
        refused(EdgeBertException.Code.TAMPERED, good, signature, flipped);
        refused(EdgeBertException.Code.TAMPERED, good, signature, Arrays.copyOf(model, model.length - 1));
        refused(EdgeBertException.Code.TAMPERED, good, signature, Arrays.copyOf(model, model.length + 1));
        byte[] odd = "edgebert-update 2\n1\n00\n".getBytes(Utf8.CHARSET);
        refused(EdgeBertException.Code.TAMPERED, odd, signature(odd, keys.getPrivate()), model);
        assertArrayEquals(model, Files.readAllBytes(store.installed("home.gguf").toPath()));
    }

    @Test
    public void aSignedFileThatIsNoModelIsRefused() throws Exception {
        byte[] text = "no model".getBytes(Utf8.CHARSET), statement = statement(text);
        refused(EdgeBertException.Code.FORMAT, statement, signature(statement, keys.getPrivate()), text);
    }

    @Test
    public void namesCannotLeaveTheFolder() {
        for (String name : new String[] {"../home", "a/b", "", ".hidden", "a\u0000b"}) {
            try {
                store.installed(name);
                fail(name);
            } catch (EdgeBertException error) {
                assertEquals(EdgeBertException.Code.ARGUMENT, error.code());
            }
        }
    }
}
