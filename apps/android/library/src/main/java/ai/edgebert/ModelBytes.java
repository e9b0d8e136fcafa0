package ai.edgebert;

import android.content.Context;
import android.content.res.AssetFileDescriptor;
import java.io.EOFException;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;

/** A model's bytes in memory, mapped from an APK's assets where its place there allows it. */
final class ModelBytes {
    /** Direct, and kept alive by the model that reads it. */
    final ByteBuffer buffer;
    final long offset;
    final long size;
    /** Whether the bytes are the file's own pages and no copy. */
    final boolean mapped;

    private ModelBytes(ByteBuffer buffer, long offset, long size, boolean mapped) {
        this.buffer = buffer;
        this.offset = offset;
        this.size = size;
        this.mapped = mapped;
    }

    static ModelBytes ofAsset(Context context, String name) {
        AssetFileDescriptor asset = null;
        try {
            asset = context.getAssets().openFd(name);
            return ofRange(new FileInputStream(asset.getFileDescriptor()).getChannel(), asset.getStartOffset(), asset.getLength());
        } catch (FileNotFoundException error) {
            throw missing(context, name, error);
        } catch (IOException error) {
            throw new EdgeBertException(EdgeBertException.Code.IO, "cannot read the asset '" + name + "'", error);
        } finally {
            close(asset);
        }
    }

    /** {@code size} bytes from {@code start} of a file, which may be closed afterwards. */
    static ModelBytes ofRange(FileChannel file, long start, long size) throws IOException {
        if (size <= 0 || size > Integer.MAX_VALUE - Native.ALIGNMENT) {
            throw new EdgeBertException(EdgeBertException.Code.FORMAT, "a model of " + size + " bytes cannot be opened");
        }
        ByteBuffer pages = file.map(FileChannel.MapMode.READ_ONLY, start, size);
        if (Native.bufferAddress(pages) % Native.ALIGNMENT == 0) return new ModelBytes(pages, 0, size, true);
        return copied(pages, size);
    }

    /** An asset that does not start at a multiple of 4 bytes in its APK has to be copied. */
    private static ModelBytes copied(ByteBuffer pages, long size) throws IOException {
        ByteBuffer copy;
        try {
            copy = ByteBuffer.allocateDirect((int) size + Native.ALIGNMENT);
        } catch (OutOfMemoryError error) {
            throw new EdgeBertException(EdgeBertException.Code.MEMORY, "no memory for a model of " + size + " bytes", error);
        }
        int offset = (int) (-Native.bufferAddress(copy) & (Native.ALIGNMENT - 1));
        copy.position(offset);
        copy.put(pages);
        if (copy.position() != offset + size) throw new EOFException("the model ended early");
        return new ModelBytes(copy, offset, size, false);
    }

    /** openFd says the same of an asset that is not there and of one that is compressed. */
    private static EdgeBertException missing(Context context, String name, FileNotFoundException error) {
        try {
            context.getAssets().open(name).close();
        } catch (IOException absent) {
            return new EdgeBertException(EdgeBertException.Code.IO, "there is no asset '" + name + "'", error);
        }
        return new EdgeBertException(
                EdgeBertException.Code.COMPRESSED_ASSET, "the asset '" + name + "' is compressed and cannot be mapped", error);
    }

    private static void close(AssetFileDescriptor asset) {
        if (asset == null) return;
        try {
            asset.close();
        } catch (IOException ignored) {
            // the mapping stays valid without its descriptor
        }
    }
}
