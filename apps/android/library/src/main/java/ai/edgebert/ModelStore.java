package ai.edgebert;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.util.Locale;

/**
 * Models that arrive after the app: installed only with a signed statement of their size and hash, swapped in as a
 * whole. How the bytes come to the device is the app's business; this class opens no connection.
 *
 * <p>The statement is three lines of text, each ended by a newline: {@code edgebert-update 1}, the size in bytes, the
 * SHA-256 in hex. Its signature is SHA256withECDSA or whatever the app's key asks for.
 */
public final class ModelStore {
    private static final String HEADER = "edgebert-update 1";

    private final File folder;
    private final PublicKey publisher;
    private final String algorithm;

    /** Keeps models in {@code folder}, which only the app may write to, and believes {@code publisher} alone. */
    public ModelStore(File folder, PublicKey publisher, String signatureAlgorithm) {
        this.folder = folder;
        this.publisher = publisher;
        this.algorithm = signatureAlgorithm;
    }

    /** The installed model called {@code name}, null if there is none. */
    public File installed(String name) {
        File file = place(name);
        return file.isFile() ? file : null;
    }

    /**
     * Installs what {@code model} gives as {@code name}, replacing an older one. A model that is open stays as it is
     * until it is opened again. Throws EdgeBertException TAMPERED or IO; then the older one is still there.
     */
    public synchronized File install(String name, byte[] statement, byte[] signature, InputStream model) {
        File target = place(name);
        verify(statement, signature);
        String[] lines = new String(statement, Utf8.CHARSET).split("\n", -1);
        if (lines.length != 4 || !lines[0].equals(HEADER) || !lines[3].isEmpty() || !lines[1].matches("[0-9]{1,12}")) {
            throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the update's statement is not in the known form");
        }
        File part = new File(folder, name + ".part");
        try {
            if (!folder.isDirectory() && !folder.mkdirs()) throw new IOException("cannot make " + folder);
            String hash = copy(model, part, Long.parseLong(lines[1]));
            if (!hash.equals(lines[2])) {
                throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the model's hash is " + hash + ", signed was " + lines[2]);
            }
            EdgeBert.open(part, 1).close();  // a signed file that this engine cannot open must not replace one it can
            if (!part.renameTo(target)) throw new IOException("cannot rename " + part);
            return target;
        } catch (IOException error) {
            throw new EdgeBertException(EdgeBertException.Code.IO, "cannot install the model: " + error.getMessage(), error);
        } finally {
            part.delete();
        }
    }

    private File place(String name) {
        if (!name.matches("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")) {
            throw new EdgeBertException(EdgeBertException.Code.ARGUMENT, "a model's name has letters, digits, '.', '_' and '-' only");
        }
        return new File(folder, name);
    }

    private void verify(byte[] statement, byte[] signature) {
        try {
            Signature check = Signature.getInstance(algorithm);
            check.initVerify(publisher);
            check.update(statement);
            if (check.verify(signature)) return;
        } catch (GeneralSecurityException error) {
            throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the update's signature cannot be checked", error);
        }
        throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the update's signature is not the publisher's");
    }

    /** Copies exactly {@code size} bytes and returns their SHA-256 in hex. */
    private static String copy(InputStream from, File to, long size) throws IOException {
        MessageDigest digest;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
        FileOutputStream out = new FileOutputStream(to);
        try {
            byte[] block = new byte[1 << 16];
            long left = size;
            for (int count; (count = from.read(block)) > 0; left -= count) {
                if (count > left) {
                    throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the model is larger than the " + size + " bytes signed");
                }
                digest.update(block, 0, count);
                out.write(block, 0, count);
            }
            if (left != 0) {
                throw new EdgeBertException(EdgeBertException.Code.TAMPERED, "the model is smaller than the " + size + " bytes signed");
            }
            out.getFD().sync();
        } finally {
            out.close();
        }
        StringBuilder hex = new StringBuilder();
        for (byte b : digest.digest()) hex.append(String.format(Locale.ROOT, "%02x", b));
        return hex.toString();
    }
}
