/**
 * Answers of requests that take long: one JSON object per line, as the work goes on. Lines of progress come now and
 * then; the last line is the result or the error. When the client goes away, the work is told to stop.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { errorBody, toNeonError } from "./http-errors.ts";
import type { Answer } from "./request.ts";

/** Pause between two lines of progress, which also tell the client that we are alive. */
const PROGRESS_INTERVAL_MS = 300;

export interface LongWork {
  /** Aborted when nobody waits for the result any more. */
  readonly signal: AbortSignal;
  /** What to say next; only the latest is sent. */
  readonly progress: (value: object) => void;
}

/** Begins the work when the answer is being sent. */
export function jsonLines(work: (context: LongWork) => Promise<object>): Answer {
  return {
    kind: "stream",
    headers: { "content-type": "application/x-ndjson", "cache-control": "no-store" },
    stream: linesOf(work),
  };
}

async function* linesOf(work: (context: LongWork) => Promise<object>): AsyncGenerator<Uint8Array> {
  const abort = new AbortController();
  let latest: object = {};
  const running = work({
    signal: abort.signal,
    progress: (value) => {
      latest = value;
    },
  }).then(
    (result) => ({ result }),
    (error: unknown) => errorBody(toNeonError(error)),
  );
  try {
    for (;;) {
      const pause = new AbortController();
      const timer = sleep(PROGRESS_INTERVAL_MS, undefined, { signal: pause.signal }).catch(() => undefined);
      const last = await Promise.race([running, timer]);
      pause.abort();
      if (last !== undefined) {
        yield line(last);
        return;
      }
      yield line({ progress: latest });
    }
  } finally {
    abort.abort(new Error("nobody waits for the answer"));
    await running;
  }
}

function line(value: object): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value)}\n`);
}
