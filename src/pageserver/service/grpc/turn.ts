/**
 * A turn of the event loop: everything that is called back for bytes that have arrived, for all connections. Callbacks
 * come one frame at a time, so only at the end of a turn is it known what has come together.
 */
export class Turn {
  private isPlanned = false;
  private count = 0;
  private waiting: (() => void)[] = [];

  /** Which turn this is. */
  now(): number {
    if (!this.isPlanned) {
      this.isPlanned = true;
      setImmediate(() => this.next());
    }
    return this.count;
  }

  /** Resolves when it has ended. */
  end(): Promise<void> {
    this.now();
    return new Promise((resolve) => {
      this.waiting.push(resolve);
    });
  }

  private next(): void {
    this.isPlanned = false;
    this.count++;
    const { waiting } = this;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}
