package ai.edgebert;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Finds the best span of a passage, in overlapping windows when it is longer than the model. */
final class QuestionAnswering {
    private static final int MAX_ANSWER_TOKENS = 30;

    private final long model;
    private final long session;
    private final int maxLength;

    QuestionAnswering(long model, long session, int maxLength) {
        this.model = model;
        this.session = session;
        this.maxLength = maxLength;
    }

    /** A part of the passage that the tokenizer treats by itself, and its tokens. */
    private static final class Piece {
        final int start;
        final int end;
        final int[] ids;

        Piece(int start, int end, int[] ids) {
            this.start = start;
            this.end = end;
            this.ids = ids;
        }
    }

    Answer answer(String question, String passage) {
        int[] asked = content(question);
        int[][] frame = split(Native.tokenize(model, new byte[0], new byte[0], 0));
        int[] special = frame[0], types = frame[1];
        int room = maxLength - asked.length - special.length;
        List<Piece> pieces = pieces(passage);
        int tokens = 0;
        for (Piece piece : pieces) tokens += piece.ids.length;
        if (tokens == 0) return new Answer("", 0, 0, Float.NEGATIVE_INFINITY);
        if (room < Math.min(tokens, 16)) {
            throw new EdgeBertException(
                    EdgeBertException.Code.INPUT,
                    "a question of " + asked.length + " tokens leaves no room for the passage in a model of " + maxLength);
        }
        int[] ids = new int[tokens], pieceOf = new int[tokens];
        int at = 0;
        for (int p = 0; p < pieces.size(); p++) {
            for (int id : pieces.get(p).ids) {
                ids[at] = id;
                pieceOf[at++] = p;
            }
        }
        Answer best = null;
        for (int start = 0; ; start += Math.max(1, room / 2)) {
            int end = Math.min(tokens, start + room);
            Answer found = inWindow(passage, asked, special, types, ids, start, end, pieces, pieceOf);
            if (best == null || found.score() > best.score()) best = found;
            if (end == tokens) return best;
        }
    }

    /** The best span among the passage's tokens [start, end). */
    private Answer inWindow(
            String passage, int[] asked, int[] special, int[] types, int[] ids, int start, int end,
            List<Piece> pieces, int[] pieceOf) {
        // special: the first token, what stands between the two texts, the last token
        int first = asked.length + special.length - 1;
        int length = first + end - start + 1;
        int[] input = new int[length], kinds = new int[length];
        Arrays.fill(kinds, first, length, types[types.length - 1]);
        input[0] = special[0];
        System.arraycopy(asked, 0, input, 1, asked.length);
        System.arraycopy(special, 1, input, 1 + asked.length, special.length - 2);
        System.arraycopy(ids, start, input, first, end - start);
        input[length - 1] = special[special.length - 1];
        float[] logits = Native.runIds(session, input, kinds, new int[] {length});
        int bestStart = start, bestEnd = start;
        float best = Float.NEGATIVE_INFINITY;
        for (int s = start; s < end; s++) {
            for (int e = s; e < Math.min(end, s + MAX_ANSWER_TOKENS); e++) {
                float score = logits[2 * (first + s - start)] + logits[2 * (first + e - start) + 1];
                if (score > best) {
                    best = score;
                    bestStart = s;
                    bestEnd = e;
                }
            }
        }
        int from = pieces.get(pieceOf[bestStart]).start, to = pieces.get(pieceOf[bestEnd]).end;
        return new Answer(passage.substring(from, to), from, to, best);
    }

    /**
     * The passage in pieces whose tokens are those of the whole. The engine gives no positions, so the finest way
     * of cutting that changes no token is found by trying.
     */
    private List<Piece> pieces(String passage) {
        int[] whole = content(passage);
        // A text longer than the model is cut by the tokenizer: then only its beginning can be compared.
        for (int way = 0; way < 3; way++) {
            List<Piece> pieces = cut(passage, way == 0, way == 2);
            if (startsWith(pieces, whole)) return pieces;
        }
        throw new EdgeBertException(
                EdgeBertException.Code.INPUT, "the tokens of this passage cannot be located in its text");
    }

    private static boolean startsWith(List<Piece> pieces, int[] whole) {
        int at = 0;
        for (Piece piece : pieces) {
            for (int id : piece.ids) {
                if (at == whole.length) return true;
                if (id != whole[at++]) return false;
            }
        }
        return at == whole.length;
    }

    /** Words between white space; {@code fine}: signs by themselves; {@code spaced}: a space belongs to its word. */
    private List<Piece> cut(String text, boolean fine, boolean spaced) {
        List<Piece> pieces = new ArrayList<Piece>();
        int at = 0;
        while (at < text.length()) {
            int point = text.codePointAt(at), next = at + Character.charCount(point);
            if (Character.isWhitespace(point)) {
                at = next;
                continue;
            }
            if (!fine || !isSign(point)) {
                while (next < text.length()) {
                    int more = text.codePointAt(next);
                    if (Character.isWhitespace(more) || fine && isSign(more)) break;
                    next += Character.charCount(more);
                }
            }
            String piece = text.substring(at, next);
            pieces.add(new Piece(at, next, content(spaced && at > 0 ? " " + piece : piece)));
            at = next;
        }
        return pieces;
    }

    private static boolean isSign(int point) {
        return !Character.isLetterOrDigit(point) && Character.getType(point) != Character.NON_SPACING_MARK
                || Character.isIdeographic(point);
    }

    /** Token ids of {@code text} without the special tokens. */
    private int[] content(String text) {
        int[] ids = split(Native.tokenize(model, Utf8.encode(text), null, 0))[0];
        return Arrays.copyOfRange(ids, 1, ids.length - 1);
    }

    private static int[][] split(int[] idsAndTypes) {
        int half = idsAndTypes.length / 2;
        return new int[][] {Arrays.copyOf(idsAndTypes, half), Arrays.copyOfRange(idsAndTypes, half, 2 * half)};
    }
}
