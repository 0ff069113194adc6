package org.apache.beam.runners.fnexecution.control;

import java.io.IOException;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.BundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.runners.core.StateInternalsFactory;
import org.apache.beam.runners.core.StateNamespace;
import org.apache.beam.runners.core.StateNamespaces;
import org.apache.beam.runners.core.StateTags;
import org.apache.beam.runners.core.TimerInternalsFactory;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Duration;
import org.joda.time.Instant;

/**
 * Replaces Beam's class of the same name in a job server older than Beam 2.76.
 *
 * <p>Those versions store each deferred part of a read in a state with a new name (apache/beam issue 27648). Flink never
 * forgets the name of a state, so a live job uses more heap and writes longer checkpoints with each bundle of its source:
 * some 80 kB per state on the heap, a column family per state in RocksDB. This class reuses a few names.
 */
public class BundleCheckpointHandlers {

  public static class StateAndTimerBundleCheckpointHandler<T> implements BundleCheckpointHandler {

    public static final String SDF_PREFIX = "sdf_checkpoint";

    /** One reader at a time reads an element, so its key never has more than two states at once. */
    private static final int NAMES = 16;

    private final TimerInternalsFactory<T> timers;
    private final StateInternalsFactory<T> states;
    private final Coder<WindowedValue<T>> coder;
    private final Coder<BoundedWindow> windowCoder;
    private int next;

    @SuppressWarnings("unchecked")
    public StateAndTimerBundleCheckpointHandler(
        TimerInternalsFactory<T> timers,
        StateInternalsFactory<T> states,
        Coder<WindowedValue<T>> coder,
        @SuppressWarnings("rawtypes") Coder windowCoder) {
      this.timers = timers;
      this.states = states;
      this.coder = coder;
      this.windowCoder = windowCoder;
    }

    /** Whether this class has set a timer; called by Beam's operator. */
    public static boolean isSdfTimer(String timerId) {
      return timerId.startsWith(SDF_PREFIX);
    }

    @Override
    public void onCheckpoint(ProcessBundleResponse response) {
      for (DelayedBundleApplication rest : response.getResidualRootsList()) {
        if (rest.hasApplication()) {
          putOff(rest);
        }
      }
    }

    private void putOff(DelayedBundleApplication rest) {
      String name = SDF_PREFIX + ":" + next;
      next = (next + 1) % NAMES;
      Duration delay = rest.getRequestedTimeDelay();
      WindowedValue<T> value = decode(rest.getApplication());
      Instant when = Instant.now().plus(millis(delay.getSeconds(), delay.getNanos()));
      Instant hold = new Instant(outputWatermark(rest.getApplication()));
      for (BoundedWindow window : value.getWindows()) {
        StateNamespace namespace = StateNamespaces.window(windowCoder, window);
        timers
            .timerInternalsForKey(value.getValue())
            .setTimer(namespace, name, "", when, hold, TimeDomain.PROCESSING_TIME);
        states
            .stateInternalsForKey(value.getValue())
            .state(namespace, StateTags.value(name, coder))
            .write(
                WindowedValues.of(value.getValue(), value.getTimestamp(), window, value.getPaneInfo()));
      }
    }

    private WindowedValue<T> decode(BundleApplication application) {
      try {
        return CoderUtils.decodeFromByteArray(coder, application.getElement().toByteArray());
      } catch (IOException error) {
        throw new IllegalStateException("cannot decode what is left of a read", error);
      }
    }

    /** Lower bound of the timestamps that the rest of a read can emit, milliseconds. */
    private static long outputWatermark(BundleApplication application) {
      return application.getOutputWatermarksMap().values().stream()
          .mapToLong(watermark -> millis(watermark.getSeconds(), watermark.getNanos()))
          .min()
          .orElse(BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis());
    }

    private static long millis(long seconds, int nanos) {
      return seconds * 1000 + nanos / 1_000_000;
    }
  }
}
