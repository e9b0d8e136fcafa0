package ai.edgebert;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The library on a desktop JVM with the very .so of the APK. Folders come as system properties. */
public class EdgeBertTest {
    private static final File MODEL = new File(System.getProperty("edgebert.model"));
    private static final File GOLDEN = new File(System.getProperty("edgebert.golden"));

    @Rule public TemporaryFolder folder = new TemporaryFolder();

    private static EdgeBert open() {
        return EdgeBert.open(MODEL, 1);
    }

    private interface Action {
        void run() throws Exception;
    }

    private static EdgeBertException expect(EdgeBertException.Code code, Action action) throws Exception {
        try {
            action.run();
        } catch (EdgeBertException error) {
            assertEquals(error.getMessage(), code, error.code());
            assertFalse(error.getMessage().isEmpty());
            assertFalse(error.hint().isEmpty());
            return error;
        }
        fail("expected " + code);
        return null;
    }

    private static byte[] read(File file) throws IOException {
        byte[] bytes = new byte[(int) file.length()];
        InputStream in = new FileInputStream(file);
        try {
            int at = 0;
            for (int count; at < bytes.length && (count = in.read(bytes, at, bytes.length - at)) > 0; ) at += count;
        } finally {
            in.close();
        }
        return bytes;
    }

    private File write(byte[] bytes, String name) throws IOException {
        File file = new File(folder.getRoot(), name);
        FileOutputStream out = new FileOutputStream(file);
        out.write(bytes);
        out.close();
        return file;
    }

    private static SelfTest selfTest(EdgeBert model) throws IOException {
        InputStream golden = new FileInputStream(GOLDEN);
        try {
            return SelfTest.run(model, golden);
        } finally {
            golden.close();
        }
    }

    @Test
    public void goldenExamplesComeOutBitForBit() throws Exception {
        for (int threads = 1; threads <= 3; threads++) {
            EdgeBert model = EdgeBert.open(MODEL, threads);
            SelfTest test = selfTest(model);
            assertNull(test.firstDifference());
            assertTrue(test.passed());
            assertTrue(test.examples() >= 10);
            model.close();
        }
    }

    @Test
    public void aWrongGoldenFileIsNoticed() throws Exception {
        byte[] golden = read(GOLDEN);
        String text = new String(golden, Utf8.CHARSET).replaceFirst("0x1\\.", "0x1.8");
        EdgeBert model = open();
        SelfTest test = SelfTest.run(model, new ByteArrayInputStream(text.getBytes(Utf8.CHARSET)));
        assertFalse(test.passed());
        assertEquals(test.examples() - 1, test.equalBits());
        assertNotNull(test.firstDifference());
        expect(EdgeBertException.Code.FORMAT, () -> SelfTest.run(model, new ByteArrayInputStream("{".getBytes())));
        assertFalse(SelfTest.run(model, new ByteArrayInputStream(new byte[0])).passed());
        model.close();
    }

    @Test
    public void classesAreRankedAndAddUpToOne() {
        EdgeBert model = open();
        List<Label> labels = model.classify("turn on the light in the kitchen");
        assertEquals(model.labels().size(), labels.size());
        float total = 0;
        for (int i = 0; i < labels.size(); i++) {
            total += labels.get(i).probability();
            assertEquals(model.labels().get(labels.get(i).index()), labels.get(i).name());
            if (i > 0) assertTrue(labels.get(i - 1).probability() >= labels.get(i).probability());
        }
        assertEquals(1, total, 1e-4);
        assertEquals(Task.CLASSIFICATION, model.task());
        model.close();
    }

    @Test
    public void oddTextsAreAnswered() {
        EdgeBert model = open();
        char[] long_ = new char[100000];
        Arrays.fill(long_, 'x');
        char[] words = new char[100000];
        for (int i = 0; i < words.length; i++) words[i] = i % 5 == 4 ? ' ' : (char) ('a' + i % 26);
        String[] texts = {"", " ", "\u0000", "\ud800", "a\udc00b", "\ud83d\ude00", "\uFFFD", new String(long_), new String(words)};
        for (String text : texts) {
            for (float logit : model.logits(text, null)) assertFalse(Float.isNaN(logit) || Float.isInfinite(logit));
            assertTrue(model.tokenIds(text, null).length <= model.maxLength());
        }
        assertArrayEquals(model.tokenIds("a\ufffdb", null), model.tokenIds("a\udc00b", null));
        model.close();
    }

    @Test
    public void threadsShareOneModel() throws Exception {
        final EdgeBert model = open();
        final float[] expected = model.logits("is it raining", null);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        final List<Throwable> wrong = Collections.synchronizedList(new ArrayList<Throwable>());
        for (int i = 0; i < 4; i++) {
            pool.execute(() -> {
                try {
                    for (int run = 0; run < 50; run++) assertArrayEquals(expected, model.logits("is it raining", null), 0);
                } catch (Throwable error) {
                    wrong.add(error);
                }
            });
        }
        pool.shutdown();
        assertTrue(pool.awaitTermination(60, java.util.concurrent.TimeUnit.SECONDS));
        assertEquals(Collections.emptyList(), wrong);
        model.close();
    }

    @Test
    public void asynchronousCallsAnswerOrFailOnTheExecutor() throws Exception {
        EdgeBert model = open();
        ExecutorService executor = Executors.newSingleThreadExecutor();
        final List<Object> answers = Collections.synchronizedList(new ArrayList<Object>());
        for (int i = 0; i < 2; i++) {
            final CountDownLatch done = new CountDownLatch(1);
            model.classify("lights off", executor, new Callback<List<Label>>() {
                @Override
                public void onResult(List<Label> result) {
                    answers.add(result.get(0).name());
                    done.countDown();
                }

                @Override
                public void onError(EdgeBertException error) {
                    answers.add(error.code());
                    done.countDown();
                }
            });
            done.await();
            model.close();
        }
        executor.shutdown();
        assertEquals(EdgeBertException.Code.CLOSED, answers.get(1));
        assertTrue(answers.get(0) instanceof String);
    }

    @Test
    public void closingWhileOthersCallEndsInResultsOrClosed() throws Exception {
        for (int round = 0; round < 20; round++) {
            final EdgeBert model = open();
            final List<Throwable> wrong = Collections.synchronizedList(new ArrayList<Throwable>());
            Thread[] threads = new Thread[3];
            for (int i = 0; i < threads.length; i++) {
                threads[i] = new Thread(() -> {
                    try {
                        for (int run = 0; run < 20; run++) model.logits("hello", null);
                    } catch (EdgeBertException error) {
                        if (error.code() != EdgeBertException.Code.CLOSED) wrong.add(error);
                    } catch (Throwable error) {
                        wrong.add(error);
                    }
                });
                threads[i].start();
            }
            model.close();
            model.close();
            for (Thread thread : threads) thread.join();
            assertEquals(Collections.emptyList(), wrong);
        }
    }

    @Test
    public void misuseIsTold() throws Exception {
        EdgeBert model = open();
        expect(EdgeBertException.Code.ARGUMENT, () -> model.classify(null));
        expect(EdgeBertException.Code.WRONG_TASK, () -> model.embed("text"));
        expect(EdgeBertException.Code.WRONG_TASK, () -> model.answer("question", "passage"));
        model.close();
        model.close();
        expect(EdgeBertException.Code.CLOSED, () -> model.classify("text"));
        expect(EdgeBertException.Code.CLOSED, () -> model.tokenIds("text", null));
        assertFalse(model.labels().isEmpty());
        expect(EdgeBertException.Code.IO, () -> EdgeBert.open(new File("/nowhere/model.gguf"), 1));
        expect(EdgeBertException.Code.IO, () -> EdgeBert.open(new File("a\u0000b"), 1));
        expect(EdgeBertException.Code.IO, () -> EdgeBert.open(folder.getRoot(), 1));
        expect(EdgeBertException.Code.ARGUMENT, () -> EdgeBert.open(MODEL, 0));
        expect(EdgeBertException.Code.ARGUMENT, () -> EdgeBert.open(MODEL, 1 << 20));
        expect(EdgeBertException.Code.ARGUMENT, () -> Native.createSession(0, 1));
    }

    @Test
    public void damagedModelsAreRefusedWithoutACrash() throws Exception {
        byte[] good = read(MODEL);
        expect(EdgeBertException.Code.FORMAT, () -> EdgeBert.open(write(new byte[0], "empty"), 1));
        expect(EdgeBertException.Code.FORMAT, () -> EdgeBert.open(write("no model".getBytes(), "text"), 1));
        expect(EdgeBertException.Code.FORMAT, () -> EdgeBert.open(write(Arrays.copyOf(good, good.length / 2), "half"), 1));
        byte[] version = good.clone();
        version[4] = 99;
        EdgeBertException error = null;
        try {
            EdgeBert.open(write(version, "version"), 1).close();
        } catch (EdgeBertException refused) {
            error = refused;
        }
        assertNotNull(error);
        assertSame(EdgeBertException.Code.VERSION, error.code());
        Random random = new Random(0);
        for (int round = 0; round < 200; round++) {
            byte[] damaged = good.clone();
            int header = Math.min(damaged.length, 1 << 16);
            for (int i = 0; i <= random.nextInt(4); i++) damaged[random.nextInt(header)] = (byte) random.nextInt();
            try {
                EdgeBert model = EdgeBert.open(write(damaged, "damaged"), 1);
                if (model.task() == Task.CLASSIFICATION) model.logits("a text", null);
                model.close();
            } catch (EdgeBertException refused) {
                assertFalse(refused.getMessage().isEmpty());
            }
        }
    }

    @Test
    public void findingsOfTheFuzzersDoNotCrash() throws Exception {
        String corpus = System.getProperty("edgebert.corpus", "");
        File[] files = corpus.isEmpty() ? new File[0] : new File(corpus).listFiles();
        assertTrue("the corpus has to be there", files != null && files.length > 0);
        for (File file : files) {
            try {
                EdgeBert.open(file, 1).close();
            } catch (EdgeBertException refused) {
                assertFalse(refused.getMessage().isEmpty());
            }
        }
    }

    @Test
    public void assetsAreMappedWhenAlignedAndCopiedOtherwise() throws Exception {
        byte[] good = read(MODEL);
        for (int shift : new int[] {0, 1, 4, 64}) {
            byte[] apk = new byte[good.length + shift + 7];
            System.arraycopy(good, 0, apk, shift, good.length);
            Native.load();
            FileChannel channel = new FileInputStream(write(apk, "apk" + shift)).getChannel();
            ModelBytes bytes = ModelBytes.ofRange(channel, shift, good.length);
            channel.close();
            EdgeBert model = EdgeBert.open(bytes, 1);
            assertEquals(shift % 4 == 0, model.isMapped());
            assertTrue(selfTest(model).passed());
            model.close();
        }
        FileChannel channel = new FileInputStream(MODEL).getChannel();
        expect(EdgeBertException.Code.FORMAT, () -> ModelBytes.ofRange(channel, 0, 0));
        channel.close();
    }

    @Test
    public void benchmarkCountsItsRuns() throws Exception {
        EdgeBert model = open();
        Benchmark benchmark = Benchmark.run(model, "hello", 1, 10);
        assertEquals(10, benchmark.runs());
        assertTrue(benchmark.milliseconds(0) > 0);
        assertTrue(benchmark.milliseconds(0.5) <= benchmark.milliseconds(0.9));
        expect(EdgeBertException.Code.ARGUMENT, () -> Benchmark.run(model, "hello", 0, 0));
        model.close();
    }

    @Test
    public void theEngineSaysWhatItIs() {
        assertFalse(EdgeBert.version().isEmpty());
        assertFalse(EdgeBert.kernels().isEmpty());
    }
}
