package org.bitlab;

/** What a network takes or gives. */
public final class Port {
    /** Types of elements, by the numbers that bitlab.h has for them. */
    public enum DType {
        FLOAT32(4), FLOAT16(2), BFLOAT16(2), INT64(8), INT32(4), BOOL(1);

        /** Of an element. */
        public final int bytes;

        DType(int bytes) {
            this.bytes = bytes;
        }
    }

    public final String name;
    public final DType dtype;
    /** -1 where a size differs from run to run. */
    public final long[] shape;
    /** The sizes as texts: "28", "batch", "2*tokens". */
    public final String[] dims;

    Port(String name, DType dtype, long[] shape, String[] dims) {
        this.name = name;
        this.dtype = dtype;
        this.shape = shape;
        this.dims = dims;
    }
}
