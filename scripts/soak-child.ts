/**
 * The process in which one round of the soak runs, so that whatever becomes of it, the soak goes on and can clean up.
 * Started by soak-processes.ts; it gets what to do as JSON and tells its parent how far it is.
 */
import { planRound } from "./soak-plan.ts";
import { type RoundResult, runRound } from "./soak-round.ts";

/** What a child tells its parent. */
export type ChildMessage =
  | { readonly kind: "progress"; readonly what: string }
  | { readonly kind: "equal"; readonly result: RoundResult }
  | { readonly kind: "failed"; readonly error: string };

async function tell(message: ChildMessage): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  process.send?.(message, undefined, undefined, (error) => {
    if (error) reject(error);
    else resolve();
  });
  await promise;
}

const { untilMs, ...choice } = JSON.parse(process.argv[2] ?? "") as Parameters<typeof planRound>[0] & {
  untilMs: number;
};
let stopped = false;
process.on("message", () => (stopped = true));
// Without its parent nobody wants to know.
process.on("disconnect", () => process.exit(1));

const { plan, random } = planRound(choice);
try {
  const result = await runRound(plan, random, {
    isOver: () => stopped || Date.now() > untilMs,
    progress: (what) => {
      tell({ kind: "progress", what }).catch(() => undefined);
    },
  });
  await tell({ kind: "equal", result });
} catch (error) {
  await tell({
    kind: "failed",
    error: error instanceof Error ? (error.stack ?? error.message) : String(error),
  });
} finally {
  process.removeAllListeners("disconnect");
  process.disconnect();
}
