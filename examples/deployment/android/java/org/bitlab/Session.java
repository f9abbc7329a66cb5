package org.bitlab;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * A network that is loaded, and what a run of it needs. Any thread may use one, one at a time: methods wait for each other.
 *
 * <pre>{@code
 * try (Session session = Session.load(bytesOfTheBitFile, 1)) {
 *     FloatBuffer image = Tensor.floats(28 * 28);
 *     // ... fill it
 *     session.run(new Tensor(image, 1, 1, 28, 28));
 *     FloatBuffer logits = session.output(0);
 * }
 * }</pre>
 *
 * Errors: BitlabException, what the library says; IllegalArgumentException, a buffer that it cannot read; IllegalStateException, after close().
 */
public final class Session implements AutoCloseable {
    static {
        System.loadLibrary("bitlab_jni");
    }

    private long handle;
    private final Port[] inputs;
    private final Port[] outputs;

    private Session(long handle) {
        this.handle = handle;
        inputs = ports(handle, false);
        outputs = ports(handle, true);
    }

    /** From a .bit file. threads: 0 for all cores. */
    public static Session load(String path, int threads) {
        return load(path.getBytes(StandardCharsets.UTF_8), true, threads);
    }

    /** From the bytes of a .bit file, such as an asset. */
    public static Session load(byte[] bytes, int threads) {
        return load(bytes, false, threads);
    }

    private static Session load(byte[] bytes, boolean isPath, int threads) {
        long[] handle = new long[1];
        check(load(bytes, isPath, threads, handle));
        return new Session(handle[0]);
    }

    /** In the order of the file. */
    public Port[] inputs() {
        return inputs.clone();
    }

    public Port[] outputs() {
        return outputs.clone();
    }

    /** A text that the file carries ("model", "image", ...), or null. */
    public synchronized String metadata(String key) {
        return text(metadata(opened(), key.getBytes(StandardCharsets.UTF_8)));
    }

    /** Runs the inputs, in the order of inputs(). */
    public synchronized void run(Tensor... tensors) {
        long open = opened();
        if (tensors.length != inputs.length) {
            throw new IllegalArgumentException("[jni] " + inputs.length + " inputs, got " + tensors.length);
        }
        Buffer[] buffers = new Buffer[tensors.length];
        long[] offsets = new long[tensors.length];
        long[][] shapes = new long[tensors.length][];
        int[] dtypes = new int[tensors.length];
        for (int i = 0; i < tensors.length; i++) {
            Port.DType dtype = inputs[i].dtype;
            long bytes = Math.multiplyExact(elements(tensors[i].shape), (long) dtype.bytes);
            buffers[i] = tensors[i].data;
            offsets[i] = offset(buffers[i], dtype, bytes, inputs[i].name);
            shapes[i] = tensors[i].shape;
            dtypes[i] = dtype.ordinal();
        }
        check(run(open, buffers, offsets, shapes, dtypes));
    }

    /** The shape of an output of the last run. */
    public synchronized long[] outputShape(int place) {
        long[] shape = shapeOfOutput(opened(), place);
        if (shape == null) {
            throw new BitlabException(2, text(lastError()));
        }
        return shape;
    }

    /** A float32 output of the last run, in a buffer of its own. */
    public synchronized FloatBuffer output(int place) {
        FloatBuffer to = Tensor.floats(Math.toIntExact(elements(outputShape(place))));
        copyOutput(place, to);
        return to;
    }

    /** Copies an output of the last run, of whatever type, to a buffer's position. */
    public synchronized void copyOutput(int place, Buffer to) {
        Port.DType dtype = outputs[Math.min(Math.max(place, 0), outputs.length - 1)].dtype;
        long bytes = Math.multiplyExact(elements(outputShape(place)), (long) dtype.bytes);
        if (to.isReadOnly()) {
            throw new IllegalArgumentException("[jni] a buffer that can be written, got a read-only one");
        }
        check(copyOutput(opened(), place, to, offset(to, dtype, bytes, outputs[place].name), bytes));
    }

    /** Of a network with states: forgets all tokens. */
    public synchronized void reset() {
        check(reset(opened()));
    }

    /** Frees the native memory, once. */
    @Override
    public synchronized void close() {
        long open = handle;
        handle = 0;
        if (open != 0) {
            free(open);
        }
    }

    private long opened() {
        if (handle == 0) {
            throw new IllegalStateException("[jni] an open session, got one that is closed");
        }
        return handle;
    }

    private static void check(int status) {
        if (status != 0) {
            throw new BitlabException(status, text(lastError()));
        }
    }

    private static String text(byte[] utf8) {
        return utf8 == null ? null : new String(utf8, StandardCharsets.UTF_8);
    }

    private static long elements(long[] shape) {
        long count = 1;
        for (long size : shape) {
            if (size < 0) {
                throw new IllegalArgumentException("[jni] sizes of 0 or more, got " + Arrays.toString(shape));
            }
            count = Math.multiplyExact(count, size);
        }
        return count;
    }

    // Where the elements begin in the buffer's memory, in bytes: native code reads that memory unchecked.
    private static long offset(Buffer buffer, Port.DType dtype, long bytes, String name) {
        int unit;
        ByteOrder order;
        Port.DType held = dtype;
        if (buffer instanceof FloatBuffer) {
            held = Port.DType.FLOAT32;
            order = ((FloatBuffer) buffer).order();
            unit = 4;
        } else if (buffer instanceof LongBuffer) {
            held = Port.DType.INT64;
            order = ((LongBuffer) buffer).order();
            unit = 8;
        } else if (buffer instanceof IntBuffer) {
            held = Port.DType.INT32;
            order = ((IntBuffer) buffer).order();
            unit = 4;
        } else if (buffer instanceof ByteBuffer) {
            order = ByteOrder.nativeOrder(); // bytes lie as they are
            unit = 1;
        } else {
            throw new IllegalArgumentException("[jni] floats, longs, ints or bytes, got another buffer (value=" + name + ")");
        }
        if (!buffer.isDirect() || order != ByteOrder.nativeOrder()) {
            throw new IllegalArgumentException("[jni] a direct buffer in the machine's byte order, got another (value=" + name + ")");
        }
        if (held != dtype) {
            throw new IllegalArgumentException("[jni] a buffer of " + dtype + ", got one of " + held + " (value=" + name + ")");
        }
        long remaining = (long) buffer.remaining() * unit;
        if (remaining < bytes) {
            throw new IllegalArgumentException("[jni] " + bytes + " bytes by the shape, got " + remaining + " (value=" + name + ")");
        }
        return (long) buffer.position() * unit;
    }

    private static Port[] ports(long handle, boolean isOutput) {
        Port[] ports = new Port[count(handle, isOutput)];
        for (int i = 0; i < ports.length; i++) {
            long[] shape = shape(handle, isOutput, i);
            String[] dims = new String[shape.length];
            for (int d = 0; d < dims.length; d++) {
                dims[d] = text(dim(handle, isOutput, i, d));
            }
            ports[i] = new Port(text(name(handle, isOutput, i)), Port.DType.values()[dtype(handle, isOutput, i)], shape, dims);
        }
        return ports;
    }

    private static native int load(byte[] bytes, boolean isPath, int threads, long[] handle);
    private static native void free(long handle);
    private static native byte[] lastError();
    private static native int count(long handle, boolean isOutput);
    private static native byte[] name(long handle, boolean isOutput, int place);
    private static native int dtype(long handle, boolean isOutput, int place);
    private static native long[] shape(long handle, boolean isOutput, int place);
    private static native byte[] dim(long handle, boolean isOutput, int place, int dim);
    private static native byte[] metadata(long handle, byte[] key);
    private static native int run(long handle, Buffer[] buffers, long[] offsets, long[][] shapes, int[] dtypes);
    private static native long[] shapeOfOutput(long handle, int place);
    private static native int copyOutput(long handle, int place, Buffer to, long offset, long bytes);
    private static native int reset(long handle);
}
