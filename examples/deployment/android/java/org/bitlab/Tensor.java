package org.bitlab;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;

/**
 * Elements between the position and the limit of a direct buffer in the machine's byte order, row-major; images are [batch, channels, height, width].
 * A FloatBuffer holds float32, a LongBuffer int64, an IntBuffer int32, and a ByteBuffer any type as it lies in memory.
 */
public final class Tensor {
    final Buffer data;
    final long[] shape;

    public Tensor(Buffer data, long... shape) {
        this.data = data;
        this.shape = shape.clone();
    }

    /** A direct buffer of so many floats. */
    public static FloatBuffer floats(int count) {
        return ByteBuffer.allocateDirect(Math.multiplyExact(count, 4)).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }
}
