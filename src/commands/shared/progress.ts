/**
 * Progress on stderr. On a terminal one line that is drawn again and again; elsewhere a line for each step that lasts
 * longer than a moment, and one every ten seconds while it goes on. Silent with --json, so that logs of scripts stay clean.
 */
import { formatBytes, paint } from "./output.ts";

const TERMINAL_INTERVAL_MS = 120;
/** A step that is over sooner is not worth a line in a log. */
const LOG_FIRST_MS = 800;
const LOG_INTERVAL_MS = 10_000;
const FRAMES = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"] as const;

export class Progress implements Disposable {
  private readonly silent: boolean;
  private readonly live: boolean;
  private readonly startedAt = performance.now();
  private step = "";
  private stepStartedAt = 0;
  private doneBytes = 0;
  private totalBytes: number | undefined;
  private frame = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(options: { silent: boolean }) {
    this.silent = options.silent;
    this.live = process.stderr.isTTY && process.env["TERM"] !== "dumb" && !process.env["CI"];
  }

  /** Begins a step, `loading main into the pageserver`; ends the one before. */
  begin(step: string, totalBytes?: number): void {
    this.end();
    this.step = step;
    this.totalBytes = totalBytes;
    this.doneBytes = 0;
    this.stepStartedAt = performance.now();
    if (this.silent) return;
    this.schedule(this.live ? TERMINAL_INTERVAL_MS : LOG_FIRST_MS);
  }

  /** Counts bytes of the current step. */
  advance(sizeBytes: number): void {
    this.doneBytes += sizeBytes;
  }

  /** Says how far the current step is. */
  set(doneBytes: number, totalBytes: number | undefined): void {
    this.doneBytes = doneBytes;
    this.totalBytes = totalBytes;
  }

  /** Milliseconds since the first step. */
  get elapsedMs(): number {
    return performance.now() - this.startedAt;
  }

  /** Ends the current step and clears its line. */
  end(): void {
    if (this.timer === undefined) return;
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.live) process.stderr.write("\r\u001b[2K");
  }

  /** Clears the line so that something else can be printed; the next drawing brings it back. */
  pause(): void {
    if (this.live && this.timer !== undefined) process.stderr.write("\r\u001b[2K");
  }

  [Symbol.dispose](): void {
    this.end();
  }

  private schedule(delayMs: number): void {
    this.timer = setTimeout(() => {
      this.draw();
      this.schedule(this.live ? TERMINAL_INTERVAL_MS : LOG_INTERVAL_MS);
    }, delayMs);
    this.timer.unref();
  }

  private draw(): void {
    const text = `${this.step}${this.measure()}`;
    if (!this.live) {
      process.stderr.write(`${text}\n`);
      return;
    }
    const frame = FRAMES[this.frame++ % FRAMES.length] ?? "";
    const width = Math.max(20, (process.stderr.columns ?? 80) - 3);
    process.stderr.write(`\r\u001b[2K${paint("cyan", frame, process.stderr)} ${text.slice(0, width)}`);
  }

  private measure(): string {
    const seconds = (performance.now() - this.stepStartedAt) / 1000;
    if (this.doneBytes === 0) return this.live && seconds < 2 ? "" : `, ${seconds.toFixed(0)} s`;
    const rate = this.doneBytes / seconds;
    const base = `, ${formatBytes(this.doneBytes)}`;
    if (this.totalBytes === undefined) return `${base}, ${formatBytes(rate)}/s`;
    const left = Math.max(0, (this.totalBytes - this.doneBytes) / rate);
    return `${base} of ${formatBytes(this.totalBytes)}, ${formatBytes(rate)}/s, ${left.toFixed(0)} s left`;
  }
}
