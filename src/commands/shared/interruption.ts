/**
 * One Ctrl-C may arrive twice, from the terminal and from the process that started us; what comes within this time is
 * not a second one. Milliseconds.
 */
const SAME_MS = 300;

/**
 * Ctrl-C and SIGTERM. A command that has something to clean up asks for the abort signal and ends by itself when it
 * is aborted; any other command, and any command at the second Ctrl-C, ends at once.
 */
export class Interruption implements Disposable {
  /** The signal that came, if one did. */
  received: NodeJS.Signals | undefined;
  private receivedAt = 0;
  private cooperative = false;
  private readonly controller = new AbortController();
  private readonly endNow: (signal: NodeJS.Signals) => never;
  private readonly listener: (signal: NodeJS.Signals) => void;

  /** `endNow` reports and exits. */
  constructor(endNow: (signal: NodeJS.Signals) => never) {
    this.endNow = endNow;
    this.listener = (signal) => this.interrupt(signal);
    for (const signal of SIGNALS) process.on(signal, this.listener);
  }

  /** Whoever asks for it promises to end soon after it is aborted. */
  get signal(): AbortSignal {
    this.cooperative = true;
    return this.controller.signal;
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) process.off(signal, this.listener);
  }

  private interrupt(signal: NodeJS.Signals): void {
    const now = performance.now();
    if (this.received !== undefined && now - this.receivedAt < SAME_MS) return;
    if (this.received !== undefined || !this.cooperative) this.endNow(signal);
    this.received = signal;
    this.receivedAt = now;
    this.controller.abort(new Error(`interrupted by ${signal}`));
  }
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
