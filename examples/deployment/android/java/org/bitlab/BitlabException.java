package org.bitlab;

/** What the library refuses, with its message: what was expected and what was found. */
public final class BitlabException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** The group of the error: 2 input, 3 file, 4 capability, 5 internal (bitlab.h). */
    public final int status;

    BitlabException(int status, String message) {
        super(message);
        this.status = status;
    }
}
