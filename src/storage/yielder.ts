/** Lets long work share the event loop: `if (yielder.due()) await yielder.yield()` every few dozen steps. */
import { setImmediate as nextTurn } from "node:timers/promises";

/** How long work may run before it gives way, in milliseconds. */
const SLICE_MS = 3;

export class Yielder {
  private sliceStart = performance.now();

  /** True once the slice is used up. Takes about 40 ns. */
  due(): boolean {
    return performance.now() - this.sliceStart >= SLICE_MS;
  }

  /** Runs what else is waiting, input and output included. */
  async yield(): Promise<void> {
    await nextTurn();
    this.sliceStart = performance.now();
  }
}
