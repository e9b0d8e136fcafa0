package ai.edgebert;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.Charset;
import java.nio.charset.CharsetEncoder;
import java.nio.charset.CodingErrorAction;

/** Text as the engine takes it. */
final class Utf8 {
    static final Charset CHARSET = Charset.forName("UTF-8");
    private static final byte[] REPLACEMENT = {(byte) 0xEF, (byte) 0xBF, (byte) 0xBD};  // U+FFFD

    private Utf8() {}

    /** UTF-8 of {@code text}; a surrogate without its other half becomes U+FFFD. Null stays null. */
    static byte[] encode(String text) {
        if (text == null) return null;
        CharsetEncoder encoder =
                CHARSET.newEncoder()
                        .onMalformedInput(CodingErrorAction.REPLACE)
                        .onUnmappableCharacter(CodingErrorAction.REPLACE)
                        .replaceWith(REPLACEMENT);
        try {
            ByteBuffer bytes = encoder.encode(CharBuffer.wrap(text));
            byte[] exact = new byte[bytes.remaining()];
            bytes.get(exact);
            return exact;
        } catch (CharacterCodingException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** The path as the file system takes it, with the zero byte that ends it. */
    static byte[] path(String path) {
        byte[] bytes = path.getBytes(CHARSET);
        for (byte b : bytes) {
            if (b == 0) {
                throw new EdgeBertException(EdgeBertException.Code.IO, "the path of the model holds a zero byte");
            }
        }
        byte[] ended = new byte[bytes.length + 1];
        System.arraycopy(bytes, 0, ended, 0, bytes.length);
        return ended;
    }
}
