import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Paths;
import org.bitlab.Port;
import org.bitlab.Session;
import org.bitlab.Tensor;

/** Tells the digit of a picture: java Classify lenet5.bit digit.gray, with 28 x 28 bytes of grey in the second file. */
public final class Classify {
    public static void main(String[] arguments) throws IOException {
        byte[] grey = Files.readAllBytes(Paths.get(arguments[1]));
        try (Session session = Session.load(Files.readAllBytes(Paths.get(arguments[0])), 1)) {
            Port input = session.inputs()[0];
            System.out.println(input.name + " " + input.dtype + " [" + String.join(", ", input.dims) + "] of " + session.metadata("model"));
            FloatBuffer image = Tensor.floats(28 * 28);
            for (byte pixel : grey) {
                image.put(((pixel & 255) / 255.0f - 0.2f) / 0.35f); // as in training: session.metadata("image")
            }
            image.flip();
            session.run(new Tensor(image, 1, 1, 28, 28));
            FloatBuffer logits = session.output(0);
            int best = 0;
            for (int i = 0; i < logits.remaining(); i++) {
                System.out.println(i + ": " + Float.toHexString(logits.get(i)));
                best = logits.get(i) > logits.get(best) ? i : best;
            }
            System.out.println("a " + best);
        }
    }
}
